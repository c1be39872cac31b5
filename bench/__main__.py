"""Run every benchmark and write `docs/benchmarks.md`."""

from __future__ import annotations

from pathlib import Path

from bench import bench_environment, bench_local
from bench.harness import Row, machine


def table(title: str, rows: list[Row]) -> str:
    lines = [f"## {title}", "", "| what | measured | ratio | to reach |", "|---|---|---|---|"]
    for row in rows:
        ratio = f"{row.ratio:,.1f}×" if row.ratio is not None else ""
        lines.append(f"| {row.what} | {row.measured} | {ratio} | {row.target} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = (
        "# Benchmarks\n\nWritten by `make bench`: medians of one run, so read the ratios, not the "
        "rates. Rates are per second of this process's own processor time, and what is compared is "
        f"measured in turns.\n\nMachine: {machine()}.\n\n"
        + table("Environment", bench_environment.rows())
        + bench_environment.REMARKS
        + "\n"
        + table("Local policy", bench_local.rows())
    )
    path = Path("docs/benchmarks.md")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
