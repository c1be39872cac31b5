"""Timing by medians, and the table that comes of it."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Row", "machine", "rate", "seconds"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    ratio: float | None = None
    target: str = ""


def seconds(run: Callable[[], object], repeats: int = 7, at_least: float = 0.05) -> float:
    """Median seconds of one call; each repeat loops until `at_least` seconds have passed."""
    run()
    loops, spent = 1, 0.0
    while True:
        started = time.perf_counter()
        for _ in range(loops):
            run()
        spent = time.perf_counter() - started
        if spent >= at_least:
            break
        loops = max(loops * 2, int(loops * at_least / max(spent, 1e-9)))
    times = [spent / loops]
    for _ in range(repeats - 1):
        started = time.perf_counter()
        for _ in range(loops):
            run()
        times.append((time.perf_counter() - started) / loops)
    return statistics.median(times)


def rate(run: Callable[[], object], items: int) -> float:
    """Items a second."""
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
