"""Published results: a reference with its provenance, never mixed with what was measured here."""

from __future__ import annotations

from dataclasses import dataclass

from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = [
    "BENCHMARK_SIZES",
    "PROVENANCE",
    "PUBLISHED",
    "TRAINING",
    "PublishedResult",
    "published_for",
]


@dataclass(frozen=True)
class PublishedResult:
    """One row of the published table; shares are in [0, 1]."""

    agent: str
    avg_f1: float
    exact_match: float
    any_match: float
    f1_by_difficulty: dict[str, float]
    exact_by_difficulty: dict[str, float]


BENCHMARK_SIZES = {"easy": 14, "medium": 26, "hard": 10}
"""Scenarios of the published benchmark, by difficulty."""

PROVENANCE = (
    "As published with the original memory-routing agent, on its own benchmark of 50 scenarios "
    "(easy 14, medium 26, hard 10). These figures were not measured here: other scenarios, another "
    "scorer, no intervals. Not comparable number by number with the tables above."
)
"""What stands beside the rows wherever they are shown."""

TRAINING = (
    "How the first row was trained: 2,001 generated conversations; supervised fine-tuning of "
    "Llama-3.1-8B with LoRA rank 32 (100 steps, batch 128, loss 5.47 to 0.26, 17 minutes), "
    "then reinforcement learning with importance sampling (30 iterations of 64 groups × 32 "
    "samples, mean reward 0.73 to 0.93, 3.2 hours)."
)
"""How the first row came about."""

PUBLISHED = (
    PublishedResult(
        "Llama-3.1-8B, SFT + RL",
        0.680,
        0.60,
        0.72,
        {"easy": 0.857, "medium": 0.654, "hard": 0.500},
        {"easy": 0.86, "medium": 0.65, "hard": 0.10},
    ),
    PublishedResult(
        "Cohere Command-R+ (104B), zero-shot teacher",
        0.612,
        0.26,
        0.82,
        {"easy": 0.481, "medium": 0.641, "hard": 0.720},
        {"easy": 0.21, "medium": 0.27, "hard": 0.30},
    ),
)
"""The published table."""


def published_for(taxonomy: Taxonomy) -> tuple[PublishedResult, ...]:
    """The published rows where they say something: for the categories that they are about."""
    return PUBLISHED if taxonomy.all_ids == load_taxonomy("marketing").all_ids else ()
