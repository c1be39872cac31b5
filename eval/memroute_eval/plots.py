"""The five classic plots as PNG files, for papers and slides that cannot hold a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memroute_env.errors import MissingDependencyError
from memroute_eval.curves import Curve, Series, panels_of
from memroute_eval.lines import Line, spread, strokes
from memroute_eval.report_view import is_reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PLOTS", "write_plots"]

PLOTS = ("sft_loss", "rl_reward", "reward_components", "model_comparison", "by_difficulty")
"""Names of the plots; each is written as `NAME.png`."""

_COLOURS = ("#0b63b5", "#bb4a00", "#0a7558", "#9a3a88", "#7d6300", "#0c708a", "#b3261e", "#555b66")
_DASHES = ("-", "--", ":", "-.")
_INK, _RULE, _CEILING = "#1b1e24", "#d9d5ca", "#a9adb5"
_COMPARED = (("avg_f1", "F1"), ("exact_match", "Exact match"), ("any_match", "Any match"))


def write_plots(
    folder: Path, results: Mapping[str, Any] | None, curves: Sequence[Curve]
) -> list[Path]:
    """Draw what the data allow.

    Args:
        folder: Made if need be.
        results: (Merged) results for the comparison plots, or None.
        curves: Training curves for the other three.

    Returns:
        The files written, in the order of `PLOTS`; a plot without data is left out.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
    """
    panels = {panel.title: series for panel, series in panels_of(curves)[0]}
    draws: dict[str, Callable[[Axes], None]] = {}
    for name, panel in (
        ("sft_loss", "Loss"),
        ("rl_reward", "Reward"),
        ("reward_components", "Reward components"),
    ):
        if panel in panels:
            draws[name] = _lines_of(panels[panel], panel)
    if results is not None:
        draws["model_comparison"] = lambda axes: _comparison(axes, results)
        draws["by_difficulty"] = lambda axes: _difficulty(axes, results)
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(folder / f"{name}.png", draws[name]) for name in PLOTS if name in draws]


def _save(path: Path, draw: Callable[[Axes], None]) -> Path:
    try:
        # The object interface: pyplot would keep global state and pick a window system.
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", "report") from None
    # A name may hold a dollar sign, which must not start a formula.
    with rc_context({"font.size": 11, "text.parse_math": False, "text.color": _INK}):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_RULE)
        axes.tick_params(colors=_INK, length=0)
        axes.grid(axis="y", color=_RULE, linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes)
        # No date in the file: equal input, equal bytes.
        figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def _lines_of(series: Sequence[Series], title: str) -> Callable[[Axes], None]:
    several = len({s.run for s in series}) > 1

    def draw(axes: Axes) -> None:
        ends = []
        for i, s in enumerate(series):
            colour = _COLOURS[i % len(_COLOURS)]
            for kind, line in strokes(Line(s.label, s.steps, s.values)):
                if kind == "raw":
                    axes.plot(line.xs, line.ys, color=colour, linewidth=0.7, alpha=0.35)
                else:
                    axes.plot(line.xs, line.ys, _DASHES[i % 4], color=colour, linewidth=1.8)
                    ends.append((line.xs[-1], line.ys[-1]))
        low, high = axes.get_ylim()
        places = spread([y for _, y in ends], 0.045 * (high - low), low, high)
        right = max(x for x, _ in ends)
        for i, (s, y) in enumerate(zip(series, places, strict=True)):
            axes.annotate(
                f"{ends[i][1]:.3g} {f'{s.run}: ' if several else ''}{s.label}",
                (right, y),
                xytext=(8, 0),
                textcoords="offset points",
                color=_COLOURS[i % len(_COLOURS)],
                va="center",
                fontweight="bold",
                fontsize=9,
                annotation_clip=False,
            )
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("step")

    return draw


def _agents(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Best F1 first, ceilings last."""
    return sorted(
        results["agents"].items(), key=lambda item: (is_reference(item[0]), -item[1]["avg_f1"])
    )


def _comparison(axes: Axes, results: Mapping[str, Any]) -> None:
    agents = _agents(results)
    groups = [label for _, label in _COMPARED]
    summaries = [[agent] * len(_COMPARED) for _, agent in agents]
    metrics = [metric for metric, _ in _COMPARED]
    _grouped(axes, [name for name, _ in agents], groups, summaries, metrics)
    axes.set_title(f"Agents on {_data(results)}", loc="left", fontweight="bold")


def _difficulty(axes: Axes, results: Mapping[str, Any]) -> None:
    agents = _agents(results)
    present = {level for _, agent in agents for level in agent["by_difficulty"]}
    levels = [level for level in ("easy", "medium", "hard", "unknown") if level in present]
    summaries = [[agent["by_difficulty"].get(level) for level in levels] for _, agent in agents]
    metrics = ["avg_f1"] * len(levels)
    _grouped(axes, [name for name, _ in agents], levels, summaries, metrics)
    axes.set_title(f"F1 by difficulty on {_data(results)}", loc="left", fontweight="bold")


def _data(results: Mapping[str, Any]) -> str:
    dataset = results["dataset"]
    split = f":{dataset['split']}" if dataset.get("split") else ""
    return f"{dataset['name']}{split} ({dataset['n']} scenarios, 95% intervals)"


def _grouped(
    axes: Axes,
    names: Sequence[str],
    groups: Sequence[str],
    summaries: Sequence[Sequence[Mapping[str, Any] | None]],
    metrics: Sequence[str],
) -> None:
    """Bars of every agent in every group, with intervals and values."""
    width = 0.8 / len(names)
    for i, (name, row) in enumerate(zip(names, summaries, strict=True)):
        for j, (summary, metric) in enumerate(zip(row, metrics, strict=True)):
            value = summary.get(metric) if summary else None
            if summary is None or value is None:
                continue
            x = j + (i - (len(names) - 1) / 2) * width
            colour = _CEILING if is_reference(name) else _COLOURS[i % len(_COLOURS)]
            axes.bar(x, value, 0.92 * width, color=colour, label=name if j == 0 else None)
            low, high = summary["ci95"].get(metric) or (value, value)
            errors = [[max(value - low, 0)], [max(high - value, 0)]]
            axes.errorbar(x, value, errors, color=_INK, capsize=2.5, linewidth=1)
            axes.text(x, high + 0.015, f"{value:.2f}", ha="center", fontsize=8)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 1.1)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=min(len(names), 4),
        fontsize=9,
        frameon=False,
    )
