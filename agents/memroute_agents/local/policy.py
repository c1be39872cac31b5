"""The local policy: a softmax over sets of categories, linear in hashed n-grams.

Score of category c for a conversation with user sentences s::

    score_c =  <user_c, sum_s x_s> / |sum|              the user's words as a whole
             + tau * log mean_i exp(part_ci / tau)      what one part of them shows
             + bias_c

    part_ci =  <part_c, x_i> / |x_i|                    a sentence or a turn of the user
             + <before_c, b_i> / |b_i|                  a turn: what the assistant said before it

where x and b are idf-weighted n-gram counts. The second term is multiple-instance pooling: a
conversation shows a category if one of its parts does. The parts are the user's sentences and the
user's turns (a fact may take two sentences), a turn being the sum of its sentences; the parts'
softmax weights are the evidence. A turn is read with what it answers, because "yes, that still
holds" says what the assistant has just recalled; what the assistant makes of a turn afterwards is
read only with `FeatureConfig.replies`.
The logit of a set is the sum of its categories' scores plus a bias for its size; the exclusive
category competes as one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memroute_agents.local.encoding import Encoded, Encoder
from memroute_agents.local.sets import AnswerFamily, Objective
from memroute_env.taxonomy import Taxonomy

__all__ = ["Calibration", "Evidence", "Forward", "LocalPolicy", "Parameters"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass
class Parameters:
    """What is learnt. Shapes: D columns, C categories (exclusive last), Z set sizes; float32."""

    linear: FloatArray
    """(D, 2C): weights of the user's words as a whole, then in the parts."""
    before: FloatArray
    """(D, C): weights of what the assistant said before a turn."""
    bias: FloatArray
    """(C,)."""
    size_bias: FloatArray
    """(Z,)."""

    @classmethod
    def zeros(cls, columns: int, categories: int, sizes: int) -> Parameters:
        """The uniform policy."""
        return cls(
            np.zeros((columns, 2 * categories), np.float32),
            np.zeros((columns, categories), np.float32),
            np.zeros(categories, np.float32),
            np.zeros(sizes, np.float32),
        )

    def arrays(self) -> dict[str, FloatArray]:
        """The arrays by name."""
        return {
            "linear": self.linear,
            "before": self.before,
            "bias": self.bias,
            "size_bias": self.size_bias,
        }

    def rounded(self) -> Parameters:
        """The same in half precision (still as float32), as checkpoints keep the weights."""
        half = {
            name: array.astype(np.float16).astype(np.float32)
            for name, array in self.arrays().items()
            if name in ("linear", "before")
        }
        return Parameters(**half, bias=self.bias.copy(), size_bias=self.size_bias.copy())

    def copy(self) -> Parameters:
        """An independent copy."""
        return Parameters(**{name: array.copy() for name, array in self.arrays().items()})


class Calibration(NamedTuple):
    """What held-out data say about how sure to be (`memroute_agents.local.calibration`)."""

    temperature: float
    """Logits are divided by it ..."""
    size_shift: FloatArray
    """(Z,): ... and then each set size gets this much more."""
    reluctance: float = 0.0
    """What is taken off the exclusive answer's logit before a decision; probabilities keep it."""

    @classmethod
    def none(cls, sizes: int) -> Calibration:
        """Leaves logits as they are."""
        return cls(1.0, np.zeros(sizes, np.float32))


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
    pooling: float
    """tau: 0 would be the best part alone, infinity their mean."""
    calibration: Calibration
    """Of the logits; fitted on validation data."""
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
            Parameters.zeros(len(encoder.columns), family.num_categories, family.num_sizes),
            pooling,
            Calibration.none(family.num_sizes),
        )

    def forward(self, batch: Encoded) -> Forward:
        """Scores, logits and attention of a batch."""
        p, categories = self.parameters, self.family.num_categories
        per_row = batch.user @ p.linear
        first, first_turn = batch.starts[:-1], batch.turn_starts[:-1]
        whole = np.add.reduceat(per_row[:, :categories], first, axis=0) * batch.whole_norm
        alone = per_row[:, categories:]
        together = np.add.reduceat(alone, batch.turn_rows[:-1], axis=0)
        sentence = alone * (batch.row_norm / self.pooling)
        turn = together * (batch.turn_norm / self.pooling)
        turn += (batch.before @ p.before) / self.pooling
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
        scores = whole + pooled + p.bias
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
            batch.before.T @ turn,
            by_category.sum(axis=0),
            by_size,
        )

    def logits(self, batch: Encoded) -> FloatArray:
        """Calibrated logits: what the family's `log_prob`, `marginals` and `decide` take."""
        return self.calibrated(self.forward(batch).logits)

    def calibrated(self, logits: FloatArray) -> FloatArray:
        """Logits of a forward pass, calibrated."""
        temperature, shift, _ = self.calibration
        return logits / np.float32(temperature) + self._by_size(shift)

    def decide(self, batch: Encoded, objective: Objective = "reward") -> IntArray:
        """The masks with the highest expected objective, after its reluctance: (N,)."""
        return self.answers(self.logits(batch), objective)

    def answers(self, logits: FloatArray, objective: Objective = "reward") -> IntArray:
        """The same from calibrated logits."""
        if self.calibration.reluctance:
            shift = np.zeros(self.family.num_sizes, np.float32)
            shift[0] = -self.calibration.reluctance
            logits = logits + self._by_size(shift)
        return self.family.decide(logits, objective)

    def _by_size(self, shift: FloatArray) -> FloatArray:
        """What shifts of the set sizes (Z,) add to any logits: (1, any)."""
        return self.family.logits(np.zeros((1, self.family.num_categories), np.float32), shift)
