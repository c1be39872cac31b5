"""Views: how an episode is shown to an agent, and how its action is read.

An *observation view* turns positions in a dataset into observations, an *action view* turns actions
into masks; each knows its Gymnasium space and works on one item and on a batch alike. The scalar
and the vector environment use the same views, so they cannot drift apart. They are chosen when an
environment is made (`observation=`, `action=`); `memroute_env.wrappers` has the same for an
environment that exists already.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium.error import InvalidAction
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from memroute_env.datasets import Dataset
from memroute_env.errors import OptionError
from memroute_env.masks import MaskBatch, pack_masks
from memroute_env.parsing import AnswerParser, ParsedAnswer
from memroute_env.spaces import AnswerSpace, ConversationSpace
from memroute_env.taxonomy import Taxonomy

__all__ = [
    "ACTION_VIEWS",
    "OBSERVATION_VIEWS",
    "ActionView",
    "ObservationView",
    "hash_features",
    "make_action_view",
    "make_observation_view",
]

ObservationName: TypeAlias = Literal["text", "features", "index"]
ActionName: TypeAlias = Literal["text", "multidiscrete", "multibinary", "discrete"]


class ObservationView(Protocol):
    """Positions in a dataset as observations."""

    @property
    def space(self) -> Space[Any]:
        """The space of one observation."""
        ...

    def one(self, index: int) -> Any:
        """The observation of one example: a fresh object at every call."""
        ...

    def many(self, indices_N: npt.NDArray[np.intp]) -> Any:
        """A batch of observations, as the batched space holds it."""
        ...

    def objects(self, indices_N: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
        """The same observations one by one in an object array of shape (N,)."""
        ...


class ActionView(Protocol):
    """Actions as masks."""

    @property
    def space(self) -> Space[Any]:
        """The space of one action."""
        ...

    def one(self, action: Any, /) -> ParsedAnswer:
        """Read one action; one outside a numeric space raises InvalidAction."""
        ...

    def many(self, actions_N: Any) -> tuple[MaskBatch, list[str] | None]:
        """Read a batch: masks (0 where malformed), and the reasons if any is malformed."""
        ...


# Observations -----------------------------------------------------------------------------------


class TextObservation:
    """The conversation as text."""

    def __init__(self, dataset: Dataset, feature_dim: int) -> None:
        """Index the texts once; the space is as large as the longest needs, in powers of two."""
        self._texts = dataset.texts
        self._array = np.array(self._texts, dtype=object)
        longest = max(map(len, self._texts))
        self.space = ConversationSpace(max(16_384, 1 << (longest - 1).bit_length()))

    def one(self, index: int) -> str:
        """The text of one conversation."""
        return self._texts[index]

    def many(self, indices_N: npt.NDArray[np.intp]) -> tuple[str, ...]:
        """A tuple of texts."""
        return tuple(self._array[indices_N].tolist())

    def objects(self, indices_N: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
        """The texts in an object array."""
        return self._array[indices_N]


class FeatureObservation:
    """Hashed word n-grams as a unit vector: float32, shape (feature_dim,), in [0, 1]."""

    def __init__(self, dataset: Dataset, feature_dim: int) -> None:
        """Compute the features of the whole dataset once."""
        if feature_dim < 1:
            raise OptionError(f"feature_dim must be at least 1, got {feature_dim}")
        self._features = _dataset_features(dataset, feature_dim)
        self.space = Box(0.0, 1.0, (feature_dim,), np.float32)

    def one(self, index: int) -> npt.NDArray[np.float32]:
        """A fresh vector."""
        return self._features[index].copy()

    def many(self, indices_N: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """A fresh matrix of shape (N, feature_dim)."""
        return self._features[indices_N]

    def objects(self, indices_N: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
        """Fresh vectors in an object array."""
        return _as_objects(self.many(indices_N))


class IndexObservation:
    """The position in the dataset: for tabular methods and for agents that hold the texts."""

    def __init__(self, dataset: Dataset, feature_dim: int) -> None:
        """A `Discrete` space over the dataset."""
        self.space = Discrete(len(dataset))

    def one(self, index: int) -> np.int64:
        """The position."""
        return np.int64(index)

    def many(self, indices_N: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        """A fresh vector of shape (N,)."""
        return indices_N.astype(np.int64)

    def objects(self, indices_N: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
        """The positions in an object array."""
        return _as_objects(self.many(indices_N))


def _as_objects(rows_N: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    objects = np.empty(len(rows_N), dtype=object)
    for i, row in enumerate(rows_N):
        objects[i] = row
    return objects


_WORD = re.compile(r"(?:[^\W_]|')+")
"""Letters and digits of any script, and apostrophes."""


def hash_features(texts: Iterable[str], dim: int) -> npt.NDArray[np.float32]:
    """Hashed word uni- and bigrams of texts, whatever their script; case does not count.

    Args:
        texts: N texts.
        dim: Number of buckets.

    Returns:
        float32 of shape (N, dim): log(1 + count) in each bucket, each row scaled to length 1 (a
        row without words is 0). The hash is CRC-32, hence the same everywhere.
    """
    rows = []
    crc = zlib.crc32
    for text in texts:
        words = _WORD.findall(text.lower())
        grams = words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
        buckets = np.fromiter((crc(g.encode()) % dim for g in grams), np.int64, len(grams))
        rows.append(np.bincount(buckets, minlength=dim))
    features = np.log1p(np.array(rows, np.float32).reshape(-1, dim))
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(norms > 0, norms, 1)).astype(np.float32)


@lru_cache(maxsize=8)
def _dataset_features(dataset: Dataset, dim: int) -> npt.NDArray[np.float32]:
    features = hash_features(dataset.texts, dim)
    features.setflags(write=False)
    return features


# Actions ----------------------------------------------------------------------------------------


class TextAction:
    """An answer in words, read by the parser."""

    def __init__(self, taxonomy: Taxonomy, parser: AnswerParser) -> None:
        """Use the reward's parser, which remembers what it has read."""
        self.space = AnswerSpace(taxonomy)
        self.one = parser
        self._parser = parser

    def many(self, actions_N: Sequence[Any]) -> tuple[MaskBatch, list[str] | None]:
        """Parse a batch of answers."""
        masks, reasons = self._parser.many(actions_N)
        return np.array(masks, np.int64), reasons


