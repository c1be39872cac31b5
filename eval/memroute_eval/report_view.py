"""What the report says, before it is marked up: agents in order, verdict, groups, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memroute_env.taxonomy import Taxonomy
from memroute_eval.calibration import Calibration, calibration_of
from memroute_eval.compare import Difference, compare_agents
from memroute_eval.confusion import Confusion, Swap, confusion_of
from memroute_eval.metrics import Outcomes, bootstrap_counts
from memroute_eval.results import answered_rows, taxonomy_of
from memroute_eval.targets import Check, check_targets

__all__ = [
    "AgentView",
    "CategoryView",
    "ConfusionRow",
    "GroupTable",
    "Verdict",
    "agent_views",
    "category_intervals",
    "category_views",
    "confusion_rows",
    "group_tables",
    "is_reference",
    "swap_rows",
    "verdict_of",
]

REFERENCE_AGENTS = frozenset(("oracle",))
"""Agents that know the answers: shown as a ceiling, never declared the winner."""

MOST_PAIRED = 6
"""Up to so many agents every pair is tested; beyond it, the leader against each other."""

_GROUPS = (
    ("by_difficulty", "Difficulty"),
    ("by_gold_size", "Labels to find"),
    ("by_domain", "Domain"),
)
_DIFFICULTIES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class CategoryView:
    """A category as tables name it."""

    id: str
    name: str
    """The id without its scope, spelt out: `brand core`."""
    scope: str
    description: str


@dataclass(frozen=True)
class ConfusionRow:
    """A gold category's row of the confusion picture; counts may be fractions."""

    category: CategoryView
    support: float
    cells: tuple[tuple[float, int], ...]
    """Count and shade (0 to 10, share of the row) for every answered category."""
    missed: tuple[float, int]


@dataclass(frozen=True)
class AgentView:
    """One agent of the report."""

    name: str
    index: int
    """Position in the report; also which colour it has."""
    reference: bool
    """Knows the answers: a ceiling, not a contestant."""
    data: Mapping[str, Any]
    """Its part of the results."""
    confusion: Confusion
    category_ci95: Mapping[str, tuple[float, float] | None]
    """Bootstrap interval of each category's F1; None where it is undefined."""
    calibration: Calibration | None
    checks: Sequence[Check]

    @property
    def letter(self) -> str:
        """A to Z, then AA and on: tells agents apart where colour does not."""
        index, letters = self.index, ""
        while True:
            letters = chr(65 + index % 26) + letters
            index = index // 26 - 1
            if index < 0:
                return letters


@dataclass(frozen=True)
class Verdict:
    """Who wins, and how sure that is."""

    leader: AgentView
    differences: Sequence[Difference]
    """All tested pairs and metrics."""
    beaten: Sequence[Difference]
    """The leader's significant margins on reward."""
    lost: Sequence[Difference]
    """Its significant deficits: the mean of an agent whose calls failed is over fewer scenarios,
    and on those that both answered the other may be better."""
    tied: Sequence[Difference]
    """The leader's margins on reward that could be chance."""
    all_pairs: bool
    """Whether every pair was tested, or only the leader's."""


@dataclass(frozen=True)
class GroupTable:
    """The agents on the parts of the data."""

    key: str
    title: str
    rows: Sequence[tuple[str, int, Sequence[Mapping[str, Any] | None]]]
    """Name of the part, its examples, and each agent's summary."""


def agent_views(results: Mapping[str, Any]) -> list[AgentView]:
    """The agents, highest reward first, ceilings last."""
    taxonomy = taxonomy_of(results)
    names = sorted(
        results["agents"],
        key=lambda name: (is_reference(name), -results["agents"][name]["reward"], name),
    )
    views = []
    for index, name in enumerate(names):
        agent = results["agents"][name]
        rows = answered_rows(agent)
        outcomes = Outcomes.from_rows(rows, taxonomy)
        views.append(
            AgentView(
                name,
                index,
                is_reference(name),
                agent,
                confusion_of(outcomes),
                category_intervals(outcomes),
                calibration_of(rows),
                check_targets(agent),
            )
        )
    return views


def is_reference(name: str) -> bool:
    """Whether an agent of that name knows the answers."""
    return name.partition(" ")[0] in REFERENCE_AGENTS


