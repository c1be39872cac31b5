"""The environment as the policy gradient sees it, and setting validation data aside."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from memroute_agents.local.sets import AnswerFamily
from memroute_env.conversation import Example
from memroute_env.datasets import Dataset
from memroute_env.env import MemoryRoutingEnv
from memroute_env.errors import DataError
from memroute_env.prompt import answer_text

__all__ = ["EnvironmentPlay", "hold_out"]


class EnvironmentPlay:
    """Answers to conversations, paid by the environment; nothing but rewards comes back.

    Args:
        examples: What is played; ids may repeat.
        family: Its sets are the answers, given as text like a language model's.
    """

    def __init__(self, examples: Sequence[Example], family: AnswerFamily) -> None:
        """See the class."""
        renamed = [e.model_copy(update={"id": f"{n}"}) for n, e in enumerate(examples)]
        self._env = MemoryRoutingEnv(Dataset(renamed, family.taxonomy, checked=True))
        self._family = family
        self._texts: dict[int, str] = {}

    def __call__(
        self, chosen: npt.NDArray[np.int64], answers: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Rewards of giving answer `answers[i]` to conversation `chosen[i]`: shape (M,)."""
        env, texts = self._env, self._texts
        masks = self._family.masks_of(answers)
        rewards = np.empty(len(chosen))
        for i, (index, mask) in enumerate(zip(chosen.tolist(), masks.tolist(), strict=True)):
            text = texts.get(mask)
            if text is None:
                text = texts[mask] = answer_text(mask, self._family.taxonomy)
            env.reset(options={"index": index})
            rewards[i] = env.step(text)[1]
        return rewards


def hold_out(datasets: Sequence[Dataset], share: float = 0.1) -> tuple[list[Dataset], Dataset]:
    """Set a share of the examples aside for validation; equal conversations stay together.

    Args:
        datasets: Training data of one taxonomy.
        share: Of the examples, by a hash of what the user says.

    Returns:
        The datasets without the held-out examples, and those.

    Raises:
        DataError: If nothing is left on one of the sides.
    """
    kept: list[list[Example]] = [[] for _ in datasets]
    aside: list[Example] = []
    for dataset, rest in zip(datasets, kept, strict=True):
        for example in dataset:
            text = " ".join(example.conversation.user_texts).lower()
            place = int.from_bytes(
                sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big"
            )
            (aside if place < share * 2**32 else rest).append(example)
    if not aside or not any(kept):
        raise DataError(
            f"{sum(map(len, datasets))} examples are too few to set {share:.0%} aside; "
            "give validation data with --validation"
        )
    taxonomy = datasets[0].taxonomy
    unique = {example.id: example for example in aside}
    return (
        [
            Dataset(rest, taxonomy, name=dataset.name, split=dataset.split, checked=True)
            for dataset, rest in zip(datasets, kept, strict=True)
            if rest
        ],
        Dataset(list(unique.values()), taxonomy, name="held out", checked=True),
    )
