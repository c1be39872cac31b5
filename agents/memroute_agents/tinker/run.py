"""A run's folder: what was trained, where its weights are, and its curves.

- `RUN/run.json`: options, data and its hash, renderer, stages and their checkpoints
- `RUN/sft`, `RUN/rl`: what the cookbook writes: metrics.jsonl, checkpoints.jsonl, logs.log, …
- `RUN/curves.png`: the curves as a picture
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memroute_agents.tinker.options import TrainOptions
from memroute_env.errors import AgentError, DataError

__all__ = ["STAGES", "TOKENS_KEY", "Run", "StageResult", "read_metrics", "report_data"]

STAGES = ("sft", "rl")
TOKENS_KEY = "memroute/tokens_total"
FORMAT = "memroute-tinker-1"


@dataclass
class StageResult:
    """How a stage ended, or where it stands."""

    status: str = "running"
    """`running` (also after a kill), `stopped` (cleanly, before its end) or `complete`."""
    reason: str = ""
    """Why it was stopped."""
    state_path: str = ""
    """Weights and optimizer: what training goes on from."""
    sampler_path: str = ""
    """Weights for sampling."""
    step: int = 0
    """Steps whose updates those weights hold."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Held-out, measured with those weights."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95% bootstrap interval of each of them."""


@dataclass
class Run:
    """A training run on disk."""

    path: Path
    options: TrainOptions
    renderer: str
    data: dict[str, Any] = field(default_factory=dict)
    """Name, splits, sizes and SHA-256 of the data."""
    stages: dict[str, StageResult] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Read a run.

        Raises:
            AgentError: If the folder holds none, or one that cannot be read.
        """
        file = Path(path) / "run.json"
        try:
            found = json.loads(file.read_text())
            if found.get("format") != FORMAT:
                raise AgentError(f"{file}: is not a {FORMAT} run")
            stages = {name: StageResult(**stage) for name, stage in found["stages"].items()}
            options = TrainOptions.from_dict(found["options"])
            return cls(
                Path(path), options, found["renderer"], found["data"], stages, found["versions"]
            )
        except FileNotFoundError:
            raise AgentError(
                f"{path}: holds no run.json; give the folder of a run of 'memroute train tinker'"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise AgentError(f"{file}: cannot be read: {error!r}") from error

    def save(self) -> None:
        """Write `run.json`, atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "options": self.options.to_dict(),
            "renderer": self.renderer,
            "data": self.data,
            "stages": {name: vars(stage) for name, stage in self.stages.items()},
            "versions": self.versions,
        }
        partial = self.path / "run.json.partial"
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self.path / "run.json")

    def stage_dir(self, stage: str) -> Path:
        """Where the cookbook logs a stage."""
        return self.path / stage

    def is_complete(self, stage: str) -> bool:
        """Whether a stage has ended as planned."""
        result = self.stages.get(stage)
        return result is not None and result.status == "complete"

    def begun(self) -> set[str]:
        """Stages that have started: not one that the token cap stopped before its first step."""
        return {
            name
            for name, stage in self.stages.items()
            if stage.status != "stopped" or self.stage_dir(name).is_dir()
        }

    def tokens(self) -> int:
        """Tokens read, sampled and trained so far, in all stages."""
        logs = (read_metrics(self.stage_dir(stage)) for stage in STAGES)
        return max((int(m.get(TOKENS_KEY, 0)) for log in logs for m in log), default=0)

    def trained(self) -> StageResult:
        """The latest stage that has weights.

        Raises:
            AgentError: If none has.
        """
        for stage in reversed(STAGES):
            result = self.stages.get(stage)
            if result is not None and result.sampler_path:
                return result
        raise AgentError(f"{self.path}: no stage of this run has saved weights yet")


def repair(log_path: Path) -> None:
    """Cut a line that a kill left unfinished off the cookbook's logs, so that they can go on."""
    for name in ("metrics.jsonl", "checkpoints.jsonl"):
        file = log_path / name
        if not file.is_file():
            continue
        content = file.read_bytes()
        whole, newline, rest = content.rpartition(b"\n")
        if rest:
            file.write_bytes(whole + newline)


def read_metrics(log_path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a stage's `metrics.jsonl`; an unreadable one (cut by a kill) is skipped."""
    file = log_path / "metrics.jsonl"
    if not file.is_file():
        return
    with file.open() as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                yield entry


_SERIES = {
    "loss": ("train_mean_nll",),
    "validation_loss": ("test/nll",),
    "reward": ("env/all/reward/total",),
    "f1": ("env/all/f1",),
    "temporal": ("env/all/temporal",),
    "parity": ("env/all/parity",),
    "efficiency": ("env/all/efficiency",),
    "malformed": ("env/all/malformed",),
    "categories": ("env/all/categories",),
    "no_signal": ("env/all/no_signal",),
    "entropy": ("optim/entropy",),
    "kl_v1": ("optim/kl_sample_train_v1",),
    "kl_v2": ("optim/kl_sample_train_v2",),
    "tokens": (TOKENS_KEY,),
}
_HELD_OUT = ("reward", "f1", "exact", "none_precision", "none_recall", "malformed", "categories")


def report_data(run_dir: str | os.PathLike[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The curves of a run as plain series.

    Args:
        run_dir: A run's folder.

    Returns:
        Stage (`sft`, `rl`) to series (`loss`, `validation_loss`, `reward`, the reward's components,
        `kl_v1`, `entropy`, `held_out_f1`, …) to `(step, value)` pairs by step. A step that was run
        again after a kill counts once, as it ended.

    Raises:
        DataError: If the folder holds no metrics of either stage.
    """
    names = {**_SERIES, **{f"held_out_{name}": (f"test/{name}",) for name in _HELD_OUT}}
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for stage in STAGES:
        series: dict[str, dict[int, float]] = {}
        for entry in read_metrics(Path(run_dir) / stage):
            for name, keys in names.items():
                value = next((entry[key] for key in keys if key in entry), None)
                if isinstance(value, int | float) and isinstance(entry.get("step"), int):
                    series.setdefault(name, {})[entry["step"]] = float(value)
        if series:
            curves[stage] = {name: sorted(points.items()) for name, points in series.items()}
    if not curves:
        raise DataError(
            f"{run_dir}: neither sft/metrics.jsonl nor rl/metrics.jsonl holds a line; give the "
            "folder of a run of 'memroute train tinker'"
        )
    return curves
