"""`python -m bench.scaling`: training time and memory at 2,000, 20,000 and 200,000 conversations.

Each size runs in a process of its own: composed conversations, features, two supervised epochs of
the default configuration. Rewrites `docs/scaling.md`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.harness import machine
from memroute_agents.local.training import TrainConfig, train_policy
from memroute_data_gen.compose import compose
from memroute_env import Dataset, load_dataset, load_taxonomy

SIZES = (2_000, 20_000, 200_000)


def one(size: int) -> dict[str, float]:
    """Seconds and peak memory of one size, in this process."""
    data = Dataset(
        list(compose(size, seed=5)), load_taxonomy("marketing"), name="composed", checked=True
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    config = TrainConfig(estimator="none")
    config = replace(config, supervised=replace(config.supervised, epochs=2, min_steps=0))
    started = time.perf_counter()
    policy = train_policy(data, load_dataset("marketing", "validation"), config).policy
    return {
        "seconds": time.perf_counter() - started,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "data": before,
        "columns": len(policy.encoder.columns),
    }


def main() -> None:
    """Run all sizes and write the table."""
    if len(sys.argv) > 1:
        print(json.dumps(one(int(sys.argv[1]))))
        return
    lines, first = [], 0.0
    for size in SIZES:
        done = subprocess.run(
            [sys.executable, "-m", "bench.scaling", str(size)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found["seconds"] / size
        lines.append(
            f"| {size:,} | {found['seconds']:.1f} s | {found['seconds'] / size / first:.2f} | "
            f"{found['mebibytes']:,.0f} MiB | {found['data']:,.0f} MiB | {found['columns']:,} |"
        )
        print(lines[-1], flush=True)
    Path("docs/scaling.md").write_text(
        "# Training more conversations\n\nWritten by `python -m bench.scaling` on "
        f"{machine()}. Features and two supervised epochs (the default trains "
        f"{TrainConfig().supervised.epochs}) of composed conversations, each size in a process of "
        "its own.\n\n"
        "| conversations | time | time a conversation, relative | peak memory | of that before "
        "training (the examples) | columns |\n|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
