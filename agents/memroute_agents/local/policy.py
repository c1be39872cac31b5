"""The local policy: a softmax over sets of categories, linear in hashed n-grams.

Score of category c for a conversation with user sentences s and assistant text a::

    score_c =  <user_c, sum_s x_s> / |sum|          the user's words as a whole
             + <assistant_c, x_a> / |x_a|           what the assistant said
             + tau * log mean_s exp(<sentence_c, x_s> / |x_s| / tau)
             + bias_c

where x are idf-weighted n-gram counts, optionally beside a sentence embedding e_s that counts as
`scale · |x_s| · (e_s - mean)` (`memroute_agents.local.sentences`). The third term is
multiple-instance pooling: a conversation shows a category if one of its sentences does, and the
sentences' softmax weights are the evidence.
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

__all__ = ["Encoded", "Encoder", "Forward", "LocalPolicy", "Parameters", "SentenceView"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Encoded(NamedTuple):
    """A batch of N conversations as the policy sees it (D columns: the buckets that are kept)."""

    user: sparse.csr_matrix
    """(S, D) idf-weighted counts of the user's sentences."""
    starts: IntArray
    """(N + 1,): rows of conversation n are `starts[n]:starts[n + 1]`."""
    turns: IntArray
    """(S,): the turn of each row."""
    row_norm: FloatArray
    """(S, 1): 1 / length of each row."""
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

    def rows_of(self, chosen: IntArray) -> IntArray:
        """The rows of some conversations, one after another."""
        lengths = self.starts[chosen + 1] - self.starts[chosen]
        ahead = np.cumsum(lengths) - lengths
        return np.arange(lengths.sum()) + np.repeat(self.starts[chosen] - ahead, lengths)

    def join(self, other: Encoded) -> Encoded:
        """These conversations, then others of the same encoder."""
        return Encoded(
            sparse.csr_matrix(sparse.vstack([self.user, other.user])),
            np.concatenate([self.starts, self.starts[-1] + other.starts[1:]]),
            np.concatenate([self.turns, other.turns]),
            np.concatenate([self.row_norm, other.row_norm]),
            np.concatenate([self.whole_norm, other.whole_norm]),
            sparse.csr_matrix(sparse.vstack([self.assistant, other.assistant])),
            np.concatenate([self.dense, other.dense]),
        )

    def take(self, chosen: IntArray) -> Encoded:
        """The same for some conversations, in the given order."""
        lengths = self.starts[chosen + 1] - self.starts[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = self.rows_of(chosen)
        return Encoded(
            self.user[rows],
            starts,
            self.turns[rows],
            self.row_norm[rows],
            self.whole_norm[chosen],
            self.assistant[chosen],
            self.dense[rows],
        )


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
        whole = np.add.reduceat(squared[:rows], starts[:-1]) if n else np.zeros(0)
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
            features.user_turn,
            norms[:rows, None],
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
    """(D, 2C): weights of the user's words as a whole, then of single sentences."""
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
    attention: FloatArray
    """(S, C): each sentence's share in its conversation's pooled score; sums to 1."""


@dataclass
class LocalPolicy:
    """A trained (or untrained) policy: encoder, parameters, and the sets it chooses from."""

    family: AnswerFamily
    encoder: Encoder
    parameters: Parameters
    pooling: float = 0.5
    """tau: 0 would be the best sentence alone, infinity their mean."""
    temperature: float = 1.0
    """Calibration: logits are divided by it (fitted on validation data)."""
    metadata: dict[str, object] = field(default_factory=dict)

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories."""
        return self.family.taxonomy

    @classmethod
    def untrained(cls, family: AnswerFamily, encoder: Encoder, pooling: float = 0.5) -> LocalPolicy:
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
        """Scores, logits and sentence attention of a batch."""
        p, categories = self.parameters, self.family.num_categories
        per_row = batch.user @ p.linear + batch.dense @ p.dense
        first = batch.starts[:-1]
        whole = np.add.reduceat(per_row[:, :categories], first, axis=0) * batch.whole_norm
        sentence = per_row[:, categories:] * (batch.row_norm / self.pooling)
        highest = np.maximum.reduceat(sentence, first, axis=0)
        lengths = np.diff(batch.starts)
        weight = np.exp(sentence - np.repeat(highest, lengths, axis=0))
        total = np.add.reduceat(weight, first, axis=0)
        attention = weight / np.repeat(total, lengths, axis=0)
        pooled = self.pooling * (np.log(total / lengths[:, None]) + highest)
        scores = whole + pooled + batch.assistant @ p.assistant + p.bias
        scores = scores.astype(np.float32, copy=False)
        return Forward(
            scores,
            self.family.logits(scores, p.size_bias),
            attention.astype(np.float32),
        )

    def gradient(
        self,
        batch: Encoded,
        forward: Forward,
        logits_gradient: FloatArray,
        attention_gradient: FloatArray | None = None,
    ) -> Parameters:
        """The parameters' gradient from that of the logits.

        Args:
            batch: What `forward` saw.
            forward: Its result.
            logits_gradient: Of the shape of the logits.
            attention_gradient: (S, C), added to the gradient of the sentences' pooled scores.
        """
        by_category, by_size = self.family.pull_back(logits_gradient)
        lengths = np.diff(batch.starts)
        spread = np.repeat(by_category, lengths, axis=0)
        sentence = forward.attention * spread
        if attention_gradient is not None:
            sentence = sentence + attention_gradient
        whole = np.repeat(by_category * batch.whole_norm, lengths, axis=0)
        rows = np.concatenate([whole, sentence * batch.row_norm], axis=1)
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