def category_intervals(
    outcomes: Outcomes, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float] | None]:
    """95% percentile-bootstrap interval of every category's F1, exclusive category last."""
    hits, predicted, gold = outcomes.category_hits()
    counts = bootstrap_counts(len(outcomes), resamples, seed)
    with np.errstate(invalid="ignore"):
        f1 = 2 * (counts @ hits) / (counts @ (predicted + gold))
    intervals: dict[str, tuple[float, float] | None] = {}
    for category_id, values in zip(outcomes.taxonomy.all_ids, f1.T, strict=True):
        defined = values[~np.isnan(values)]
        low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (0.0, 0.0)
        intervals[category_id] = (float(low), float(high)) if len(defined) else None
    return intervals


def verdict_of(results: Mapping[str, Any], agents: Sequence[AgentView], seed: int = 0) -> Verdict:
    """Test the contestants against one another on reward, F1 and exact match."""
    contestants = [agent for agent in agents if not agent.reference] or list(agents)
    leader, others = contestants[0], contestants[1:]
    all_pairs = len(contestants) <= MOST_PAIRED
    differences: list[Difference] = []
    if others and all_pairs:
        differences = compare_agents(results, [agent.name for agent in contestants], seed=seed)
    elif others:
        # The family that Holm corrects for is the leader's pairs, so they are tested together.
        differences = compare_agents(
            results,
            pairs=[(leader.name, agent.name) for agent in others],
            seed=seed,
        )
    own = [d for d in differences if d.metric == "reward" and d.a == leader.name]
    return Verdict(
        leader,
        differences,
        [d for d in own if d.significant and not _negative(d)],
        [d for d in own if d.significant and _negative(d)],
        [d for d in own if not d.significant],
        all_pairs,
    )


def _negative(difference: Difference) -> bool:
    return difference.difference is not None and difference.difference < 0


def group_tables(agents: Sequence[AgentView]) -> list[GroupTable]:
    """Difficulty, number of labels and domain, each in its natural order."""
    tables = []
    for key, title in _GROUPS:
        sizes: dict[str, int] = {}
        for agent in agents:
            for name, summary in agent.data[key].items():
                sizes[name] = max(sizes.get(name, 0), summary["n"])
        rows = [
            (name, sizes[name], [agent.data[key].get(name) for agent in agents])
            for name in sorted(sizes, key=lambda name: _group_order(key, name, sizes[name]))
        ]
        tables.append(GroupTable(key, title, rows))
    return tables


def _group_order(key: str, name: str, size: int) -> tuple[int, str]:
    if key == "by_difficulty":
        known = name in _DIFFICULTIES
        return (_DIFFICULTIES.index(name) if known else len(_DIFFICULTIES)), name
    if key == "by_gold_size":
        return (int(name) if name.isdigit() else 0), name
    return -size, name


def category_views(taxonomy: Taxonomy) -> list[CategoryView]:
    """The categories in the order of `all_ids`: the exclusive one last."""
    views = []
    for category_id in taxonomy.all_ids:
        category = taxonomy[category_id]
        scope, dot, rest = category_id.partition(".")
        name = (rest if dot else scope).replace("_", " ").replace(".", " ")
        views.append(CategoryView(category_id, name, category.scope, category.description))
    return views


def confusion_rows(
    confusion: Confusion, categories: Sequence[CategoryView]
) -> tuple[list[ConfusionRow], list[tuple[float, int]]]:
    """The confusion picture: a row for each gold category, and what was added without need."""
    rows = []
    for i, category in enumerate(categories):
        counts = confusion.swapped[i].copy()
        counts[i] = confusion.right[i]
        missed = float(confusion.missed[i])
        support = float(counts.sum()) + missed
        rows.append(
            ConfusionRow(
                category,
                support,
                tuple((float(c), _shade(c, support)) for c in counts),
                (missed, _shade(missed, support)),
            )
        )
    added = [
        (float(count), _shade(count, float(confusion.right[i] + confusion.spurious[i])))
        for i, count in enumerate(confusion.spurious)
    ]
    return rows, added


def _shade(count: float, whole: float) -> int:
    """0 for nothing, 1 to 10 for a share of the whole; square root, so that little is visible."""
    return 0 if count < 0.05 or whole <= 0 else max(1, round(10 * (count / whole) ** 0.5))


def swap_rows(agents: Sequence[AgentView], most: int = 8) -> list[tuple[Swap, list[float]]]:
    """The swaps that the first agent makes most, each with every agent's count."""
    table = []
    for swap in agents[0].confusion.top_swaps(most):
        counts = [
            float(
                agent.confusion.swapped[
                    agent.confusion.ids.index(swap.gold), agent.confusion.ids.index(swap.answered)
                ]
            )
            for agent in agents
        ]
        table.append((swap, counts))
    return table
