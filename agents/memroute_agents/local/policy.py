"""The local policy: a softmax over sets of categories, linear in hashed n-grams.

Score of category c for a conversation with user sentences s and assistant text a::

    score_c =  <user_c, sum_s x_s> / |sum|              the user's words as a whole
             + <assistant_c, x_a> / |x_a|               what the assistant said
             + tau * log mean_i exp(<part_c, x_i> / |x_i| / tau)
             + bias_c

where x are idf-weighted n-gram counts, optionally beside a sentence embedding e_s that counts as
`scale · |x_s| · (e_s - mean)` (`memroute_agents.local.sentences`). The third term is
multiple-instance pooling: a conversation shows a category if one of its parts does. The parts are
the user's sentences and the user's turns (a fact may take two sentences), a turn being the sum of
its sentences; the parts' softmax weights are the evidence.
The logit of a set is the sum of its categories' scores plus a bias for its size; the exclusive
category competes as one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from memroute_agents.local.features import FeatureConfig, Features, extract
from memroute_agents.local.sentences import SentenceEncoder
from memroute_agents.local.sets import AnswerFamily, Objective
from memroute_env.conversation import Conversation
from memroute_env.taxonomy import Taxonomy

__all__ = ["Encoded", "Encoder", "Evidence", "Forward", "LocalPolicy", "Parameters", "SentenceView"]

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
    assistant: sparse.csr_matrix
    """(N, D), rows of length 1 or 0."""
    dense: FloatArray
    """(S, E): embeddings of the user's sentences on the scale of their rows; E = 0 without."""

    @property
    def size(self) -> int:
        """N."""
        return len(self.starts) - 1

    def turns_of(self, chosen: IntArray) -> IntArray:
        """The turns of some conversations, one after another."""
        return _ranges(self.turn_starts, chosen)[0]

    def join(self, other: Encoded) -> Encoded:
        """These conversations, then others of the same encoder."""
        return Encoded(
            sparse.csr_matrix(sparse.vstack([self.user, other.user])),
            np.concatenate([self.starts, self.starts[-1] + other.starts[1:]]),
            np.concatenate([self.turns, other.turns]),
            np.concatenate([self.turn_rows, self.turn_rows[-1] + other.turn_rows[1:]]),
            np.concatenate([self.turn_starts, self.turn_starts[-1] + other.turn_starts[1:]]),
            np.concatenate([self.row_norm, other.row_norm]),
            np.concatenate([self.turn_norm, other.turn_norm]),
            np.concatenate([self.whole_norm, other.whole_norm]),
            sparse.csr_matrix(sparse.vstack([self.assistant, other.assistant])),
            np.concatenate([self.dense, other.dense]),
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
            self.assistant[chosen],
            self.dense[rows],
        )

    def thinned(self, dropout: float, rng: np.random.Generator) -> Encoded:
        """The same without a random share of the n-grams, the others weighted up in turn."""
        return self._replace(
            user=_thinned(self.user, dropout, rng),
            assistant=_thinned(self.assistant, dropout, rng),
        )


