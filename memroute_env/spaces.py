"""The two text spaces: what an agent reads, and what it answers.

Gymnasium's `Text` rejects real conversations (its characters are a fixed alphabet) and walks every
character of every observation. These accept any string in constant time, and are registered with
Gymnasium's vector utilities, so that `SyncVectorEnv` and `AsyncVectorEnv` (with and without shared
memory) batch them as tuples of strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Space, Tuple
from gymnasium.vector.utils import (
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    iterate,
    read_from_shared_memory,
    write_to_shared_memory,
)

from memroute_env.taxonomy import Taxonomy

__all__ = ["AnswerSpace", "ConversationSpace", "TextBatch"]

_BYTES_PER_CHARACTER = 4  # the most that UTF-8 needs
_LENGTH_BYTES = 8
_ANSWER_LENGTH = 4_096
_WORDS = (
    "we need this by noon thanks please look at the draft numbers are fine "
    "our team likes short notes what about tomorrow maybe later"
).split()


class _TextSpace(Space[str]):
    """Strings of at most `max_length` characters, without an alphabet."""

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        super().__init__(shape=None, dtype=str, seed=seed)
        self.max_length = max_length

    @property
    def is_np_flattenable(self) -> bool:
        """False: text has no fixed numeric form."""
        return False

    def contains(self, x: Any) -> bool:
        """Whether x is a string that is not too long; constant time."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        """Equal type and limits; random state does not matter."""
        return type(other) is type(self) and other.max_length == self.max_length  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        """Consistent with equality."""
        return hash((type(self), self.max_length))


class ConversationSpace(_TextSpace):
    """Conversations as text: `USER: …` and `ASSISTANT: …` lines.

    Args:
        max_length: Most characters; it sizes the shared memory of `AsyncVectorEnv`.
        seed: For `sample`.
    """

    def __init__(
        self, max_length: int = 16_384, seed: int | np.random.Generator | None = None
    ) -> None:
        """See the class."""
        super().__init__(max_length, seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A random conversation of two turns (word salad); masks are not supported."""
        if mask is not None or probability is not None:
            raise ValueError("ConversationSpace.sample takes neither mask nor probability")
        words = [_WORDS[i] for i in self.np_random.integers(len(_WORDS), size=12)]
        text = f"USER: {' '.join(words[:8])}\nASSISTANT: {' '.join(words[8:])}"
        return text[: self.max_length]

    def __repr__(self) -> str:
        """Show the limit."""
        return f"ConversationSpace(max_length={self.max_length})"


class AnswerSpace(_TextSpace):
    """Answers as text: category ids separated by commas or new lines.

    Contains every string of at most 4,096 characters (a language model may say anything; what
    cannot be read is scored as malformed); samples are well-formed answers of at most three
    categories.

    Args:
        taxonomy: Whose categories are sampled.
        seed: For `sample`.
    """

    def __init__(self, taxonomy: Taxonomy, seed: int | np.random.Generator | None = None) -> None:
        """See the class."""
        super().__init__(_ANSWER_LENGTH, seed)
        self.taxonomy = taxonomy

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A well-formed answer, uniform over the small sets; masks are not supported."""
        if mask is not None or probability is not None:
            raise ValueError("AnswerSpace.sample takes neither mask nor probability")
        sets = self.taxonomy.small_sets()
        return ", ".join(self.taxonomy.ids(sets[int(self.np_random.integers(len(sets)))]))

    def __eq__(self, other: object) -> bool:
        """Equal taxonomies."""
        return isinstance(other, AnswerSpace) and other.taxonomy == self.taxonomy

    def __hash__(self) -> int:
        """Consistent with equality."""
        return hash((AnswerSpace, self.taxonomy))

    def __repr__(self) -> str:
        """Show the taxonomy."""
        return f"AnswerSpace({self.taxonomy.name!r}, {len(self.taxonomy.categories)} categories)"


class TextBatch(Tuple):
    """A batch of texts: a tuple with one string for each environment."""

    def __init__(self, space: _TextSpace, n: int) -> None:
        """Batch n independent copies of `space`, seeded from its random state."""
        rng = deepcopy(space.np_random)
        copies = [deepcopy(space) for _ in range(n)]
        super().__init__(copies)
        self.seed(tuple(int(s) for s in rng.integers(0, 2**31, size=n)))

    def __setstate__(self, state: Any) -> None:
        """Restore from a pickle or copy."""
        Space.__setstate__(self, state)


@batch_space.register(_TextSpace)
def _batch_text(space: _TextSpace, n: int = 1) -> TextBatch:
    return TextBatch(space, n)


@iterate.register(TextBatch)
def _iterate_text(space: TextBatch, items: Iterable[str]) -> Iterator[str]:
    return iter(items)


@concatenate.register(_TextSpace)
def _concatenate_text(space: _TextSpace, items: Iterable[str], out: Any) -> tuple[str, ...]:
    return tuple(items)


@create_empty_array.register(_TextSpace)
def _empty_text(space: _TextSpace, n: int = 1, fn: Any = np.zeros) -> tuple[str, ...]:
    return ("",) * n


def _slot_bytes(space: _TextSpace) -> int:
    """Bytes that one text takes in shared memory: its length, then UTF-8, 8-byte aligned."""
    return _LENGTH_BYTES + -(-space.max_length * _BYTES_PER_CHARACTER // 8) * 8


@create_shared_memory.register(_TextSpace)
def _create_shared_text(space: _TextSpace, n: int = 1, ctx: Any = None) -> Any:
    return ctx.Array("B", n * _slot_bytes(space))


@write_to_shared_memory.register(_TextSpace)
def _write_shared_text(space: _TextSpace, index: int, value: str, shared_memory: Any) -> None:
    data = value.encode("utf-8", "surrogatepass")
    start = index * _slot_bytes(space)
    buffer = memoryview(shared_memory.get_obj()).cast("B")
    body = start + _LENGTH_BYTES
    buffer[body : body + len(data)] = data
    buffer[start:body] = len(data).to_bytes(_LENGTH_BYTES, "little")


class _SharedTexts(Sequence[str]):
    """The texts in a shared memory as they are now: what arrays are for numbers.

    `AsyncVectorEnv` reads its shared memory once, when it is made, and hands out deep copies of
    what it got; a deep copy of this is a tuple of strings.
    """

    def __init__(self, space: _TextSpace, shared_memory: Any, n: int) -> None:
        self._buffer = memoryview(shared_memory.get_obj()).cast("B")
        self._slot, self._n = _slot_bytes(space), n

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._n)))
        start = range(self._n)[index] * self._slot
        body = start + _LENGTH_BYTES
        length = int.from_bytes(self._buffer[start:body], "little")
        return bytes(self._buffer[body : body + length]).decode("utf-8", "surrogatepass")

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


@read_from_shared_memory.register(_TextSpace)
def _read_shared_text(space: _TextSpace, shared_memory: Any, n: int = 1) -> Any:
    return _SharedTexts(space, shared_memory, n)
