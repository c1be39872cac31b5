"""`memroute demo`: the main job in one go, deterministic for a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from memroute_agents.local.router import LocalAgent
from memroute_agents.local.training import TrainConfig, TrainResult, train_policy
from memroute_data_gen.compose import compose
from memroute_data_gen.corpus import build_split
from memroute_env.conversation import write_examples
from memroute_env.datasets import SPLITS, Dataset
from memroute_env.errors import DataError
from memroute_env.taxonomy import load_taxonomy
from memroute_eval.evaluate import AgentSpec, evaluate
from memroute_eval.results import RESULTS_FILE, write_results

__all__ = ["run_demo"]

_FRESH = 1_000_000
"""Composer seeds from here on make no split."""
_BASELINES = ("random", "constant", "keyword", "oracle")


def run_demo(
    out: Path, seed: int, progress: Callable[[str, int, int], None]
) -> tuple[dict[str, Any], Path]:
    """Build the corpus, train, evaluate beside the baselines, write a report.

    Args:
        out: Gets `corpus/*.jsonl`, `policy.npz`, `metrics.jsonl`, `results.json`, `report.html`.
        seed: Of corpus, training and evaluation.
        progress: Called with a label, steps done, steps planned.

    Returns:
        The results and the path of the report.
    """
    taxonomy = load_taxonomy("marketing")
    splits: dict[str, Dataset] = {}
    for split in SPLITS:

        def building(done: int, total: int, split: str = split) -> None:
            progress(f"corpus {split}", done, total)

        examples = build_split(split, seed, progress=building)
        write_examples(out / "corpus" / f"{split}.jsonl", examples)
        splits[split] = Dataset(
            examples, taxonomy, name=str(out / "corpus"), split=split, checked=True
        )
    config = TrainConfig(seed=seed)
    # Half of the policy gradient's groups are conversations that nothing was fitted to.
    new = config.gradient_iterations * config.groups // 2
    fresh = Dataset(list(compose(new, seed=_FRESH + seed)), taxonomy, name="fresh", checked=True)
    trained = _train(splits, fresh, config, out, progress)
    results = evaluate(
        [*_BASELINES, AgentSpec("local", LocalAgent(trained.policy))],
        splits["test"],
        seed=seed,
        train=splits["train"],
        progress=progress,
    )
    results["dataset"]["name"] = str(out / "corpus")
    write_results(results, out / RESULTS_FILE)
    report = out / "report.html"
    from memroute_eval.report import write_report

    curves = [{"name": "local", "rows": trained.metrics}]
    write_report([results], report, curves, data=splits["test"])
    return results, report


def _train(
    splits: dict[str, Dataset],
    fresh: Dataset,
    config: TrainConfig,
    out: Path,
    progress: Callable[[str, int, int], None],
) -> TrainResult:
    """Train, going on from the state of an interrupted run of the same seed and data."""
    train, validation = splits["train"], splits["validation"]
    if (out / "state.npz").exists():
        try:
            return train_policy(
                train, validation, config, out=out, resume=True, fresh=fresh, report=progress
            )
        except DataError:
            pass  # the state is another run's: begin anew
    return train_policy(train, validation, config, out=out, fresh=fresh, report=progress)
