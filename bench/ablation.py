"""`python -m bench.ablation`: what each part of the local policy is worth, on validation data.

Trains on the shipped training split, one variant a row, and writes `docs/ablation.md`. Nothing is
measured on a test split or a benchmark.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.harness import machine
from memroute_agents.local.features import FeatureConfig
from memroute_agents.local.policy import LocalPolicy
from memroute_agents.local.sets import Objective
from memroute_agents.local.training import TrainConfig, train_policy
from memroute_env import Dataset, load_dataset

TRAIN = load_dataset("marketing", "train")
VALIDATION = load_dataset("marketing", "validation")
DEFAULT = replace(TrainConfig(), estimator="none")
SEEDS = range(5)


def part(dataset: Dataset, source: str) -> Dataset:
    """The authored or the composed half of a split."""
    chosen = [e for e in dataset if e.metadata.source == source]
    return Dataset(chosen, dataset.taxonomy, name=source, checked=True)


def measure(policy: LocalPolicy, dataset: Dataset, objective: Objective = "reward") -> list[float]:
    """F1, exact match and reward."""
    batch = policy.encoder([e.conversation for e in dataset])
    masks = policy.decide(batch, objective)
    scores = policy.family.reward.score_masks(masks, dataset.gold_masks, components=True)
    exact = (masks == dataset.gold_masks).mean()
    return [float(scores.f1.mean()), float(exact), float(scores.total.mean())]


HALVES = {"authored": part(VALIDATION, "authored"), "composed": part(VALIDATION, "composed")}


def line(name: str, policy: LocalPolicy, objective: Objective = "reward") -> str:
    cells = [f"{v:.3f}" for half in HALVES.values() for v in measure(policy, half, objective)]
    print(name, *cells, flush=True)
    return f"| {name} | " + " | ".join(cells) + " |"


def variants() -> list[str]:
    supervised = DEFAULT.supervised
    configs = {
        "default, supervised": DEFAULT,
        "words only": replace(
            DEFAULT, features=FeatureConfig(stem_lengths=(), speaker_stem=0, char_orders=())
        ),
        "words and stems": replace(DEFAULT, features=FeatureConfig(speaker_stem=0, char_orders=())),
        "no stems with who speaks": replace(DEFAULT, features=FeatureConfig(speaker_stem=0)),
        "words and characters": replace(
            DEFAULT, features=FeatureConfig(stem_lengths=(), speaker_stem=0, char_orders=(3, 4, 5))
        ),
        "characters only": replace(
            DEFAULT,
            features=FeatureConfig((), stem_lengths=(), speaker_stem=0, char_orders=(3, 4, 5)),
        ),
        "pooling over sentences sharper (tau 0.1)": replace(DEFAULT, pooling=0.1),
        "pooling softer (tau 5, nearly the mean)": replace(DEFAULT, pooling=5.0),
        "no authored evidence": replace(
            DEFAULT, supervised=replace(supervised, evidence_weight=0.0)
        ),
        "no label smoothing": replace(DEFAULT, smoothing=0.0),
        "no class balance": replace(DEFAULT, balance=0.0),
        "authored conversations weighted as composed": replace(DEFAULT, authored_weight=1.0),
    }
    lines = []
    for name, config in configs.items():
        policy = train_policy(TRAIN, VALIDATION, config).policy
        lines.append(line(name, policy))
        if config is DEFAULT:
            for objective in ("f1", "exact"):
                lines.append(line(f"default, decoded for {objective}", policy, objective))
    for source in ("authored", "composed"):
        policy = train_policy(part(TRAIN, source), VALIDATION, DEFAULT).policy
        lines.append(line(f"trained on the {source} half alone", policy))
    return lines


def learning_curve() -> list[str]:
    order = np.random.default_rng(0).permutation(len(TRAIN))
    lines = []
    for share in (0.125, 0.25, 0.5, 1.0):
        chosen = [TRAIN[int(i)] for i in order[: int(share * len(TRAIN))]]
        dataset = Dataset(chosen, TRAIN.taxonomy, checked=True)
        lines.append(line(f"{len(chosen):,}", train_policy(dataset, VALIDATION, DEFAULT).policy))
    return lines


def estimators() -> list[str]:
    """Five seeds of each: mean ± standard deviation on the whole validation split."""
    lines = []
    for estimator in ("none", "sampled", "exact"):
        config = replace(DEFAULT, estimator=estimator)
        found = np.array(
            [
                measure(
                    train_policy(TRAIN, VALIDATION, replace(config, seed=seed)).policy, VALIDATION
                )
                for seed in SEEDS
            ]
        )
        cells = [
            f"{m:.4f} ± {s:.4f}" for m, s in zip(found.mean(0), found.std(0, ddof=1), strict=True)
        ]
        print(estimator, *cells, flush=True)
        lines.append(f"| {estimator} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    head = "F1, authored | exact | reward | F1, composed | exact | reward |\n" + "|---" * 7 + "|"
    text = (
        "# What each part of the local policy is worth\n\nWritten by `python -m bench.ablation` on "
        f"{machine()}. Everything is measured on the validation split: {len(HALVES['authored'])} "
        f"conversations written in one piece, {len(HALVES['composed'])} composed ones.\n\n"
        f"| variant | {head}\n" + "\n".join(variants()) + "\n\n"
        f"## Learning curve\n\n| training conversations | {head}\n"
        + "\n".join(learning_curve())
        + "\n\n## Policy gradient\n\nMean and standard deviation over five seeds, same decoding, "
        "on the whole validation split. `none` is the supervised policy.\n\n"
        "| estimator | F1 | exact | reward |\n|---|---|---|---|\n" + "\n".join(estimators()) + "\n"
    )
    Path("docs/ablation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
