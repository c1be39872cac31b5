"""Timing by medians, and the table that comes of it."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Row", "machine", "race", "rate", "seconds"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    ratio: float | None = None
    target: str = ""


def seconds(
    run: Callable[[], object],
    repeats: int = 7,
    at_least: float = 0.05,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Median seconds of one call; each repeat loops until `at_least` seconds have passed.

    The default clock counts this process's own processor time, so that a busy machine does not
    change the result; what waits for other processes takes `time.perf_counter`.
    """
    return race([run], repeats, at_least, clock)[0]


def race(
    runs: Sequence[Callable[[], object]],
    repeats: int = 7,
    at_least: float = 0.05,
    clock: Callable[[], float] = time.process_time,
) -> list[float]:
    """`seconds` of several runs, measured in turns: what slows the machine slows all alike."""
    loops = [_calibrate(run, at_least, clock) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, count, found in zip(runs, loops, times, strict=True):
            found.append(_time(run, count, clock) / count)
    return [statistics.median(found) for found in times]


def _time(run: Callable[[], object], loops: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(loops):
        run()
    return clock() - started


def _calibrate(run: Callable[[], object], at_least: float, clock: Callable[[], float]) -> int:
    """How many calls take `at_least` seconds; the first of all is not counted."""
    run()
    loops = 1
    while (spent := _time(run, loops, clock)) < at_least:
        loops = max(loops * 2, int(loops * at_least / max(spent, 1e-9)))
    return loops


def rate(run: Callable[[], object], items: int) -> float:
    """Items a second of processor time."""
    return items / seconds(run)


def machine() -> str:
    """The machine, in words."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next(line.split(":", 1)[1].strip() for line in info if "model name" in line)
    except (OSError, StopIteration):
        pass
    import os

    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
