"""Examples that are too long for the model's window: left out, counted and named, never cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from memroute_env.conversation import Example
from memroute_env.errors import DataError

__all__ = ["LengthReport", "keep_short"]

SHOWN = 5


@dataclass(frozen=True)
class LengthReport:
    """How long a dataset's examples are in tokens."""

    limit: int
    """Longest that is kept."""
    kept: int
    tokens: int
    """Sum over the kept ones."""
    longest: int
    """The longest kept one."""
    too_long: tuple[tuple[str, int], ...] = ()
    """Id and length of each example that was left out."""

    @property
    def mean(self) -> float:
        """Mean length of the kept ones."""
        return self.tokens / self.kept

    def sentence(self) -> str:
        """One line for people; empty if nothing was left out."""
        if not self.too_long:
            return ""
        named = ", ".join(f"{name} ({length})" for name, length in self.too_long[:SHOWN])
        more = len(self.too_long) - SHOWN
        return (
            f"{len(self.too_long)} of {self.kept + len(self.too_long)} examples are longer than "
            f"{self.limit} tokens and left out: {named}{f' and {more} more' if more > 0 else ''}"
        )


def keep_short(
    examples: Iterable[Example], length: Callable[[Example], int], limit: int
) -> tuple[list[Example], LengthReport]:
    """Split examples into those that fit and a report of those that do not.

    Args:
        examples: In order; the order of the kept ones stays.
        length: Tokens of an example.
        limit: Longest that is kept.

    Raises:
        DataError: If none fits.
    """
    kept: list[Example] = []
    lengths: list[int] = []
    too_long: list[tuple[str, int]] = []
    for example in examples:
        tokens = length(example)
        if tokens > limit:
            too_long.append((example.id, tokens))
        else:
            kept.append(example)
            lengths.append(tokens)
    if not kept:
        shortest = min((tokens for _, tokens in too_long), default=0)
        raise DataError(
            f"no example fits into {limit} tokens (the shortest has {shortest}); raise max_length"
        )
    return kept, LengthReport(limit, len(kept), sum(lengths), max(lengths), tuple(too_long))
