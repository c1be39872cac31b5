"""Tokens, cost and time of a run, before anything is sent.

Time is scaled from the published run (`memroute_eval.published.TRAINING`): 100 supervised steps of
128 in 17 minutes, 30 iterations of 64 x 32 samples in 3.2 hours, an 8B model on Tinker's service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memroute_agents.tinker.lengths import LengthReport
from memroute_agents.tinker.options import TrainOptions

__all__ = ["PRICES", "Estimate", "Prices", "StageEstimate", "estimate"]


@dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens."""

    prefill: float
    sample: float
    train: float


PRICES: Mapping[str, Prices] = {
    "meta-llama/Llama-3.2-1B": Prices(0.03, 0.09, 0.09),
    "meta-llama/Llama-3.2-3B": Prices(0.06, 0.18, 0.18),
    "meta-llama/Llama-3.1-8B": Prices(0.13, 0.40, 0.40),
    "meta-llama/Llama-3.1-8B-Instruct": Prices(0.13, 0.40, 0.40),
    "meta-llama/Llama-3.1-70B": Prices(1.05, 3.16, 3.16),
    "meta-llama/Llama-3.3-70B-Instruct": Prices(1.05, 3.16, 3.16),
}
"""Tinker's list prices as of late 2025, from memory of its price page: look there before a long
run, and give your own with `--price`."""

SFT_SECONDS_PER_STEP = 17 * 60 / 100
RL_SECONDS_PER_SAMPLE = 3.2 * 3600 / (30 * 64 * 32)
SHORTEST_ITERATION_S = 10.0
"""A round trip through the service's queue takes this long whatever the batch."""


@dataclass(frozen=True)
class StageEstimate:
    """What a stage will use."""

    name: str
    prefill_tokens: int
    sample_tokens: int
    """Expected: answers as long as the gold ones."""
    train_tokens: int
    first_step_tokens: int
    """Of its first step and the evaluation before it, if every answer ran to the limit."""
    seconds: float

    @property
    def tokens(self) -> int:
        """Of all three kinds."""
        return self.prefill_tokens + self.sample_tokens + self.train_tokens

    def dollars(self, prices: Prices) -> float:
        """Expected cost."""
        used = (
            self.prefill_tokens * prices.prefill
            + self.sample_tokens * prices.sample
            + self.train_tokens * prices.train
        )
        return used / 1e6


@dataclass(frozen=True)
class Estimate:
    """What a run will use."""

    stages: tuple[StageEstimate, ...]
    prices: Prices | None

    @property
    def tokens(self) -> int:
        """Of all stages."""
        return sum(stage.tokens for stage in self.stages)

    def lines(self) -> list[str]:
        """For people: a line a stage, and the sum."""
        lines = []
        for stage in self.stages:
            cost = f", ${stage.dollars(self.prices):,.2f}" if self.prices else ""
            lines.append(
                f"{stage.name}: {stage.tokens / 1e6:,.2f} M tokens (read "
                f"{stage.prefill_tokens / 1e6:,.2f}, sampled {stage.sample_tokens / 1e6:,.2f}, "
                f"trained {stage.train_tokens / 1e6:,.2f}){cost}, about {_clock(stage.seconds)} "
                "at the published run's speed"
            )
        if self.prices is None:
            lines.append("cost: no price is known for this model; give --price READ,SAMPLE,TRAIN")
        else:
            total = sum(stage.dollars(self.prices) for stage in self.stages)
            lines.append(f"together: {self.tokens / 1e6:,.2f} M tokens, about ${total:,.2f}")
        return lines


def _clock(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h"


def estimate(
    options: TrainOptions,
    stages: tuple[str, ...],
    prompts: LengthReport,
    examples: LengthReport,
    prices: Prices | None = None,
    held_out: int | None = None,
) -> Estimate:
    """What a run will use.

    Args:
        options: The run's.
        stages: Which of `sft`, `rl`.
        prompts: Lengths of the training prompts.
        examples: Lengths of the training prompts with their gold answers.
        prices: By default those known for the model, if any.
        held_out: Held-out conversations there are; by default as many as are asked for.
    """
    parts: list[StageEstimate] = []
    answer = max(1.0, examples.mean - prompts.mean)
    if "sft" in stages:
        sft = options.sft
        once = min(sft.eval_examples, held_out or sft.eval_examples)
        measured = (sft.steps // sft.eval_every + 1) * once
        trained = sft.steps * sft.batch_size * examples.mean
        parts.append(
            StageEstimate(
                "sft",
                round(measured * examples.mean),
                0,
                round(trained),
                round((once + sft.batch_size) * examples.mean),
                sft.steps * SFT_SECONDS_PER_STEP * max(sft.batch_size / 128, 0.25),
            )
        )
    if "rl" in stages:
        rl = options.rl
        an_iteration = rl.groups * rl.group_size
        samples = rl.iterations * an_iteration
        once = min(rl.eval_examples, held_out or rl.eval_examples)
        played = (rl.iterations // rl.eval_every + 1) * once
        longest = prompts.mean + rl.max_tokens
        compared = samples if rl.kl_penalty else 0
        parts.append(
            StageEstimate(
                "rl",
                round((samples + played) * prompts.mean + compared * (prompts.mean + answer)),
                round((samples + played) * answer),
                round(samples * (prompts.mean + answer)),
                round((once + rl.readings * an_iteration) * longest),
                rl.iterations * max(SHORTEST_ITERATION_S, an_iteration * RL_SECONDS_PER_SAMPLE),
            )
        )
    known = prices or PRICES.get(options.base_model)
    return Estimate(tuple(parts), known)
