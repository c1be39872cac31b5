"""The results as a table in the terminal."""

from __future__ import annotations

from typing import Any

from memroute_env.render import plain

__all__ = ["print_results"]

_COLUMNS = (
    ("F1", "avg_f1", 3),
    ("exact", "exact_match", 3),
    ("any", "any_match", 3),
    ("macro F1", "macro_f1", 3),
    ("none P", "none_precision", 2),
    ("none R", "none_recall", 2),
    ("false store", "false_store_rate", 2),
    ("temporal", "temporal_accuracy", 2),
    ("scope", "scope_accuracy", 2),
    ("cats", "avg_categories", 2),
    ("reward", "reward", 3),
    ("malformed", "malformed_rate", 2),
)
_WITH_INTERVAL = ("avg_f1", "exact_match", "reward")


def _cell(result: dict[str, Any], metric: str, digits: int) -> str:
    value = result.get(metric)
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    interval = (result.get("ci95") or {}).get(metric)
    if metric in _WITH_INTERVAL and interval:
        text += f"\n{interval[0]:.2f}–{interval[1]:.2f}"
    return text


def print_results(results: dict[str, Any]) -> None:
    """Print agents × metrics with 95% intervals, and the published figures in their own block."""
    from rich.console import Console
    from rich.table import Table

    from memroute_eval.published import PUBLISHED

    console = Console()
    dataset = results["dataset"]
    split = f":{dataset['split']}" if dataset.get("split") else ""
    table = Table(
        title=f"{plain(dataset['name'])}{split}, {dataset['n']} conversations, "
        f"sha256 {dataset['sha256'][:12]}, {results['parse']} parsing",
        title_justify="left",
    )
    table.add_column("agent", no_wrap=True)
    for heading, _, _ in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in results["agents"].items():
        label = plain(name)
        if result["n_failed"]:
            label += f"\n[red]{result['n_failed']} calls failed[/red]"
        table.add_row(label, *(_cell(result, metric, digits) for _, metric, digits in _COLUMNS))
    console.print(table)
    console.print("Below the value: its 95% bootstrap interval.", style="dim")
    block = Table(
        title="Published elsewhere, on another benchmark of 50 scenarios: not comparable line by line",
        title_justify="left",
    )
    block.add_column("agent")
    for heading in ("F1", "exact", "any"):
        block.add_column(heading, justify="right")
    for row in PUBLISHED:
        block.add_row(
            row.agent, f"{row.avg_f1:.3f}", f"{row.exact_match:.2f}", f"{row.any_match:.2f}"
        )
    console.print(block)
