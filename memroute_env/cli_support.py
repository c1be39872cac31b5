"""What every subcommand shares: error lines, progress bars, exit codes.

Kept beside the environment because all other packages may import it; it needs only typer and rich,
which are imported when a command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from memroute_env.errors import MemrouteError

__all__ = [
    "EXIT_ERROR",
    "EXIT_GATE",
    "EXIT_INTERRUPTED",
    "cleanly",
    "fail_cleanly",
    "note",
    "progress_bar",
]

P = ParamSpec("P")
R = TypeVar("R")

EXIT_ERROR = 2
"""Bad input or an agent that failed: one line on standard error."""
EXIT_GATE = 1
"""The command ran, and what it checked did not pass."""
EXIT_INTERRUPTED = 130
"""Ctrl-C: what was done so far is kept."""


def note(message: str) -> None:
    """A line for people, on standard error, so that standard output stays clean."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def fail_cleanly(on_interrupt: str = "interrupted; nothing was written") -> Iterator[None]:
    """Turn expected errors into one line and an exit code, and Ctrl-C into a clean stop."""
    try:
        yield
    except MemrouteError as error:
        note(f"error: {error}")
        raise SystemExit(EXIT_ERROR) from None
    except KeyboardInterrupt:
        note(on_interrupt)
        raise SystemExit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output went away (`| head`); that is not an error of ours.
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        note(f"error: {place}{error.strerror or error}; check the path and its permissions")
        raise SystemExit(EXIT_ERROR) from None


def cleanly(command: Callable[P, R]) -> Callable[P, R]:
    """A command that fails like all others: `fail_cleanly` around a function."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with fail_cleanly():
            return command(*args, **kwargs)

    return run


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error; yields `update(label, done, total)`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    tasks: dict[str, Any] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:

        def update(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(f"{description} {label}".strip(), total=total)
            progress.update(tasks[label], completed=done, total=total)

        yield update
