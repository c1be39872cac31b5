"""How much of a server's capacity the teacher uses.

A local server in a process of its own answers every call after 300 ms; 32 calls may be in flight,
so it can answer 32 / 0.3 s = 106.7 calls a second. Printed is the teacher's rate over the whole run
(start, tail and the synced journal included) as a share of that. Target: at least 85%.

    python -m bench.bench_teacher [--num 640] [--fault-rate 0.0]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.harness import Row
from memroute_agents.cohere import DEFAULT_MODEL, CohereModel
from memroute_data_gen.teacher.pipeline import TeacherConfig, TeacherRun
from memroute_env.taxonomy import load_taxonomy

ROOT = Path(__file__).resolve().parent.parent
LATENCY_S, CONCURRENCY, TARGET = 0.3, 32, 0.85


async def measure(url: str, out: Path, num: int) -> tuple[int, float]:
    """Answered calls, and the seconds they took."""
    # The stand-in's key is no secret; importing it would need the tests on the path.
    model = CohereModel("co-test-KEY-5f1b9c0d", url, timeout_s=5.0, concurrency=CONCURRENCY)
    config = TeacherConfig(num=num, out=out, model=DEFAULT_MODEL, concurrency=CONCURRENCY)
    run = TeacherRun(config, load_taxonomy("marketing"), model)
    started = time.perf_counter()
    await run.run()
    seconds = time.perf_counter() - started
    await model.close()
    assert len(run.ledger.accepted) == num
    return run.caller.answered, seconds


def share_of_limit(num: int, fault_rate: float = 0.0) -> tuple[float, str]:
    """The rate as a share of the server's limit, and the figures in words."""
    arguments = ["--latency", str(LATENCY_S), "--fault-rate", str(fault_rate)]
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.servers.cohere", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            calls, seconds = asyncio.run(measure(url, Path(folder) / "out.jsonl", num))
    finally:
        server.kill()
        server.communicate()
    limit = CONCURRENCY / LATENCY_S
    ratio = calls / seconds / limit
    return ratio, (
        f"{calls / seconds:.1f} of {limit:.1f} calls a second ({num} examples, {calls} calls in "
        f"{seconds:.1f} s)"
    )


def rows() -> list[Row]:
    """For the table of all benchmarks."""
    ratio, figures = share_of_limit(640)
    what = "teacher, 32 calls in flight, 300 ms each: share of the server's limit"
    return [Row(what, f"{ratio:.1%}: {figures}", None, f"{TARGET:.0%}")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=640, help="examples")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="share of calls that fail")
    given = parser.parse_args()
    ratio, figures = share_of_limit(given.num, given.fault_rate)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(
        f"{ratio:.1%} of the server's limit (target {TARGET:.0%}): {figures}; "
        f"load {load:.1f} a core"
    )
    return 0 if ratio >= TARGET or given.fault_rate else 1


if __name__ == "__main__":
    sys.exit(main())