class BinaryAction:
    """One 0/1 entry a storing category; all zeros is the exclusive answer."""

    def __init__(self, taxonomy: Taxonomy, space: MultiBinary | MultiDiscrete) -> None:
        """Read arrays of shape (num_storing,)."""
        self.space = space
        self._width = taxonomy.num_storing

    def one(self, action: Any, /) -> ParsedAnswer:
        """Pack one array of bits."""
        return ParsedAnswer(int(self.many(np.asarray(action)[None])[0][0]))

    def many(self, actions_N: Any) -> tuple[MaskBatch, list[str] | None]:
        """Pack an array of shape (N, num_storing)."""
        return pack_masks(np.asarray(actions_N), self._width), None


class DiscreteAction:
    """The number of a set among the exclusive answer and all sets of at most three categories."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        """Action i stands for `taxonomy.small_sets()[i]`."""
        self._sets = np.array(taxonomy.small_sets(), np.int64)
        self.space = Discrete(len(self._sets))

    def one(self, action: Any, /) -> ParsedAnswer:
        """Look one number up."""
        try:
            number = int(action)
            valid = bool(number == action) and 0 <= number < len(self._sets)
        except (TypeError, ValueError, OverflowError):
            number, valid = -1, False
        if not valid:
            raise InvalidAction(f"action {action!r} is not a number in [0, {len(self._sets)})")
        return ParsedAnswer(int(self._sets[number]))

    def many(self, actions_N: Any) -> tuple[MaskBatch, list[str] | None]:
        """Look a batch of numbers up, shape (N,)."""
        actions = np.asarray(actions_N)
        if actions.dtype.kind not in "iu" or ((actions < 0) | (actions >= len(self._sets))).any():
            raise InvalidAction(f"actions must be whole numbers in [0, {len(self._sets)})")
        return self._sets[actions], None


OBSERVATION_VIEWS: dict[str, type[Any]] = {
    "text": TextObservation,
    "features": FeatureObservation,
    "index": IndexObservation,
}
ACTION_VIEWS = ("text", "multidiscrete", "multibinary", "discrete")


def make_observation_view(name: str, dataset: Dataset, feature_dim: int) -> ObservationView:
    """The observation view of that name.

    Raises:
        OptionError: If there is none.
    """
    if name not in OBSERVATION_VIEWS:
        raise OptionError(f"observation {name!r} is not one of {', '.join(OBSERVATION_VIEWS)}")
    return OBSERVATION_VIEWS[name](dataset, feature_dim)


def make_action_view(name: str, taxonomy: Taxonomy, parser: AnswerParser) -> ActionView:
    """The action view of that name.

    Raises:
        OptionError: If there is none.
    """
    if name == "text":
        return TextAction(taxonomy, parser)
    if name == "multidiscrete":
        return BinaryAction(taxonomy, MultiDiscrete([2] * taxonomy.num_storing))
    if name == "multibinary":
        return BinaryAction(taxonomy, MultiBinary(taxonomy.num_storing))
    if name == "discrete":
        return DiscreteAction(taxonomy)
    raise OptionError(f"action {name!r} is not one of {', '.join(ACTION_VIEWS)}")
