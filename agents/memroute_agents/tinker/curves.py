"""A run's curves as one picture, kept in the run."""

from __future__ import annotations

import os
from pathlib import Path

from memroute_agents.tinker.run import report_data
from memroute_env.errors import MissingDependencyError

__all__ = ["draw_curves"]

PANELS = (
    ("sft", "Supervised: loss", ("loss", "validation_loss")),
    ("rl", "Reward", ("reward", "held_out_reward")),
    ("rl", "Components", ("f1", "temporal", "parity", "efficiency")),
    ("rl", "Held-out", ("held_out_f1", "held_out_exact", "held_out_none_precision")),
    ("rl", "KL, sampler to trainer", ("kl_v1", "kl_v2")),
    ("rl", "Shares", ("malformed", "no_signal")),
)


def draw_curves(run_dir: str | os.PathLike[str]) -> Path:
    """Draw loss, reward, components, KL and held-out metrics into `RUN/curves.png`.

    Raises:
        DataError: If the run has no metrics yet.
        MissingDependencyError: Without matplotlib.
    """
    data = report_data(run_dir)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", "report") from None
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).flat
    for axis, (stage, title, names) in zip(axes, PANELS, strict=True):
        for name in names:
            points = data.get(stage, {}).get(name, [])
            if points:
                steps, values = zip(*points, strict=True)
                label = name.replace("held_out_", "held-out ").replace("_", " ")
                axis.plot(steps, values, marker=".", label=label)
        axis.set_title(title)
        axis.set_xlabel("step" if stage == "sft" else "iteration")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize="small")
    path = Path(run_dir) / "curves.png"
    figure.savefig(path, dpi=110)
    return path
