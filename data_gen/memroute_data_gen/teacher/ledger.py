"""What a run has paid for, accepted and refused: each fact in exactly one file.

`OUT` holds the accepted examples, `OUT.rejected.jsonl` every refused draw with its reason, and
`OUT.journal.jsonl` every answer that was paid for, written before it is looked at. Hence a run that
was killed at any moment goes on from the files alone: what is in `OUT` is done, the refusals of an
item say which draw is next, and an answer that is in the journal is not asked for again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memroute_agents.calls import Completion, Price
from memroute_data_gen.teacher.answers import FORMAL, Rejected, RejectReason
from memroute_data_gen.teacher.errors import TeacherError
from memroute_data_gen.teacher.files import AppendFile
from memroute_env.conversation import Example, parse_example
from memroute_env.errors import DataError
from memroute_env.taxonomy import Taxonomy

__all__ = ["Ledger", "PlanKey", "Progress"]

FORMAT = 1
MAX_SCENARIO_USES = 3
"""Draws that one scenario serves before it is given up."""


@dataclass(frozen=True)
class PlanKey:
    """What a resumed run must share with the run that began the files."""

    seed: int
    taxonomy: str
    """Name and hash: see `of`."""
    blind: bool

    @classmethod
    def of(cls, seed: int, taxonomy: Taxonomy, blind: bool) -> PlanKey:
        """The key of a run."""
        text = json.dumps(taxonomy.to_dict(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cls(seed, f"{taxonomy.name} {digest}", blind)


@dataclass(frozen=True)
class Progress:
    """Where an item stands: which draw is next, and whose scenario it uses."""

    draw: int = 0
    scenario_draw: int = 0

    def after(self, stage: str, reason: RejectReason) -> Progress:
        """The next draw, once this one was refused at `stage`."""
        following = self.draw + 1
        keep = stage != "scenario" and reason in FORMAL
        if keep and following - self.scenario_draw < MAX_SCENARIO_USES:
            return Progress(following, self.scenario_draw)
        return Progress(following, following)


class Ledger:
    """The three files of a run, and what they say.

    Args:
        out: Where the accepted examples go.
        key: See `PlanKey`.
        taxonomy: Whose labels the examples carry.

    Raises:
        DataError: If a file is not a run's, or of another plan; the message names file and line.
    """

    def __init__(self, out: Path, key: PlanKey, taxonomy: Taxonomy) -> None:
        """Open or create the files and read them."""
        self.out, self.key, self.taxonomy = out, key, taxonomy
        self.accepted: dict[int, Example] = {}
        """Item to its example, in the order of acceptance."""
        self.progress: dict[int, Progress] = {}
        """Item to where it stands, if it was refused before."""
        self.rejections: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        """`calls`, `input_tokens` and `output_tokens` over all runs, by `model` too."""
        self._answers: dict[tuple[int, int, str], Completion] = {}
        self._new = True
        with ExitStack() as opened:
            self._examples = _open(out, opened)
            self._read_examples()
            self._rejected = _open(rejected_path(out), opened)
            self._read_rejected()
            self._journal = _open(journal_path(out), opened)
            self._read_journal()
            # Only now are all three known to be this run's.
            for file in (self._examples, self._rejected, self._journal):
                file.mend()
            opened.pop_all()

    def _read_examples(self) -> None:
        pattern = re.compile(rf"teacher-{self.key.seed}-(\d+)")
        for number, line in self._examples.lines():
            where = f"{self.out}:{number}"
            example = parse_example(line, where, self.taxonomy)
            match = pattern.fullmatch(example.id)
            if match is None or int(match[1]) in self.accepted:
                raise DataError(
                    f"{where}: field 'id': {example.id!r} is not of this run (seed "
                    f"{self.key.seed}), or occurs twice; give the run's seed, or another --out"
                )
            self.accepted[int(match[1])] = example
        begins = json.dumps({"id": f"teacher-{self.key.seed}-"}).removesuffix('"}').encode()
        if not begins.startswith(self._examples.torn(len(begins))):
            raise DataError(
                f"{self.out}: the last line has no end and is not of this run (seed "
                f"{self.key.seed}); give the run's seed, or another --out"
            )

    def _read_rejected(self) -> None:
        for number, record in self._rejected.read():
            try:
                index, stage = record["item"], record["stage"]
                reason = RejectReason(record["reason"])
                current = Progress(record["draw"], record["scenario_draw"])
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"{self._rejected.path}:{number}: not a refusal of this program ({error!r}); "
                    "remove the line, or start a new file"
                ) from None
            self.progress[index] = current.after(stage, reason)
            self.rejections[reason] += 1

    def _read_journal(self) -> None:
        for number, record in self._journal.read():
            where = f"{self._journal.path}:{number}"
            if "plan" in record:
                self._new = False
                self._check_plan(record["plan"], where)
                continue
            try:
                call = (record["item"], record["draw"], record["stage"])
                completion = Completion(**record["answer"])
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"{where}: not an answer of this program ({error!r}); remove the line, or "
                    "start a new file"
                ) from None
            self._count(completion, record.get("model", ""))
            if record["item"] not in self.accepted:
                self._answers[call] = completion

    def _check_plan(self, plan: dict[str, Any], where: str) -> None:
        if plan.get("format") != FORMAT:
            raise DataError(f"{where}: format {plan.get('format')!r}, this program writes {FORMAT}")
        for name, value in vars(self.key).items():
            if plan.get(name) != value:
                raise DataError(
                    f"{where}: the run was begun with {name} {plan.get(name)!r}, not {value!r}; "
                    f"give the same {name}, or another --out"
                )

    async def _append(self, file: AppendFile, record: dict[str, Any]) -> None:
        """Write a line; before the first one, which plan the files belong to."""
        if self._new:
            self._new = False
            plan = {"plan": {"format": FORMAT, **vars(self.key)}}
            await self._journal.append(json.dumps(plan))
        # In ASCII, so that an answer with half an emoji in it can be kept as it came.
        await file.append(json.dumps(record))

    def _count(self, completion: Completion, model: str) -> None:
        self.spent["calls"] += 1
        for name in ("input_tokens", "output_tokens"):
            self.spent[name] += getattr(completion, name)
            self.spent[f"{name} {model}"] += getattr(completion, name)

    def cost_usd(self, prices: dict[str, Price]) -> float | None:
        """USD spent over all runs; None if a model that was used has no price."""
        total = 0.0
        models = {name.partition(" ")[2] for name in self.spent if " " in name}
        for model in models:
            if model not in prices:
                return None
            total += prices[model].of(
                self.spent[f"input_tokens {model}"], self.spent[f"output_tokens {model}"]
            )
        return total

    def answer(self, index: int, draw: int, stage: str) -> Completion | None:
        """The answer that was paid for, if there is one."""
        return self._answers.get((index, draw, stage))

    async def paid(
        self, index: int, draw: int, stage: str, model: str, completion: Completion
    ) -> None:
        """Keep an answer, before anything else is done with it."""
        self._count(completion, model)
        self._answers[index, draw, stage] = completion
        record = {
            "item": index,
            "draw": draw,
            "stage": stage,
            "model": model,
            "answer": vars(completion),
        }
        await self._append(self._journal, record)

    async def accept(self, index: int, example: Example) -> None:
        """Deliver an example."""
        self.accepted[index] = example
        await self._examples.append(example.to_json())
        for call in [call for call in self._answers if call[0] == index]:
            del self._answers[call]

    async def reject(
        self,
        index: int,
        at: Progress,
        stage: str,
        problem: Rejected,
        answers: Mapping[str, str],
    ) -> Progress:
        """Keep a refused draw: the reason, and its answers by stage; returns the next draw."""
        record = {
            "item": index,
            "draw": at.draw,
            "scenario_draw": at.scenario_draw,
            "stage": stage,
            "reason": problem.reason,
            "detail": problem.detail,
            "answers": dict(answers),
        }
        self.rejections[problem.reason] += 1
        self.progress[index] = at.after(stage, problem.reason)
        await self._append(self._rejected, record)
        return self.progress[index]

    async def close(self) -> None:
        """Close the files."""
        for file in (self._examples, self._rejected, self._journal):
            await file.close()


def _open(path: Path, opened: ExitStack) -> AppendFile:
    file = AppendFile(path)
    opened.callback(file.abandon)
    return file


def rejected_path(out: Path) -> Path:
    """Where the refused answers of `out` are kept."""
    return out.with_name(out.name + ".rejected.jsonl")


def journal_path(out: Path) -> Path:
    """Where the answers that `out` is made of are kept."""
    return out.with_name(out.name + ".journal.jsonl")


def refuse_existing(out: Path) -> None:
    """Raise TeacherError if `out` is there already and was not to be resumed."""
    for path in (out, journal_path(out)):
        if path.exists() and path.stat().st_size:
            raise TeacherError(
                f"{path} exists; go on with --resume, or choose another file with --out"
            )
