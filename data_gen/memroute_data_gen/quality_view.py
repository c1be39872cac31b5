"""A quality report in the terminal and as a page."""

from __future__ import annotations

from html import escape
from pathlib import Path

from memroute_data_gen.quality import QualityReport
from memroute_env.render import plain

__all__ = ["print_report", "write_page"]

_SHOWN = 10


def print_report(report: QualityReport, source: str) -> None:
    """Gates first, then what was measured."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    gates = Table(title=Text(f"{plain(source)}: {report.n} conversations"), title_justify="left")
    for heading in ("gate", "wanted", "found", ""):
        gates.add_column(heading)
    for gate in report.gates:
        mark = Text("pass", "green") if gate.passed else Text("FAIL", "bold red")
        gates.add_row(Text(plain(gate.name)), gate.wanted, Text(plain(gate.found)), mark)
    console.print(gates)
    for name, counts in report.distributions.items():
        shares = "  ".join(f"{key.strip()} {count}" for key, count in counts.items())
        console.print(Text.assemble((name, "bold"), f"  {plain(shares)}"))
    for line in _findings(report):
        console.print(plain(line), markup=False)


def _findings(report: QualityReport) -> list[str]:
    lines = [
        f"near duplicates within: {len(report.near_duplicates)} resemble an earlier example"
        + _few([f"{a} ~ {b} ({s:.2f})" for a, b, s in report.near_duplicates]),
        "near duplicates across: not measured; name the other splits with --against"
        if report.across is None
        else f"near duplicates across: {len(report.across)}"
        + _few([f"{a} ~ {b} ({s:.2f})" for a, b, s in report.across]),
        f"likely secrets and personal data: {len(report.secrets)}"
        + _few([f"{i}: {kind} {text!r}" for i, kind, text in report.secrets]),
    ]
    leak = report.assistant_leak
    if leak:
        lines.append(
            f"assistant turns alone: reward {leak['assistant_only']:.3f} "
            f"(best constant {leak['constant']:.3f}, user turns {leak['user_only']:.3f})"
        )
        lines.append(
            f"labels a cross-validated policy contradicts: {len(report.suspected_noise)}"
            + _few(
                [
                    f"{n['id']}: {'+'.join(n['gold'])}, suggested {n['suggested']} "
                    f"({n['probability']:.2f})"
                    for n in report.suspected_noise
                ]
            )
        )
    return lines


def _few(items: list[str]) -> str:
    shown = "".join(f"\n  {item}" for item in items[:_SHOWN])
    return shown + (f"\n  … and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;
color:#1c1c1c;background:#fff}
@media(prefers-color-scheme:dark){body{color:#e8e8e8;background:#16181c}td,th{border-color:#444!important}}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{border-bottom:1px solid #ccc;
padding:.25rem .75rem .25rem 0;text-align:left}pre{white-space:pre-wrap}
svg{display:block;max-width:100%;height:auto}
.fail{font-weight:700;color:#b3261e}text{fill:currentColor;font:12px system-ui,sans-serif}
"""


def write_page(report: QualityReport, source: str, path: Path) -> None:
    """One self-contained page: gates, a bar chart of every distribution, findings."""
    rows = "".join(
        f"<tr><td>{escape(g.name)}<td>{escape(g.wanted)}<td>{escape(g.found)}"
        f"<td{'' if g.passed else ' class=fail'}>{'pass' if g.passed else 'FAIL'}"
        for g in report.gates
    )
    charts = "".join(
        f"<h2>{escape(name)}</h2>{_bars(name, counts)}"
        for name, counts in report.distributions.items()
        if counts
    )
    findings = escape("\n".join(_findings(report)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
        f'content="width=device-width"><title>Quality of {escape(source)}</title>'
        f"<style>{_STYLE}</style><h1>Quality of {escape(source)}</h1>"
        f"<p>{report.n} conversations.</p><table><tr><th>gate<th>wanted<th>found<th>result{rows}"
        f"</table><h2>Findings</h2><pre>{findings}</pre>{charts}</html>",
        encoding="utf-8",
    )


def _bars(name: str, counts: dict[str, int]) -> str:
    """A horizontal bar chart with its numbers as labels."""
    most = max(counts.values()) or 1
    left = 20 + 7 * max(map(len, counts))  # wide enough for the longest label, wide letters too
    bars = "".join(
        f'<text x="{left - 8}" y="{20 * i + 15}" text-anchor="end">{escape(key)}</text>'
        f'<rect x="{left}" y="{20 * i + 4}" width="{400 * count / most:.1f}" height="14" '
        f'fill="#3b6ea5"/><text x="{left + 6 + 400 * count / most:.1f}" y="{20 * i + 15}">{count}'
        "</text>"
        for i, (key, count) in enumerate(counts.items())
    )
    width, height = left + 470, 20 * len(counts) + 4
    return (
        f'<svg role="img" aria-label="{escape(name)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{bars}</svg>'
    )
