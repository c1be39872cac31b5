"""A table over many runs: every agent of every results file below a folder, best first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memroute_env.errors import DataError, OptionError
from memroute_eval.metrics import METRICS
from memroute_eval.results import check_results

__all__ = ["Board", "Entry", "leaderboards"]

LOWER_IS_BETTER = frozenset(
    ("malformed_rate", "false_store_rate", "missed_store_rate", "avg_categories")
)


@dataclass(frozen=True)
class Entry:
    """One agent of one results file."""

    agent: str
    version: str
    source: str
    """Path of the file, relative to the folder."""
    n: int
    n_failed: int
    parse: str
    seed: int
    metrics: dict[str, float | None]
    ci95: dict[str, tuple[float, float] | None]


@dataclass
class Board:
    """Entries that were measured on the same data, best first."""

    dataset: str
    """Name, split and version."""
    sha256: str
    entries: list[Entry] = field(default_factory=list)


def leaderboards(folder: Path, sort: str = "reward") -> tuple[list[Board], list[str]]:
    """Collect the results below a folder; only entries on the same data share a table.

    Args:
        folder: Searched with everything below it for `.json` files that hold results.
        sort: A name of `METRICS`; undefined values come last, ties in order of the path.

    Returns:
        Boards, that with the most entries first, and one line for each file that looked like
        results but could not be read.

    Raises:
        DataError: If the folder is none, or no results file is below it.
        OptionError: For an unknown metric.
    """
    if sort not in METRICS:
        raise OptionError(f"unknown metric {sort!r}; known: {', '.join(METRICS)}")
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a directory; give one that holds results")
    boards: dict[str, Board] = {}
    problems: list[str] = []
    for path in sorted(folder.rglob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{path}: {error}")
            continue
        if not isinstance(data, dict) or not {"agents", "dataset"} <= data.keys():
            continue
        try:
            results = check_results(data, str(path))
        except DataError as error:
            problems.append(str(error))
            continue
        board = boards.setdefault(
            results["dataset"]["sha256"],
            Board(_dataset_label(results["dataset"]), results["dataset"]["sha256"]),
        )
        board.entries += _entries(results, str(path.relative_to(folder)))
    if not boards:
        detail = f"; {problems[0]}" if problems else ""
        raise DataError(f"{folder}: no results file below it{detail}")
    for board in boards.values():
        board.entries.sort(key=lambda entry: _rank(entry.metrics.get(sort), sort))
    ordered = sorted(boards.values(), key=lambda b: (-len(b.entries), b.dataset, b.sha256))
    return ordered, problems


def _rank(value: float | None, metric: str) -> tuple[bool, float]:
    if value is None:
        return True, 0.0
    return False, value if metric in LOWER_IS_BETTER else -value


def _dataset_label(dataset: dict[str, Any]) -> str:
    split = f":{dataset['split']}" if dataset.get("split") else ""
    version = f" v{dataset['version']}" if dataset.get("version") else ""
    return f"{dataset['name']}{split}{version}"


def _entries(results: dict[str, Any], source: str) -> Sequence[Entry]:
    return [
        Entry(
            name,
            str(agent.get("version", "")),
            source,
            agent["n"],
            agent.get("n_failed", 0),
            results.get("parse", "strict"),
            results.get("seed", 0),
            {metric: agent.get(metric) for metric in METRICS},
            {
                metric: (interval[0], interval[1]) if interval else None
                for metric, interval in agent["ci95"].items()
            },
        )
        for name, agent in results["agents"].items()
    ]
