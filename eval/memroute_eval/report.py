"""The HTML report: one self-contained file that compares agents and shows every scenario.

Conversations, answers and names are untrusted text. Four things keep them text: Jinja's autoescape
is on everywhere; control characters are replaced in the finished page; a content policy in the
page allows exactly its own script and style sheet, by hash, and no other source of anything; and
the script never makes markup from text.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memroute_env import __version__
from memroute_env.datasets import Dataset
from memroute_env.errors import DataError, MissingDependencyError
from memroute_env.render import plain
from memroute_eval.curves import (
    METRICS_FILE,
    Curve,
    curves_of,
    find_curves,
    panels_of,
    read_curve,
)
from memroute_eval.lines import Line
from memroute_eval.metrics import METRICS
from memroute_eval.published import PROVENANCE, PUBLISHED, TRAINING, published_for
from memroute_eval.report_scenarios import VERDICTS, find_examples, scenarios_of
from memroute_eval.report_view import (
    agent_views,
    category_views,
    confusion_rows,
    group_tables,
    swap_rows,
    verdict_of,
)
from memroute_eval.results import (
    RESULTS_FILE,
    check_results,
    merge_results,
    read_results,
    results_name,
    taxonomy_of,
)
from memroute_eval.targets import TARGETS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["ReportInput", "gather", "render_report", "write_page", "write_report"]

Source = Mapping[str, Any] | str | PathLike[str]
"""Results as `evaluate` returns them, a results file, a `metrics.jsonl`, or a run directory."""


@dataclass(frozen=True)
class ReportInput:
    """What a report is made of."""

    results: dict[str, Any] | None
    """Merged results; None where the sources hold training curves only."""
    curves: Sequence[Curve]
    folders: Sequence[Path]
    """Where files came from: the data may lie beside them."""


def gather(sources: Sequence[Source], curves: Sequence[Mapping[str, Any]] = ()) -> ReportInput:
    """Read everything that a report shows.

    Args:
        sources: At least one.
        curves: Further training curves: `{"name": ..., "rows": [{"step": ..., "loss": ...}, ...]}`,
            or `{"name": ..., "path": ...}` for a `metrics.jsonl`.

    Raises:
        DataError: If a source cannot be read, holds nothing, or results are of different data.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    drawn: list[Curve] = []
    folders: list[Path] = []
    for number, source in enumerate(sources, 1):
        if isinstance(source, Mapping):
            found.append((f"results {number}", check_results(dict(source), f"results {number}")))
            continue
        path = Path(source)
        if path.is_dir():
            own = find_curves(path)
            if (path / RESULTS_FILE).is_file():
                found.append((results_name(path), read_results(path)))
            elif not own:
                raise DataError(
                    f"{path}: holds neither {RESULTS_FILE} nor {METRICS_FILE}; name a run "
                    "directory or a results file"
                )
            drawn += own
            folders.append(path)
        elif path.suffix == ".jsonl":
            drawn += read_curve(path)
        else:
            found.append((results_name(path), read_results(path)))
            folders.append(path.parent)
    for curve in curves:
        if "path" in curve:
            drawn += read_curve(Path(curve["path"]), curve.get("name"))
        else:
            drawn += curves_of(str(curve.get("name", "run")), curve["rows"])
    if not found and not drawn:
        raise DataError("a report needs at least one results file or run directory")
    return ReportInput(merge_results(found) if found else None, drawn, folders)


def write_report(
    sources: Sequence[Source],
    out: Path,
    curves: Sequence[Mapping[str, Any]] = (),
    *,
    data: Dataset | str | PathLike[str] | None = None,
) -> None:
    """Write the report as one HTML file that needs nothing else.

    Args:
        sources: Results, files or run directories; see `Source`.
        out: Path of the page; its folder is made if need be.
        curves: Further training curves; see `gather`.
        data: The dataset with the conversations, or its path; by default the one that the results
            name. Its text is shown only if its content hash is the one in the results.

    Raises:
        DataError: If a source cannot be read, or results are of different data.
        MissingDependencyError: If jinja2 is not installed.
    """
    write_page(gather(sources, curves), out, data)


def write_page(
    given: ReportInput, out: Path, data: Dataset | str | PathLike[str] | None = None
) -> None:
    """`write_report` for sources that have been read."""
    page = render_report(given, data)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # JSON can carry lone surrogates, which UTF-8 cannot.
    out.write_bytes(page.encode("utf-8", "replace"))