def _ranges(starts: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """The members of some ranges `starts[i]:starts[i + 1]`, and where each range starts in them."""
    lengths = starts[chosen + 1] - starts[chosen]
    ends = np.cumsum(lengths)
    members = np.arange(lengths.sum()) + np.repeat(starts[chosen] - ends + lengths, lengths)
    return members, np.concatenate([[0], ends])


def _thinned(
    counts: sparse.csr_matrix, dropout: float, rng: np.random.Generator
) -> sparse.csr_matrix:
    kept = rng.random(len(counts.data), dtype=np.float32) >= dropout
    data = counts.data * (kept / np.float32(1 - dropout))
    return sparse.csr_matrix((data, counts.indices, counts.indptr), counts.shape)


@dataclass(frozen=True)
class SentenceView:
    """How sentence embeddings enter: centred and scaled."""

    encoder: SentenceEncoder
    mean: FloatArray
    """(E,): of the training sentences."""
    scale: float

    @classmethod
    def fit(cls, encoder: SentenceEncoder, sentences: Sequence[str], scale: float) -> SentenceView:
        """The view whose embeddings have mean zero over (some thousands of) these sentences."""
        sample = sentences[:: max(1, len(sentences) // 4_000)]
        return cls(encoder, encoder(sample).mean(axis=0), scale)

    def __call__(self, sentences: Sequence[str], norms_S1: FloatArray) -> FloatArray:
        """(S, E): embeddings beside rows whose inverse lengths are given."""
        lengths = np.where(norms_S1 > 0, 1 / np.where(norms_S1 > 0, norms_S1, 1), 0)
        return ((self.encoder(sentences) - self.mean) * (self.scale * lengths)).astype(np.float32)


@dataclass(frozen=True)
class Encoder:
    """Turns conversations into `Encoded` batches; fitted once on training conversations."""

    config: FeatureConfig
    columns: npt.NDArray[np.int32]
    """(D,): the buckets that are kept, ascending."""
    idf: FloatArray
    """(D,): log((1 + N) / (1 + document frequency)) + 1."""
    sentences: SentenceView | None = None

    @property
    def width(self) -> int:
        """E: of the sentence embeddings, 0 without."""
        return 0 if self.sentences is None else len(self.sentences.mean)

    @classmethod
    def fit(cls, features: Features, config: FeatureConfig, min_count: int = 2) -> Encoder:
        """Keep the buckets that occur in at least `min_count` of N conversations."""
        n = features.size
        present = np.zeros(1 << config.bits, np.int64)
        starts = np.searchsorted(features.user_conversation, np.arange(n + 1))
        indptr, indices = features.counts.indptr, features.counts.indices
        spoken = len(features.user_turn)
        for i in range(n):
            mine = indices[indptr[starts[i]] : indptr[starts[i + 1]]]
            theirs = indices[indptr[spoken + i] : indptr[spoken + i + 1]]
            present[np.unique(np.concatenate([mine, theirs]))] += 1
        columns = np.flatnonzero(present >= min_count).astype(np.int32)
        idf = np.log((1 + n) / (1 + present[columns])) + 1
        return cls(config, columns, idf.astype(np.float32))

    def __call__(self, conversations: Sequence[Conversation]) -> Encoded:
        """Encode a batch."""
        return self.encode(extract(conversations, self.config))

    def encode(self, features: Features) -> Encoded:
        """Encode a batch whose n-grams have been counted."""
        data, columns, indptr = _restrict(features.counts, self._lookup, self.idf)
        n, rows = features.size, len(features.user_turn)
        starts = np.searchsorted(features.user_conversation, np.arange(n + 1))
        # A row's sum of count · idf²: its squared length if each of its n-grams occurs once.
        sums = np.concatenate([[0.0], np.cumsum(data * self.idf[columns], dtype=float)])[indptr]
        squared = (sums[1:] - sums[:-1]).astype(np.float32)
        first = np.ones(rows, np.bool_)  # of its turn
        first[1:] = np.diff(features.user_conversation) != 0
        first[1:] |= np.diff(features.user_turn) != 0
        turn_rows = np.append(np.flatnonzero(first), rows)
        whole = np.add.reduceat(squared[:rows], starts[:-1]) if n else np.zeros(0)
        turn = np.add.reduceat(squared[:rows], turn_rows[:-1]) if n else np.zeros(0)
        norms = _inverse_root(squared)
        cut, width = indptr[rows], len(self.idf)
        spoken = data[cut:] * np.repeat(norms[rows:], np.diff(indptr[rows:]))
        if self.sentences is None:
            dense = np.zeros((rows, 0), np.float32)
        else:
            dense = self.sentences(features.user_sentences, norms[:rows, None])
        return Encoded(
            sparse.csr_matrix((data[:cut], columns[:cut], indptr[: rows + 1]), (rows, width)),
            starts,
            features.user_turn[turn_rows[:-1]],
            turn_rows,
            np.searchsorted(turn_rows, starts),
            norms[:rows, None],
            _inverse_root(turn)[:, None],
            _inverse_root(whole)[:, None],
            sparse.csr_matrix((spoken, columns[cut:], indptr[rows:] - cut), (n, width)),
            dense,
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


@dataclass
class Parameters:
    """What is learnt. Shapes: D columns, C categories (exclusive last), Z set sizes; float32."""

    linear: FloatArray
    """(D, 2C): weights of the user's words as a whole, then in the parts."""
    assistant: FloatArray
    """(D, C)."""
    dense: FloatArray
    """(E, 2C): of the sentence embeddings, as `linear`."""
    bias: FloatArray
    """(C,)."""
    size_bias: FloatArray
    """(Z,)."""

    @classmethod
    def zeros(cls, columns: int, categories: int, sizes: int, width: int = 0) -> Parameters:
        """The uniform policy."""
        return cls(
            np.zeros((columns, 2 * categories), np.float32),
            np.zeros((columns, categories), np.float32),
            np.zeros((width, 2 * categories), np.float32),
            np.zeros(categories, np.float32),
            np.zeros(sizes, np.float32),
        )

    def arrays(self) -> dict[str, FloatArray]:
        """The arrays by name."""
        return {
            "linear": self.linear,
            "assistant": self.assistant,
            "dense": self.dense,
            "bias": self.bias,
            "size_bias": self.size_bias,
        }

    def copy(self) -> Parameters:
        """An independent copy."""
        return Parameters(**{name: array.copy() for name, array in self.arrays().items()})


class Forward(NamedTuple):
    """What a forward pass leaves for the backward pass and for explanations."""

    scores: FloatArray
    """(N, C)."""
    logits: FloatArray
    """The family's logits, a row for each conversation."""
    sentences: FloatArray
    """(S, C): each sentence's share in its conversation's pooled score ..."""
    turns: FloatArray
    """(T, C): ... and each turn's; together they sum to 1."""

    def attention(self, batch: Encoded) -> FloatArray:
        """(T, C): the share of each turn with its sentences."""
        return self.turns + np.add.reduceat(self.sentences, batch.turn_rows[:-1], axis=0)


class Evidence(NamedTuple):
    """Turns that are known to show a category: what the attention should rest on.

    The loss is -log(attention on these turns and their sentences), summed over the categories that
    have any, mean over conversations, times `weight`.
    """

    turns: npt.NDArray[np.bool_]
    """(T, C)."""
    weight: float

    def gradient(self, batch: Encoded, forward: Forward) -> tuple[FloatArray, FloatArray]:
        """With respect to the parts' scores over tau: of sentences (S, C), of turns (T, C).

        With attention a and evidence E: d/dz = a - a·1[E] / sum_E(a).
        """
        first = batch.turn_starts[:-1]
        marked = np.where(self.turns, forward.attention(batch), 0)
        on_evidence = np.add.reduceat(marked, first, axis=0)
        has = np.logical_or.reduceat(self.turns, first, axis=0)
        share = np.where(has, 1 / np.maximum(on_evidence, 1e-6), 0)
        lengths = np.diff(batch.turn_starts)
        change = np.repeat(has, lengths, axis=0) - self.turns * np.repeat(share, lengths, axis=0)
        change = (change * (self.weight / batch.size)).astype(np.float32)
        rows = np.repeat(change, np.diff(batch.turn_rows), axis=0)
        return forward.sentences * rows, forward.turns * change


@dataclass
class LocalPolicy:
    """A trained (or untrained) policy: encoder, parameters, and the sets it chooses from."""

    family: AnswerFamily
    encoder: Encoder
    parameters: Parameters
    pooling: float = 0.3
    """tau: 0 would be the best part alone, infinity their mean."""
    temperature: float = 1.0
    """Calibration: logits are divided by it (fitted on validation data)."""
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories."""
        return self.family.taxonomy

    @classmethod
    def untrained(cls, family: AnswerFamily, encoder: Encoder, pooling: float = 0.3) -> LocalPolicy:
        """The uniform policy over an encoder's features."""
        return cls(
            family,
            encoder,
            Parameters.zeros(
                len(encoder.columns), family.num_categories, family.num_sizes, encoder.width
            ),
            pooling,
        )

    def forward(self, batch: Encoded) -> Forward:
        """Scores, logits and attention of a batch."""
        p, categories = self.parameters, self.family.num_categories
        per_row = batch.user @ p.linear + batch.dense @ p.dense
        first, first_turn = batch.starts[:-1], batch.turn_starts[:-1]
        whole = np.add.reduceat(per_row[:, :categories], first, axis=0) * batch.whole_norm
        alone = per_row[:, categories:]
        together = np.add.reduceat(alone, batch.turn_rows[:-1], axis=0)
        sentence = alone * (batch.row_norm / self.pooling)
        turn = together * (batch.turn_norm / self.pooling)
        highest = np.maximum(
            np.maximum.reduceat(sentence, first, axis=0),
            np.maximum.reduceat(turn, first_turn, axis=0),
        )
        lengths, turn_lengths = np.diff(batch.starts), np.diff(batch.turn_starts)
        sentence = np.exp(sentence - np.repeat(highest, lengths, axis=0))
        turn = np.exp(turn - np.repeat(highest, turn_lengths, axis=0))
        total = np.add.reduceat(sentence, first, axis=0)
        total += np.add.reduceat(turn, first_turn, axis=0)
        parts = (lengths + turn_lengths)[:, None]
        pooled = self.pooling * (np.log(total / parts) + highest)
        scores = whole + pooled + batch.assistant @ p.assistant + p.bias
        scores = scores.astype(np.float32, copy=False)
        return Forward(
            scores,
            self.family.logits(scores, p.size_bias),
            (sentence / np.repeat(total, lengths, axis=0)).astype(np.float32, copy=False),
            (turn / np.repeat(total, turn_lengths, axis=0)).astype(np.float32, copy=False),
        )

    def gradient(
        self,
        batch: Encoded,
        forward: Forward,
        logits_gradient: FloatArray,
        evidence: Evidence | None = None,
    ) -> Parameters:
        """The parameters' gradient from that of the logits.

        Args:
            batch: What `forward` saw.
            forward: Its result.
            logits_gradient: Of the shape of the logits.
            evidence: Also teaches where the attention belongs.
        """
        by_category, by_size = self.family.pull_back(logits_gradient)
        lengths, turn_lengths = np.diff(batch.starts), np.diff(batch.turn_starts)
        sentence = forward.sentences * np.repeat(by_category, lengths, axis=0)
        turn = forward.turns * np.repeat(by_category, turn_lengths, axis=0)
        if evidence is not None:
            for_sentence, for_turn = evidence.gradient(batch, forward)
            sentence += for_sentence
            turn += for_turn
        per_turn = np.repeat(turn * batch.turn_norm, np.diff(batch.turn_rows), axis=0)
        whole = np.repeat(by_category * batch.whole_norm, lengths, axis=0)
        rows = np.concatenate([whole, sentence * batch.row_norm + per_turn], axis=1)
        return Parameters(
            batch.user.T @ rows,
            batch.assistant.T @ by_category,
            (batch.dense.T @ rows).astype(np.float32, copy=False),
            by_category.sum(axis=0),
            by_size,
        )

    def logits(self, batch: Encoded) -> FloatArray:
        """Calibrated logits: what the family's `log_prob`, `marginals` and `decide` take."""
        return self.forward(batch).logits / self.temperature

    def decide(self, batch: Encoded, objective: Objective = "reward") -> IntArray:
        """The masks with the highest expected objective: (N,)."""
        return self.family.decide(self.logits(batch), objective)
