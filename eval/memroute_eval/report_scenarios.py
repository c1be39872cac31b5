"""The report's scenarios: text of the conversations (where it is to be had) beside the answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from memroute_env.conversation import Example
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.errors import DataError, MemrouteError
from memroute_env.taxonomy import Taxonomy
from memroute_eval.report_view import AgentView

__all__ = ["Answer", "Scenario", "TurnView", "find_examples", "load_measured", "scenarios_of"]

VERDICTS = {
    "exact": "Exactly right",
    "partial": "Partly right",
    "wrong": "Wrong",
    "malformed": "Malformed",
    "failed": "Call failed",
}
"""How an answer may have come out, and what the report calls it."""

MOST_TEXT = 1200
"""Characters of a model's raw answer that are shown."""


@dataclass(frozen=True)
class TurnView:
    """A message of a conversation."""

    number: int
    """From 1."""
    role: str
    content: str
    evidence: Sequence[str]
    """Gold categories that this message shows."""
    distractor: bool


@dataclass(frozen=True)
class Answer:
    """One agent's answer to a scenario."""

    agent: AgentView
    verdict: str
    """A key of `VERDICTS`."""
    chips: Sequence[tuple[str, str]]
    """Category and `right`, `missed` or `spurious`, in taxonomy order."""
    row: Mapping[str, Any]
    text: str = ""
    """What a language model said, shortened."""
    evidence: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Category to the numbers (from 1) of the turns that the agent names."""


@dataclass(frozen=True)
class Scenario:
    """A conversation with its gold answer and what the agents made of it."""

    id: str
    anchor: str
    """Name of the element, for links: letters, digits, dots, dashes and underscores."""
    difficulty: str
    domain: str
    gold: Sequence[str]
    answers: Sequence[Answer]
    turns: Sequence[TurnView] = ()
    rationale: str = ""
    source: str = ""
    gold_places: str = ""
    """Positions of the gold categories in the taxonomy, for the filters: `0,3`."""
    answer_places: str = ""
    """Those of each agent's answer, joined by `|`."""

    @property
    def preview(self) -> str:
        """The beginning of the first message."""
        text = " ".join(self.turns[0].content.split()) if self.turns else ""
        return text if len(text) <= 140 else text[:139] + "…"


def find_examples(
    dataset: Mapping[str, Any],
    folders: Sequence[Path] = (),
    data: Dataset | str | PathLike[str] | None = None,
) -> tuple[dict[str, Example], str]:
    """The examples that results were measured on, if their content hash is the results' own.

    Args:
        dataset: What the results say of their data.
        folders: Where the results came from; searched for the dataset's file.
        data: The dataset or its path, where the caller knows better.

    Returns:
        Examples by id, and an empty string; or no example, and the reason in a sentence.
    """
    name = dataset["name"]
    given = [data] if data is not None else [name, *(f / Path(name).name for f in folders)]
    problem = f"no data called {name!r} were found, neither shipped nor beside the results"
    for candidate in given:
        try:
            found = (
                candidate if isinstance(candidate, Dataset) else load_measured(candidate, dataset)
            )
        except (MemrouteError, OSError) as error:
            # What a results file names may be any file of this machine; its content is no message.
            problem = f"the data cannot be loaded ({error})" if data is not None else problem
            continue
        if found.sha256 == dataset["sha256"]:
            return {example.id: example for example in found}, ""
        problem = (
            f"the data called {name!r} have changed since the results were made "
            f"(sha256 {found.sha256[:12]}, the results were measured on {dataset['sha256'][:12]})"
        )
    return {}, problem


def load_measured(
    candidate: str | PathLike[str], dataset: Mapping[str, Any], taxonomy: str | None = None
) -> Dataset:
    """Load a name or path in the split that results were measured on.

    Args:
        candidate: A dataset's name, a file, or a folder of split files.
        dataset: What the results say of their data.
        taxonomy: Of a path's labels; `marketing` by default.

    Raises:
        DataError: If it cannot be loaded, or is neither file nor folder: a device, a pipe.
    """
    path = Path(candidate)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: is neither a file nor a directory")
    named_split = isinstance(candidate, str) and ":" in candidate and not path.exists()
    split = None if named_split else dataset.get("split") or None
    return load_dataset(candidate, split, taxonomy)


def scenarios_of(
    agents: Sequence[AgentView], taxonomy: Taxonomy, examples: Mapping[str, Example]
) -> list[Scenario]:
    """Every scenario that any agent was asked, in the order of the results."""
    rows = [{row["id"]: row for row in agent.data["examples"]} for agent in agents]
    firsts: dict[str, Mapping[str, Any]] = {}
    for table in rows:
        for scenario_id, row in table.items():
            firsts.setdefault(scenario_id, row)
    place = {category_id: i for i, category_id in enumerate(taxonomy.all_ids)}
    scenarios = []
    for scenario_id, first in firsts.items():
        answers = [
            _answer(agent, table[scenario_id], taxonomy)
            for agent, table in zip(agents, rows, strict=True)
            if scenario_id in table
        ]
        by_agent = {answer.agent.index: answer.row for answer in answers}
        predicted = [by_agent.get(agent.index, {}).get("predicted") or () for agent in agents]
        example = examples.get(scenario_id)
        scenarios.append(
            Scenario(
                scenario_id,
                _anchor(scenario_id),
                first["difficulty"],
                first["domain"],
                taxonomy.ids(taxonomy.mask(first["gold"])),
                answers,
                _turns(example, taxonomy),
                example.labels.rationale if example else "",
                (example.metadata.source or "") if example else "",
                ",".join(str(place[c]) for c in first["gold"]),
                "|".join(",".join(str(place[c]) for c in answer) for answer in predicted),
            )
        )
    return scenarios


def _turns(example: Example | None, taxonomy: Taxonomy) -> list[TurnView]:
    if example is None:
        return []
    evidence = example.labels.evidence
    return [
        TurnView(
            number + 1,
            turn.role,
            turn.content,
            [c for c in taxonomy.all_ids if number in evidence.get(c, ())],
            number in example.metadata.distractors,
        )
        for number, turn in enumerate(example.conversation.turns)
    ]


def _answer(agent: AgentView, row: Mapping[str, Any], taxonomy: Taxonomy) -> Answer:
    gold, predicted = set(row["gold"]), set(row.get("predicted") or ())
    failed = bool(row.get("error"))
    if failed:
        verdict = "failed"
    elif row["malformed"]:
        verdict = "malformed"
    elif gold == predicted:
        verdict = "exact"
    else:
        verdict = "partial" if gold & predicted else "wrong"
    chips = [
        (c, "right" if c in gold and c in predicted else "missed" if c in gold else "spurious")
        for c in taxonomy.all_ids
        if c in gold | predicted
    ]
    text = row.get("text") or ""
    return Answer(
        agent,
        verdict,
        [] if failed else chips,
        row,
        text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…",
        {c: [turn + 1 for turn in turns] for c, turns in (row.get("evidence") or {}).items()},
    )


def _anchor(scenario_id: str) -> str:
    """An id as the name of an element; one that had to be changed carries a piece of its hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", scenario_id)
    if plain == scenario_id:
        return f"s-{plain}"
    digest = hashlib.sha256(scenario_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"s-{plain[:60]}-{digest[:8]}"
