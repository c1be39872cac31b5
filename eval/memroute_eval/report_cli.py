"""`memroute report`, `memroute compare` and `memroute leaderboard`, for the root to mount."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memroute_env.datasets import Dataset
from memroute_env.errors import OptionError
from memroute_env.render import plain
from memroute_eval.compare import DEFAULT_METRICS, Difference, compare_agents
from memroute_eval.export import SCENARIO_COLUMNS, scenario_rows, write_csv
from memroute_eval.leaderboard import Board, leaderboards
from memroute_eval.metrics import METRICS
from memroute_eval.results import merge_results, read_results, results_name

__all__ = ["compare", "leaderboard", "report"]

_BOARD_METRICS = {
    "reward": "reward",
    "avg_f1": "F1",
    "exact_match": "exact",
    "macro_f1": "macro F1",
    "false_store_rate": "false stores",
    "missed_store_rate": "missed stores",
}
"""Metrics of the printed leaderboard and their short names."""


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_RESULTS...", help="Run directories or results files."),
    ],
    out: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("report.html"),
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the classic plots as PNG, too.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every answer as CSV, too.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_PATH", help="The data with the conversations."),
    ] = None,
    taxonomy: Annotated[
        str | None, typer.Option(metavar="NAME_OR_PATH", help="Taxonomy of --data.")
    ] = None,
) -> None:
    """Write a self-contained HTML report that compares agents and shows every scenario."""
    from memroute_eval.plots import write_plots
    from memroute_eval.report import gather, write_page
    from memroute_eval.report_scenarios import load_measured

    console = Console(stderr=True)
    given = gather(sources)
    if taxonomy is not None and data is None:
        raise OptionError("--taxonomy says how --data is labelled; give --data, too")
    dataset: Dataset | str | None = data
    if data and taxonomy and given.results is not None:
        dataset = load_measured(data, given.results["dataset"], taxonomy)
    if csv is not None and given.results is None:
        raise OptionError("--csv needs results; the sources hold training curves only")
    write_page(given, out, dataset)
    _say(console, f"report: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    if plots is not None:
        written = write_plots(plots, given.results, given.curves)
        names = ", ".join(path.name for path in written)
        _say(console, f"plots: {plots} ({names or 'nothing to draw'})")
    if csv is not None and given.results is not None:
        write_csv(csv, SCENARIO_COLUMNS, scenario_rows(given.results))
        _say(console, f"answers: {csv}")


def compare(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Results files or run directories.")
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric to test; may be given several times.")
    ] = None,
    agent: Annotated[
        list[str] | None, typer.Option(help="Only these agents; may be given several times.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples.")] = 2000,
    permutations: Annotated[int, typer.Option(min=1, help="Random swaps.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test whether agents differ by more than chance, paired on the same examples."""
    merged = merge_results([(results_name(path), read_results(path)) for path in results])
    differences = compare_agents(
        merged,
        agent or None,
        tuple(metric) if metric else DEFAULT_METRICS,
        resamples=resamples,
        permutations=permutations,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps([d.to_dict() for d in differences], indent=2))
        return
    _print_comparison(Console(), differences)


def leaderboard(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Searched for results files.")],
    sort: Annotated[str, typer.Option(help="Metric to sort by.")] = "reward",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write CSV, too.")] = None,
) -> None:
    """Rank every agent of every results file below a folder, one table for each dataset."""
    boards, problems = leaderboards(folder, sort)
    for problem in problems:
        _say(Console(stderr=True), f"passed over: {problem}")
    if csv is not None:
        columns = ("dataset", "sha256", "agent", "version", "source", "parse", "seed", "n")
        write_csv(csv, (*columns, "n_failed", *METRICS), _board_rows(boards))
    if as_json:
        typer.echo(json.dumps([_plain_board(board) for board in boards], indent=2))
        return
    for board in boards:
        Console().print(_board_table(board, sort))


def _print_comparison(console: Console, differences: list[Difference]) -> None:
    """A letter for each agent, then a narrow table for each metric: fits 80 columns."""
    names = dict.fromkeys(name for d in differences for name in (d.a, d.b))
    letters = {name: _letter(i) for i, name in enumerate(names)}
    for name, letter in letters.items():
        console.print(Text(f"{letter}  ", "bold").append_text(_text(name)), soft_wrap=True)
    for metric in dict.fromkeys(d.metric for d in differences):
        console.print()
        table = _plain_table()
        table.title = Text(metric, "bold")
        table.add_column("pair", no_wrap=True)
        for column in ("first", "second", "difference", "95% interval", "p (Holm)", "n"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for d in differences:
            if d.metric != metric:
                continue
            p = "–" if d.p_holm is None else "<0.001" if d.p_holm < 0.001 else f"{d.p_holm:.3f}"
            table.add_row(
                f"{letters[d.a]} − {letters[d.b]}",
                _number(d.value_a),
                _number(d.value_b),
                _number(d.difference, "+.3f"),
                f"{d.ci95[0]:+.3f} {d.ci95[1]:+.3f}" if d.ci95 else "–",
                p,
                str(d.n),
                Text("significant", "green") if d.significant else Text("chance?", "dim"),
            )
        console.print(table)


def _plain_table() -> Table:
    """No rules but space: a terminal of 80 columns is enough."""
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")


def _letter(index: int) -> str:
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(65 + index % 26)


def _board_table(board: Board, sort: str) -> Table:
    table = _plain_table()
    table.title = _text(f"{board.dataset} · sha256 {board.sha256[:12]}")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("agent\nresults", overflow="fold", min_width=18)
    shown = {sort: _BOARD_METRICS.get(sort, sort.replace("_", " ")), **_BOARD_METRICS}
    for name in shown.values():
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_column("n", justify="right")
    for place, entry in enumerate(board.entries, 1):
        interval = entry.ci95.get(sort)
        cells = [Text(_number(entry.metrics.get(metric))) for metric in shown]
        if interval:
            cells[0].append(f"\n{interval[0]:.2f}–{interval[1]:.2f}", "dim")
        failed = f"\n{entry.n_failed} failed" if entry.n_failed else ""
        name = _text(entry.agent).append("\n").append(plain(entry.source), "dim")
        table.add_row(str(place), name, *cells, f"{entry.n}{failed}")
    return table


def _board_rows(boards: list[Board]) -> list[dict[str, Any]]:
    return [
        {"dataset": board.dataset, "sha256": board.sha256, **vars(entry), **entry.metrics}
        for board in boards
        for entry in board.entries
    ]


def _plain_board(board: Board) -> dict[str, Any]:
    return {**vars(board), "entries": [vars(entry) for entry in board.entries]}


def _text(value: str) -> Text:
    """Untrusted text: no markup, no control characters."""
    return Text(plain(value))


def _say(console: Console, line: str) -> None:
    console.print(_text(line), soft_wrap=True)


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)
