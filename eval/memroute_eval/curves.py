"""Training curves: whatever numbers a run logged, sorted into the panels that a reader expects.

A run writes `metrics.jsonl`, one JSON object a step. Trainers disagree about names (`loss`,
`train_mean_nll`; `reward`, `env/all/reward/total`; `kl`, `optim/kl_sample_train_v1`), so panels
are found by pattern and nothing is required.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memroute_env.conversation import iter_lines
from memroute_env.errors import DataError

__all__ = [
    "METRICS_FILE",
    "PANELS",
    "Curve",
    "Panel",
    "Series",
    "curves_of",
    "find_curves",
    "panels_of",
    "read_curve",
]

METRICS_FILE = "metrics.jsonl"
"""What a run directory calls its log."""

_HELD_OUT = r"(?:val|valid|validation|test|eval|heldout|held_out)[/_]"
"""How trainers mark figures of data that they do not train on."""

_STEP_KEYS = ("step", "progress/batch", "iteration", "update", "global_step", "epoch")


@dataclass(frozen=True)
class Series:
    """One logged figure over the steps of one run."""

    run: str
    key: str
    steps: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def label(self) -> str:
        """The key without the prefixes that only a logger needs."""
        key, held_out = re.subn(rf"^{_HELD_OUT}", "", self.key)
        key = re.sub(r"^(env/all/|optim/|train/|env/)", "", key)
        key = re.sub(r"^reward[/_](?=f1|temporal|parity|efficiency)", "", key)
        return f"held-out {key}" if held_out else key


@dataclass(frozen=True)
class Curve:
    """What one run, or one stage of it, logged."""

    name: str
    """The run's, with ` · stage` where it has several."""
    series: tuple[Series, ...]
    skipped: int = 0
    """Lines of the run's log that were not JSON objects; counted at its first stage."""

    def get(self, key: str) -> Series | None:
        """The series of that key."""
        return next((s for s in self.series if s.key == key), None)


@dataclass(frozen=True)
class Panel:
    """A group of figures that share an axis."""

    title: str
    pattern: str
    """Of the whole key, as a regular expression."""
    better: str = ""
    """Which direction is good: `higher`, `lower`, or empty."""

    def matches(self, key: str) -> bool:
        """Whether a logged key belongs here."""
        return re.fullmatch(self.pattern, key, re.I) is not None


_ENV = r"(?:env/all/|train/)?"
PANELS = (
    Panel(
        "Loss",
        rf"{_ENV}(?:{_HELD_OUT})?(?:loss|mean_loss|(?:train_)?(?:mean_)?nll|train_loss|cross_entropy)",
        "lower",
    ),
    Panel("Reward", rf"{_ENV}(?:mean_|expected_)?reward(?:[/_](?:total|mean))?", "higher"),
    Panel(
        "Reward components",
        rf"{_ENV}(?:reward[/_])?(?:f1|temporal|parity|efficiency)(?:_reward)?",
        "higher",
    ),
    Panel(
        "Held-out",
        rf"{_HELD_OUT}(?:{_ENV})(?:(?:avg_|macro_|micro_)?f1|exact(?:_match)?|any(?:_match)?"
        r"|accuracy|(?:mean_|expected_)?reward(?:[/_]total)?"
        r"|(?:reward[/_])?(?:f1|temporal|parity|efficiency))",
        "higher",
    ),
    Panel("KL divergence", r"(?:optim/|train/)?kl(?:[/_].*)?|.*/kl(?:_.*)?"),
    Panel("Entropy", r"(?:optim/|train/|env/all/)?(?:policy_)?entropy(?:[/_].*)?"),
)
"""In the order of the report; a key belongs to the first that matches."""


def read_curve(path: Path, name: str | None = None) -> list[Curve]:
    """Read a run's log; a file with several stages gives one curve a stage.

    Args:
        path: A `metrics.jsonl`.
        name: What the report calls it; by default the name of its folder.

    Raises:
        DataError: If the file cannot be read. Lines that are not JSON objects (a run that was
            killed leaves half a line) are counted and passed over.
    """
    rows: list[dict[str, Any]] = []
    skipped = 0
    for _, line in iter_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            skipped += 1
    return curves_of(name or path.resolve().parent.name, rows, skipped)


def curves_of(name: str, rows: Sequence[Mapping[str, Any]], skipped: int = 0) -> list[Curve]:
    """Curves of logged rows: every finite number under its key, split by `stage`."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows or [{}]:
        stages.setdefault(str(row.get("stage", "")), []).append(row)
    return [
        Curve(label, _series(label, stage_rows), 0 if number else skipped)
        for number, (stage, stage_rows) in enumerate(stages.items())
        for label in [f"{name} · {stage}" if stage else name]
    ]


def _series(run: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Series, ...]:
    step_key = next((k for k in _STEP_KEYS if any(_number(r.get(k)) is not None for r in rows)), "")
    points: dict[str, list[tuple[float, float]]] = {}
    for position, row in enumerate(rows):
        step = _number(row.get(step_key))
        for key, raw in row.items():
            value = _number(raw)
            if value is not None and key not in _STEP_KEYS:
                points.setdefault(str(key), []).append((position if step is None else step, value))
    return tuple(
        Series(run, key, tuple(x for x, _ in xy), tuple(y for _, y in xy))
        for key, xy in points.items()
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def find_curves(folder: Path) -> list[Curve]:
    """The logs of a run directory: its own `metrics.jsonl` and those one level below."""
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a directory")
    own = [folder / METRICS_FILE] if (folder / METRICS_FILE).is_file() else []
    curves = [c for path in own for c in read_curve(path)]
    for path in sorted(folder.glob(f"*/{METRICS_FILE}")):
        curves += read_curve(path, f"{folder.resolve().name}/{path.parent.name}")
    return curves


def panels_of(curves: Iterable[Curve]) -> tuple[list[tuple[Panel, list[Series]]], list[Series]]:
    """Sort series into panels.

    Returns:
        The panels that have a series of two points or more that are not all 0 (the KL of a stage
        that has none), and every series that no panel shows.
    """
    shown: dict[str, list[Series]] = {panel.title: [] for panel in PANELS}
    rest: list[Series] = []
    for curve in curves:
        for series in curve.series:
            panel = next((p for p in PANELS if p.matches(series.key)), None)
            if panel is None or len(series.values) < 2 or not any(series.values):
                rest.append(series)
            else:
                shown[panel.title].append(series)
    return [(panel, shown[panel.title]) for panel in PANELS if shown[panel.title]], rest
