"""What the terminal shows of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memroute_agents.calls import Price
from memroute_data_gen.teacher.estimate import (
    REDRAWN,
    SCENARIO_TOKENS,
    TURN_TOKENS,
    Estimate,
)
from memroute_data_gen.teacher.ledger import Ledger, rejected_path
from memroute_data_gen.teacher.pipeline import TeacherRun

__all__ = ["live", "show_estimate", "summary"]


def _money(usd: float | None) -> str:
    return "cost unknown" if usd is None else f"${usd:,.2f}"


@contextmanager
def live(console: Console, total: int, prices: Mapping[str, Price]) -> Iterator[_Live]:
    """A progress bar while a run lasts; nothing where the console is no terminal."""
    progress = Progress(
        TextColumn("teacher"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield _Live(progress, total, prices)


class _Live:
    """Feeds the progress bar."""

    def __init__(self, progress: Progress, total: int, prices: Mapping[str, Price]) -> None:
        self._progress, self._prices = progress, dict(prices)
        self._task = progress.add_task("teacher", total=total, figures="")
        self._started = time.monotonic()
        self._before: int | None = None

    def __call__(self, run: TeacherRun) -> None:
        """Show where `run` stands."""
        if self._progress.disable:
            return
        ledger, done = run.ledger, len(run.ledger.accepted)
        if self._before is None:
            self._before = done
        rate = 60 * (done - self._before) / max(1e-9, time.monotonic() - self._started)
        tokens = ledger.spent["input_tokens"] + ledger.spent["output_tokens"]
        figures = (
            f"{rate:.0f}/min · {tokens:,} tokens · {_money(ledger.cost_usd(self._prices))} · "
            f"{ledger.rejections.total()} refused · {run.caller.retries} retries"
        )
        self._progress.update(self._task, completed=done, figures=figures)


def summary(ledger: Ledger, retries: int, prices: Mapping[str, Price]) -> str:
    """What all runs on a file came to, in two or three lines."""
    spent = ledger.spent
    lines = [
        f"{len(ledger.accepted):,} examples in {ledger.out}",
        f"{spent['calls']:,} calls paid, {retries} retries in this run; "
        f"{spent['input_tokens']:,} + {spent['output_tokens']:,} tokens, "
        f"{_money(ledger.cost_usd(dict(prices)))}",
    ]
    if ledger.rejections:
        reasons = ", ".join(f"{name} {count}" for name, count in ledger.rejections.most_common())
        lines.append(
            f"{ledger.rejections.total():,} refused ({reasons}), kept in "
            f"{rejected_path(ledger.out)}"
        )
    return "\n".join(lines)


def show_estimate(console: Console, figures: Estimate, model: str) -> None:
    """Print an estimate as a table."""
    table = Table(
        title=f"Estimate: {figures.examples:,} examples from {model}",
        caption=f"assumed: {REDRAWN:.0%} of the draws are made again; {SCENARIO_TOKENS} tokens a "
        f"scenario, {TURN_TOKENS} a message",
        min_width=64,
    )
    table.add_column("what")
    table.add_column("about", justify="right")
    for name, value in (
        ("calls", f"{figures.calls:,}"),
        ("input tokens", f"{figures.input_tokens:,}"),
        ("output tokens", f"{figures.output_tokens:,}"),
        ("cost", _money(figures.cost_usd)),
        ("time", f"{figures.seconds / 60:,.1f} min"),
    ):
        table.add_row(name, value)
    console.print(table)
