"""The results as a table in the terminal."""

from __future__ import annotations

from typing import Any

from memroute_env.render import plain

__all__ = ["print_results"]

_ROWS = (
    ("average F1", "avg_f1", 3),
    ("exact match", "exact_match", 3),
    ("any match", "any_match", 3),
    ("macro F1", "macro_f1", 3),
    ("none precision", "none_precision", 3),
    ("none recall", "none_recall", 3),
    ("false store", "false_store_rate", 3),
    ("temporal acc.", "temporal_accuracy", 3),
    ("scope acc.", "scope_accuracy", 3),
    ("categories", "avg_categories", 2),
    ("reward", "reward", 3),
    ("malformed", "malformed_rate", 3),
)
_WITH_INTERVAL = ("avg_f1", "exact_match", "reward")


def _cell(result: dict[str, Any], metric: str, digits: int) -> str:
    value = result.get(metric)
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    interval = (result.get("ci95") or {}).get(metric)
    if metric in _WITH_INTERVAL and interval:
        text += f" [{interval[0]:.2f}–{interval[1]:.2f}]".replace("[", "\\[")
    return text


def print_results(results: dict[str, Any]) -> None:
    """Print agents × metrics with 95% intervals.

    The published figures follow in their own block, if they are about the same categories.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from memroute_eval.published import published_for
    from memroute_eval.results import taxonomy_of

    console = Console()
    dataset = results["dataset"]
    split = f":{dataset['split']}" if dataset.get("split") else ""
    console.print(
        f"{plain(dataset['name'])}{split}, {dataset['n']} conversations, "
        f"sha256 {dataset['sha256'][:12]}, {results['parse']} parsing",
        highlight=False,
        markup=False,
        emoji=False,
    )
    agents = results["agents"]
    for names in _blocks(list(agents), max(1, (console.width - 16) // 15)):
        table = Table(show_lines=False, pad_edge=False)
        table.add_column("metric", no_wrap=True)
        for name in names:
            table.add_column(Text(plain(name)), justify="right")
        for heading, metric, digits in _ROWS:
            table.add_row(heading, *(_cell(agents[name], metric, digits) for name in names))
        if any(agents[name]["n_failed"] for name in names):
            table.add_row(
                "[red]failed calls[/red]", *(str(agents[name]["n_failed"]) for name in names)
            )
        console.print(table)
    console.print("In brackets: the 95% bootstrap interval.", style="dim")
    published = published_for(taxonomy_of(results))
    if not published:
        return
    block = Table(
        title="Published elsewhere, measured on another benchmark (50 scenarios)",
        title_justify="left",
        pad_edge=False,
    )
    block.add_column("agent")
    for heading in ("F1", "exact", "any"):
        block.add_column(heading, justify="right")
    for row in published:
        block.add_row(
            row.agent, f"{row.avg_f1:.3f}", f"{row.exact_match:.2f}", f"{row.any_match:.2f}"
        )
    console.print(block)


def _blocks(names: list[str], width: int) -> list[list[str]]:
    """Agents in blocks that fit beside each other."""
    return [names[i : i + width] for i in range(0, len(names), width)]
