"""A run from the command line: lock, signals, progress, summary."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

from rich.console import Console

from memroute_agents.calls import Price
from memroute_agents.cohere import open_model
from memroute_data_gen.teacher.display import live, show_estimate, summary
from memroute_data_gen.teacher.errors import TeacherError
from memroute_data_gen.teacher.estimate import estimate
from memroute_data_gen.teacher.files import Lock
from memroute_data_gen.teacher.ledger import journal_path, refuse_existing
from memroute_data_gen.teacher.pipeline import TeacherConfig, TeacherRun
from memroute_env.conversation import Example, iter_examples
from memroute_env.datasets import load_dataset
from memroute_env.taxonomy import Taxonomy

__all__ = ["dry_run", "teach"]


class _InterruptedError(TeacherError):
    """A signal asked the run to stop."""


def dry_run(
    config: TeacherConfig, taxonomy: Taxonomy, prices: Mapping[str, Price], *, resume: bool
) -> None:
    """Print what the missing examples will take.

    Raises:
        DataError: If there is a file to go on with that is not of this program.
    """
    done = set()
    if resume and config.out.exists():
        done = {example.id for example in iter_examples(config.out, taxonomy)}
    figures = estimate(
        [index for index in range(config.num) if f"teacher-{config.seed}-{index}" not in done],
        taxonomy,
        seed=config.seed,
        model=config.model,
        concurrency=config.concurrency,
        price=prices.get(config.model),
        blind=bool(config.blind_model),
        blind_price=prices.get(config.blind_model),
    )
    show_estimate(Console(), figures, config.model)


def teach(
    config: TeacherConfig,
    taxonomy: Taxonomy,
    prices: Mapping[str, Price],
    *,
    resume: bool,
    avoid: Sequence[str],
    base_url: str,
    timeout_s: float,
) -> None:
    """Make the examples, showing how far it is; say at the end what it came to.

    Raises:
        KeyboardInterrupt: If a signal stopped it; calls in flight were waited for and kept.
        TeacherError: See `TeacherRun.run`; also if the files exist and are not to be resumed.
    """
    if config.out.suffix == ".gz":
        raise TeacherError(f"{config.out}: is appended to; choose a name without .gz")
    if not resume:
        refuse_existing(config.out)
    others = [example for name in avoid for example in load_dataset(name, None, taxonomy)]
    try:
        with Lock(journal_path(config.out)):
            asyncio.run(_teach(config, taxonomy, others, base_url, timeout_s, prices))
    except _InterruptedError:
        raise KeyboardInterrupt from None


async def _teach(
    config: TeacherConfig,
    taxonomy: Taxonomy,
    avoid: Sequence[Example],
    base_url: str,
    timeout_s: float,
    prices: Mapping[str, Price],
) -> None:
    console = Console(stderr=True)
    model = open_model(base_url, timeout_s=timeout_s, concurrency=config.concurrency)
    with live(console, config.num, prices) as display:
        run = TeacherRun(config, taxonomy, model, avoid=avoid, report=display)
        loop = asyncio.get_running_loop()
        # The first signal lets calls in flight finish, so that they are kept; a second one kills.
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, _stop, run, loop, number)
        display(run)
        try:
            await run.run()
        finally:
            await model.close()
            if run.ledger.spent["calls"]:
                said = summary(run.ledger, run.caller.retries, prices)
                console.print(said, highlight=False, markup=False, soft_wrap=True)


def _stop(run: TeacherRun, loop: asyncio.AbstractEventLoop, number: int) -> None:
    run.stop(_InterruptedError("interrupted"))
    loop.remove_signal_handler(number)
