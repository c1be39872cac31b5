"""Conversations as the local policy sees them: idf-weighted n-grams of sentences, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from memroute_agents.local.features import FeatureConfig, Features, extract
from memroute_env.conversation import Conversation

__all__ = ["Encoded", "Encoder", "Grouped"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Encoded(NamedTuple):
    """A batch of N conversations as the policy sees it (D columns: the buckets that are kept)."""

    user: sparse.csr_matrix
    """(S, D) idf-weighted counts of the user's sentences."""
    starts: IntArray
    """(N + 1,): rows of conversation n are `starts[n]:starts[n + 1]`."""
    turns: IntArray
    """(T,): the user's turns, by their position in the conversation."""
    turn_rows: IntArray
    """(T + 1,): rows of turn t are `turn_rows[t]:turn_rows[t + 1]`."""
    turn_starts: IntArray
    """(N + 1,): turns of conversation n are `turn_starts[n]:turn_starts[n + 1]`."""
    row_norm: FloatArray
    """(S, 1): 1 / length of each row."""
    turn_norm: FloatArray
    """(T, 1): 1 / length of each turn's rows together."""
    whole_norm: FloatArray
    """(N, 1): 1 / length of the user's rows together."""
    before: sparse.csr_matrix
    """(T, D): what the assistant said before each turn, rows of length 1 or 0."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.starts) - 1

    def turns_of(self, chosen: IntArray) -> IntArray:
        """The turns of some conversations, one after another."""
        return _ranges(self.turn_starts, chosen)[0]

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        """The conversations of several batches of one encoder, one batch after another."""
        if len(parts) == 1:
            return parts[0]
        rows = [part.starts[-1] for part in parts]
        turns = [part.turn_starts[-1] for part in parts]
        return cls(
            sparse.csr_matrix(sparse.vstack([part.user for part in parts])),
            _appended([part.starts for part in parts], rows),
            np.concatenate([part.turns for part in parts]),
            _appended([part.turn_rows for part in parts], rows),
            _appended([part.turn_starts for part in parts], turns),
            np.concatenate([part.row_norm for part in parts]),
            np.concatenate([part.turn_norm for part in parts]),
            np.concatenate([part.whole_norm for part in parts]),
            sparse.csr_matrix(sparse.vstack([part.before for part in parts])),
        )

    def take(self, chosen: IntArray) -> Encoded:
        """The same for some conversations, in the given order."""
        rows, starts = _ranges(self.starts, chosen)
        turns, turn_starts = _ranges(self.turn_starts, chosen)
        _, turn_rows = _ranges(self.turn_rows, turns)
        return Encoded(
            self.user[rows],
            starts,
            self.turns[turns],
            turn_rows,
            turn_starts,
            self.row_norm[rows],
            self.turn_norm[turns],
            self.whole_norm[chosen],
            self.before[turns],
        )

    def grouped(self, members: IntArray, sizes: IntArray) -> Encoded:
        """Conversations made of one or two of these, read as one, the turns counted on.

        Args:
            members: Positions of the conversations that they are made of, one after another.
            sizes: How many of them each takes, 1 or 2.
        """
        apart = self.take(members)
        ends = np.cumsum(sizes)
        first = ends - sizes
        second = ends[sizes == 2] - 1
        turns = apart.turns.copy()
        after, _ = _ranges(apart.turn_starts, second)
        before = apart.turns[apart.turn_starts[second] - 1] + 1
        turns[after] += np.repeat(before, np.diff(apart.turn_starts)[second])
        norms = apart.whole_norm[first]
        pairs = np.stack([apart.whole_norm[second - 1, 0], apart.whole_norm[second, 0]])
        squared = np.where(pairs > 0, pairs, np.inf).astype(float) ** -2
        norms[sizes == 2, 0] = _inverse_root(squared.sum(axis=0))
        bounds = np.append(first, len(members))
        return apart._replace(
            starts=apart.starts[bounds],
            turns=turns,
            turn_starts=apart.turn_starts[bounds],
            whole_norm=norms,
        )


class Grouped(NamedTuple):
    """K conversations, each made of one or two of N encoded ones; put together when taken."""

    encoded: Encoded
    members: IntArray
    """Positions in `encoded`."""
    starts: IntArray
    """(K + 1,): conversation k is made of `members[starts[k]:starts[k + 1]]`."""

    @classmethod
    def alone(cls, encoded: Encoded) -> Grouped:
        """Every conversation by itself."""
        return cls(encoded, np.arange(encoded.size), np.arange(encoded.size + 1))

    @property
    def size(self) -> int:
        """K."""
        return len(self.starts) - 1

    def and_pairs(self, first: IntArray, second: IntArray) -> Grouped:
        """These, then pairs of the encoded conversations: `first[i]`, then `second[i]`."""
        pairs = np.stack([first, second], axis=1).ravel()
        starts = self.starts[-1] + 2 + 2 * np.arange(len(first))
        return Grouped(
            self.encoded,
            np.concatenate([self.members, pairs]),
            np.concatenate([self.starts, starts]),
        )

    def take(self, chosen: IntArray) -> Encoded:
        """Some of the conversations, in the given order."""
        places, starts = _ranges(self.starts, chosen)
        return self.encoded.grouped(self.members[places], np.diff(starts))

    def turns_of(self, chosen: IntArray) -> IntArray:
        """Their turns, one after another, as turns of `encoded`."""
        places, _ = _ranges(self.starts, chosen)
        return self.encoded.turns_of(self.members[places])


def _appended(starts: Sequence[IntArray], lengths: Sequence[int]) -> IntArray:
    """Starts of several batches as those of one; each batch is `lengths[i]` long."""
    offsets = np.cumsum([0, *lengths])
    return np.concatenate(
        [[0], *(part[1:] + offset for part, offset in zip(starts, offsets, strict=False))]
    )


def _ranges(starts: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """The members of some ranges `starts[i]:starts[i + 1]`, and where each range starts in them."""
    lengths = starts[chosen + 1] - starts[chosen]
    ends = np.cumsum(lengths)
    members = np.arange(lengths.sum()) + np.repeat(starts[chosen] - ends + lengths, lengths)
    return members, np.concatenate([[0], ends])


_AT_ONCE = 500
"""Conversations whose n-grams are hashed together: what bounds the memory that hashing takes."""


def _batches(conversations: Sequence[Conversation]) -> list[Sequence[Conversation]]:
    """At least one batch, of `_AT_ONCE` at most."""
    count = max(len(conversations), 1)
    return [conversations[start : start + _AT_ONCE] for start in range(0, count, _AT_ONCE)]


@dataclass(frozen=True)
class Encoder:
    """Turns conversations into `Encoded` batches; fitted once on training conversations."""

    config: FeatureConfig
    columns: npt.NDArray[np.int32]
    """(D,): the buckets that are kept, ascending."""
    idf: FloatArray
    """(D,): log((1 + N) / (1 + document frequency)) + 1."""

    @classmethod
    def fit(
        cls, conversations: Sequence[Conversation], config: FeatureConfig, min_count: int = 2
    ) -> Encoder:
        """Keep the buckets that occur in at least `min_count` of N conversations."""
        present = np.zeros(1 << config.bits, np.int64)
        for batch in _batches(conversations):
            features = extract(batch, config)
            starts = np.searchsorted(features.user_conversation, np.arange(len(batch) + 1))
            indptr, indices = features.counts.indptr, features.counts.indices
            turns = np.searchsorted(features.turn_rows, starts) + len(features.user_turn)
            for i in range(len(batch)):
                mine = indices[indptr[starts[i]] : indptr[starts[i + 1]]]
                theirs = indices[indptr[turns[i]] : indptr[turns[i + 1]]]
                present[np.unique(np.concatenate([mine, theirs]))] += 1
        columns = np.flatnonzero(present >= min_count).astype(np.int32)
        idf = np.log((1 + len(conversations)) / (1 + present[columns])) + 1
        # In half precision from the start: a checkpoint keeps no more of it.
        return cls(config, columns, idf.astype(np.float16).astype(np.float32))

    def __call__(self, conversations: Sequence[Conversation]) -> Encoded:
        """Encode any number of conversations."""
        parts = [self.encode(extract(b, self.config)) for b in _batches(conversations)]
        return Encoded.joined(parts)

    def encode(self, features: Features) -> Encoded:
        """Encode a batch whose n-grams have been counted."""
        data, columns, indptr = _restrict(features.counts, self._lookup, self.idf)
        n, rows = features.size, len(features.user_turn)
        starts = np.searchsorted(features.user_conversation, np.arange(n + 1))
        # A row's sum of count · idf²: its squared length if each of its n-grams occurs once.
        sums = np.concatenate([[0.0], np.cumsum(data * self.idf[columns], dtype=float)])[indptr]
        squared = (sums[1:] - sums[:-1]).astype(np.float32)
        turn_rows = features.turn_rows
        whole = np.add.reduceat(squared[:rows], starts[:-1]) if n else np.zeros(0)
        turn = np.add.reduceat(squared[:rows], turn_rows[:-1]) if n else np.zeros(0)
        norms = _inverse_root(squared)
        cut, width = indptr[rows], len(self.idf)
        spoken = data[cut:] * np.repeat(norms[rows:], np.diff(indptr[rows:]))
        return Encoded(
            sparse.csr_matrix((data[:cut], columns[:cut], indptr[: rows + 1]), (rows, width)),
            starts,
            features.user_turn[turn_rows[:-1]],
            turn_rows,
            np.searchsorted(turn_rows, starts),
            norms[:rows, None],
            _inverse_root(turn)[:, None],
            _inverse_root(whole)[:, None],
            sparse.csr_matrix(
                (spoken, columns[cut:], indptr[rows:] - cut), (len(turn_rows) - 1, width)
            ),
        )

    @property
    def _lookup(self) -> npt.NDArray[np.int32]:
        cached = self.__dict__.get("_table")
        if cached is None:
            cached = np.full(1 << self.config.bits, -1, np.int32)
            cached[self.columns] = np.arange(len(self.columns), dtype=np.int32)
            object.__setattr__(self, "_table", cached)
        return cached


def _restrict(
    counts: sparse.csr_matrix, lookup: npt.NDArray[np.int32], idf: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.int32], IntArray]:
    """Counts times idf over the kept columns only: data, columns and row starts."""
    columns = lookup[counts.indices]
    kept = columns >= 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
    columns = columns[kept]
    return counts.data[kept] * idf[columns], columns, indptr


def _inverse_root(values: npt.NDArray[np.floating]) -> FloatArray:
    return (1 / np.sqrt(np.where(values > 1e-6, values, np.inf))).astype(np.float32)
