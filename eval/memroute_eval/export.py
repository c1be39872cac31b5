"""CSV for spreadsheets, safe to open: a cell of a conversation never runs as a formula.

Spreadsheets evaluate a text cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return
(OWASP, "CSV Injection"), some of them the full-width forms too, and after white space; such text
gets an apostrophe in front, which shows it as text. Numbers are written as numbers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["SCENARIO_COLUMNS", "safe_cell", "scenario_rows", "write_csv"]

_TRIGGERS = frozenset("=+-@\t\r\n＝＋－＠")

SCENARIO_COLUMNS = (
    "id",
    "domain",
    "difficulty",
    "gold",
    "agent",
    "predicted",
    "exact",
    "reward",
    "reward_f1",
    "reward_temporal",
    "reward_parity",
    "reward_efficiency",
    "malformed",
    "error",
    "text",
)
"""Columns of the per-scenario export, in order."""


def safe_cell(value: Any) -> str | int | float:
    """A value as a cell: numbers as they are, None empty, text that no spreadsheet evaluates."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    text = str(value).replace("\x00", "\N{REPLACEMENT CHARACTER}")
    first = text.lstrip()[:1]
    return "'" + text if text[:1] in _TRIGGERS or first in _TRIGGERS else text


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as UTF-8 CSV (RFC 4180) with a header; missing values are empty cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate, which JSON can carry and UTF-8 cannot, must not stop the export.
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([safe_cell(column) for column in columns])
        writer.writerows([safe_cell(row.get(column)) for column in columns] for row in rows)


def scenario_rows(results: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """One row for every scenario and agent of (merged) results, agents within scenarios."""
    agents = {
        name: {row["id"]: row for row in agent["examples"]}
        for name, agent in results["agents"].items()
    }
    ids = dict.fromkeys(scenario for rows in agents.values() for scenario in rows)
    for scenario in ids:
        for name, rows in agents.items():
            if scenario not in rows:
                continue
            row = rows[scenario]
            failed = bool(row.get("error"))
            yield {
                **row,
                "agent": name,
                "gold": ", ".join(row["gold"]),
                "predicted": ", ".join(row.get("predicted") or ()),
                "exact": None if failed else sorted(row["predicted"]) == sorted(row["gold"]),
            }