def render_report(given: ReportInput, data: Dataset | str | PathLike[str] | None = None) -> str:
    """The page as text; equal input gives an equal page."""
    environment = _environment()
    style = environment.get_template("report.css.j2").render()
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    context: dict[str, Any] = {
        "version": __version__,
        "title": "memroute report",
        "agents": [],
        "published": PUBLISHED,
        "provenance": PROVENANCE,
        "training": TRAINING,
        **_learnt(given.curves),
    }
    if given.results is not None:
        context |= _measured(given.results, given.folders, data)
    context["sections"] = _sections(context)
    from markupsafe import Markup

    page = environment.get_template("report.html.j2").render(
        **context,
        # Both are the project's own files; their hashes are what the content policy allows.
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    return plain(page)


_TEMPLATES = Path(__file__).parent / "report_templates"


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader
    except ImportError:
        raise MissingDependencyError("jinja2", "report") from None
    from memroute_eval.charts import bar, reliability_chart

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "bar": bar,
        "reliability": reliability_chart,
        "breakable": _breakable,
        "count_text": _count_text,
        "ms": _milliseconds,
        "rate": _rate,
        "in_unit": _in_unit,
        "metrics": METRICS,
        "verdicts": VERDICTS,
        "targets": TARGETS,
    }
    return environment


def _hash(text: str) -> str:
    """SHA-256 of an inline script or style, as a content policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _measured(
    results: dict[str, Any], folders: Sequence[Path], data: Dataset | str | PathLike[str] | None
) -> dict[str, Any]:
    """Everything that rests on results."""
    # Names are what the filters compare, so they are cleaned before the page is.
    results = {**results, "agents": {plain(name): a for name, a in results["agents"].items()}}
    taxonomy = taxonomy_of(results)
    agents = agent_views(results)
    categories = category_views(taxonomy)
    examples, no_text = find_examples(results["dataset"], folders, data)
    scenarios = scenarios_of(agents, taxonomy, examples)
    groups = group_tables(agents)
    names = {group.key: [name for name, _, _ in group.rows] for group in groups}
    return {
        "title": f"{results['dataset']['name']} · memroute report",
        "dataset": results["dataset"],
        "published": published_for(taxonomy),
        "measured": results,
        "agents": agents,
        "by_name": {agent.name: agent for agent in agents},
        "verdict": verdict_of(results, agents, results.get("seed", 0)),
        "groups": groups,
        "categories": categories,
        "swaps": swap_rows(agents),
        "confusions": [(a, *confusion_rows(a.confusion, categories)) for a in agents],
        "scenarios": scenarios,
        "no_text": no_text,
        "difficulties": names["by_difficulty"],
        "domains": names["by_domain"],
    }


def _learnt(curves: Sequence[Curve]) -> dict[str, Any]:
    """Training curves as charts: one for each panel and run."""
    from memroute_eval.charts import line_chart

    panels, rest = panels_of(curves)
    charts = []
    for panel, series in panels:
        for run in dict.fromkeys(s.run for s in series):
            lines = [
                Line(s.label.removeprefix(f"{panel.title.lower()} "), s.steps, s.values, i)
                for i, s in enumerate(s for s in series if s.run == run)
            ]
            charts.append((panel.title, panel.better, run, line_chart(panel.title, lines)))
    notes = [
        f"{curve.name.partition(' · ')[0]}: lines of the log that could not be read, and were "
        f"passed over: {curve.skipped}"
        for curve in curves
        if curve.skipped
    ]
    return {"panels": charts, "logged": rest, "curve_notes": notes}


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The navigation: anchors and names of the sections that the page has."""
    measured = bool(context["agents"])
    scored = any(agent.calibration for agent in context["agents"])
    sections = [
        (measured, "who", "Who wins"),
        (measured, "where", "Where"),
        (measured, "what", "On what"),
        (bool(context["panels"] or context["logged"]), "learnt", "Learning"),
        (measured, "cost", "Cost"),
        (scored, "trust", "Calibration"),
        (measured, "targets", "Targets"),
        (bool(context["published"]), "published", "Published"),
        (measured, "scenarios", "Scenarios"),
    ]
    return [(anchor, label) for present, anchor, label in sections if present]


def _breakable(name: str) -> Markup:
    """A name that may break after its punctuation rather than anywhere."""
    from markupsafe import Markup, escape

    pieces = re.split(r"(?<=[:/._+-])", name)
    return Markup("<wbr>").join(escape(piece) for piece in pieces)


def _count_text(count: float) -> str:
    """A count that may be a fraction: `3`, `2.5`; empty below 0.05."""
    if count < 0.05:
        return ""
    return f"{count:.0f}" if abs(count - round(count)) < 0.05 else f"{count:.1f}"


def _milliseconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _rate(value: Any) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _in_unit(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.0f}%"
    if unit == "ms":
        return _milliseconds(value)
    return f"{value:,.0f}/s" if unit == "/s" else f"{value:.1f}"
