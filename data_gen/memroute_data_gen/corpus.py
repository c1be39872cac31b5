"""The shipped corpus: which conversations make up each split of `marketing`.

A split is every conversation of the bank written in one piece, then composed ones. Both kinds
matter: short explicit messages and long messy threads teach different things. The files in
`memroute_env/data` are built by `memroute data build` and committed compressed, so that whoever
installs the environment has the data at hand without the tools that made it; a test rebuilds them
and compares content hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count

from memroute_data_gen.authored import load_bank
from memroute_data_gen.compose import Composer, Recipe
from memroute_data_gen.splits import normalise
from memroute_env.conversation import Example

__all__ = ["COMPOSED", "build_split"]

COMPOSED: Mapping[str, int] = {"train": 8_000, "validation": 200, "test": 200}
"""Composed conversations in each split."""

_SEEDS = {"train": 0, "validation": 1, "test": 2}


def build_split(
    split: str,
    seed: int = 0,
    *,
    composed: int | None = None,
    recipe: Recipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """The examples of a split; seed 0 gives the shipped one.

    Args:
        split: `train`, `validation` or `test`.
        seed: Of the composed part.
        composed: How many composed conversations; by default `COMPOSED`.
        recipe: Of the composer.
        progress: Called with conversations done and planned.
    """
    examples = list(load_bank().conversations[split])
    wanted = COMPOSED[split] if composed is None else composed
    composer = Composer(3 * seed + _SEEDS[split], split, recipe)
    seen = {normalise(" ".join(e.conversation.user_texts)) for e in examples}
    total = len(examples) + wanted
    for index in count():
        if len(examples) >= total:
            break
        example = composer(index)
        key = normalise(" ".join(example.conversation.user_texts))
        if key not in seen:
            seen.add(key)
            examples.append(example)
        if progress is not None and index % 500 == 0:
            progress(len(examples), total)
    return examples
