"""The teacher's run: draws for every item of the plan until each has an accepted example."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from memroute_agents.calls import (
    Caller,
    CallFailure,
    ChatModel,
    ChatRequest,
    Completion,
    FailureKind,
)
from memroute_data_gen.teacher.answers import (
    Rejected,
    RejectReason,
    check_blind,
    read_conversation,
    read_scenario,
)
from memroute_data_gen.teacher.duplicates import DuplicateIndex
from memroute_data_gen.teacher.errors import TeacherError
from memroute_data_gen.teacher.ledger import Ledger, PlanKey, Progress
from memroute_data_gen.teacher.plan import PlanItem, make_brief, plan_item
from memroute_data_gen.teacher.prompts import (
    blind_request,
    conversation_request,
    scenario_request,
)
from memroute_env.conversation import Example
from memroute_env.taxonomy import Taxonomy

__all__ = ["TeacherConfig", "TeacherRun"]


@dataclass(frozen=True)
class TeacherConfig:
    """What a run makes."""

    num: int
    """Examples wanted."""
    out: Path
    model: str
    seed: int = 0
    blind_model: str = ""
    """Who labels each conversation once more without having seen its target; empty: nobody."""
    concurrency: int = 16
    max_draws: int = 10
    """Draws for an item in one run before it is left for the next."""
    attempts: int = 8
    """Tries of one call."""

    @property
    def stages(self) -> int:
        """Calls that an accepted example takes."""
        return 3 if self.blind_model else 2


class _StoppedError(Exception):
    """The run is being stopped: no further call."""


class TeacherRun:
    """One process's work on a corpus.

    Every worker holds one item and makes one call at a time, and an answer is on disk before the
    worker goes on: a kill repeats at most `concurrency` paid calls.

    Args:
        config: What to make.
        taxonomy: Whose categories.
        model: Where the calls go.
        avoid: Examples that no new one may resemble, beside the accepted ones.
        report: Called whenever something has changed.
    """

    def __init__(
        self,
        config: TeacherConfig,
        taxonomy: Taxonomy,
        model: ChatModel,
        *,
        avoid: Iterable[Example] = (),
        report: Callable[[TeacherRun], None] = lambda run: None,
    ) -> None:
        """Open the files and read what earlier runs left."""
        self.config, self.taxonomy = config, taxonomy
        key = PlanKey.of(config.seed, taxonomy, bool(config.blind_model))
        self.ledger = Ledger(config.out, key, taxonomy)
        self.caller = Caller(model, concurrency=config.concurrency, attempts=config.attempts)
        self._index = DuplicateIndex()
        for example in (*avoid, *self.ledger.accepted.values()):
            self._index.add(example)
        self._report = report
        self._stop: Exception | None = None
        self._failed_in_a_row = 0
        self.left: dict[int, RejectReason] = {}
        """Items that used up their draws, with the last reason."""

    @property
    def missing(self) -> list[int]:
        """Items of the plan without an example."""
        return [index for index in range(self.config.num) if index not in self.ledger.accepted]

    def stop(self, reason: Exception) -> None:
        """Make no further call; what is in flight is waited for and kept, then `run` raises."""
        self._stop = self._stop or reason
        self.caller.stop()

    async def run(self) -> None:
        """Work until the plan is fulfilled.

        Raises:
            TeacherError: If it is not: the key or model is refused, the endpoint fails for good,
                the run was stopped, or items used up their draws. Files are whole in every case.
        """
        queue = deque(self.missing)
        workers = [
            asyncio.create_task(self._work(queue))
            for _ in range(min(self.config.concurrency, len(queue)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self.ledger.close()
        if self._stop is not None:
            raise self._stop
        if self.left:
            index, reason = next(iter(self.left.items()))
            item = plan_item(self.config.seed, index, self.taxonomy)
            raise TeacherError(
                f"{len(self.left)} of {self.config.num} items were refused "
                f"{self.config.max_draws} times each, such as item {index} "
                f"({', '.join(item.categories)}; at last: {reason}); --resume tries them again"
            )

    async def _work(self, queue: deque[int]) -> None:
        while queue and self._stop is None:
            index = queue.popleft()
            try:
                await self._fulfil(plan_item(self.config.seed, index, self.taxonomy))
            except _StoppedError:
                return
            except TeacherError as error:  # a file cannot be written
                self.stop(error)
                return

    async def _fulfil(self, item: PlanItem) -> None:
        """Draw until an example is accepted, or the draws of this run are used up."""
        at = self.ledger.progress.get(item.index, Progress())
        for _ in range(self.config.max_draws):
            following = await self._draw(item, at)
            self._report(self)
            if following is None:
                return
            at = following

    async def _draw(self, item: PlanItem, at: Progress) -> Progress | None:
        """One draw; the next one to make if it was refused."""
        config, taxonomy, seed = self.config, self.taxonomy, self.config.seed
        brief = make_brief(seed, item, at.scenario_draw)
        stage, answers = "scenario", {}
        try:
            answer = await self._ask(
                item,
                at.scenario_draw,
                stage,
                scenario_request(brief, taxonomy, config.model, seed=seed, draw=at.scenario_draw),
            )
            answers[stage] = answer.text
            scenario = read_scenario(answer, brief, taxonomy)
            stage = "conversation"
            request = conversation_request(
                brief, scenario, taxonomy, config.model, seed=seed, draw=at.draw
            )
            answer = await self._ask(item, at.draw, stage, request)
            answers[stage] = answer.text
            example = read_conversation(
                answer,
                brief,
                taxonomy,
                example_id=f"teacher-{seed}-{item.index}",
                model=config.model,
                draw=at.draw,
            )
            self._index.check(example)
            if config.blind_model:
                stage = "blind"
                request = blind_request(
                    example.conversation,
                    taxonomy,
                    config.blind_model,
                    seed=seed,
                    index=item.index,
                    draw=at.draw,
                )
                answer = await self._ask(item, at.draw, stage, request)
                answers[stage] = answer.text
                check_blind(answer, example, taxonomy)
                self._index.check(example)  # others were accepted meanwhile
        except Rejected as problem:
            self.left[item.index] = problem.reason
            return await self.ledger.reject(item.index, at, stage, problem, answers)
        self._index.add(example)
        self.left.pop(item.index, None)
        await self.ledger.accept(item.index, example)
        return None

    async def _ask(self, item: PlanItem, draw: int, stage: str, request: ChatRequest) -> Completion:
        """The journal's answer, or a paid one.

        Raises:
            Rejected: If there is none, for good.
            _StoppedError: If the run is being stopped.
        """
        known = self.ledger.answer(item.index, draw, stage)
        if known is not None:
            return known
        if self._stop is not None:
            raise _StoppedError
        try:
            completion, _ = await self.caller(request)
        except CallFailure as failure:
            self._failed_in_a_row += 1
            self._judge(failure)
            raise Rejected(RejectReason.CALL_FAILED, str(failure)) from None
        self._failed_in_a_row = 0
        await self.ledger.paid(item.index, draw, stage, request.model, completion)
        self._report(self)
        return completion

    def _judge(self, failure: CallFailure) -> None:
        """Stop the run if other calls would fail as well.

        Raises:
            _StoppedError: If the run is being stopped, for whatever reason.
        """
        useless = failure.kind is FailureKind.REQUEST and self.caller.answered == 0
        if self.caller.hopeless(failure) or useless:
            self.stop(TeacherError(str(failure)))
        elif self._failed_in_a_row >= max(3, self.config.concurrency):
            self.stop(
                TeacherError(
                    f"the last {self._failed_in_a_row} calls failed for good ({failure}); nothing "
                    "is lost: go on with --resume once the endpoint answers again"
                )
            )
        if self._stop is not None:
            raise _StoppedError
