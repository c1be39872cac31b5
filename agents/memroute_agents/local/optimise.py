"""The one optimiser of the local policy: mini-batch gradient descent with momentum.

Plain, because it is what works: per-coordinate step sizes (Adam and its kin) blow up the weights of
rare n-grams and memorise. Steps shrink along a half cosine after a short warm-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memroute_agents.local.encoding import Encoded, Grouped
from memroute_agents.local.objectives import Loss, Objective
from memroute_agents.local.policy import Evidence, LocalPolicy, Parameters

__all__ = ["EpochReport", "Optimiser", "Schedule"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """How fast, how long."""

    epochs: int
    """At least so many passes over the data."""
    rate: float
    """Peak step size of the n-gram weights (rows have length 1, so it is large)."""
    batch_size: int = 128
    momentum: float = 0.9
    bias_rate: float = 0.05
    """Step size of the biases, relative to `rate`."""
    warm_up: int = 50
    """Steps until the peak."""
    min_steps: int = 0
    """Small data are gone over more often, until so many steps are made."""
    evidence_weight: float = 0.0
    """How much the authored evidence teaches the attention, where there is some."""


@dataclass(frozen=True)
class EpochReport:
    """Means over an epoch."""

    epoch: int
    loss: float
    reward: float
    entropy: float
    kl: float


class Optimiser:
    """Steps a policy's parameters in place; its state can be saved and restored.

    Args:
        policy: What is trained.
        data: All training conversations, encoded.
        schedule: Step sizes and number of epochs.
        seed: Order of the examples: epoch e depends on (seed, e) alone.
        evidence: (T, C) boolean: turns of `data` that show a category; optional.
    """

    def __init__(
        self,
        policy: LocalPolicy,
        data: Encoded | Grouped,
        schedule: Schedule,
        seed: int = 0,
        evidence: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """See the class."""
        self.policy, self.data, self.schedule, self.seed = policy, data, schedule, seed
        self.evidence = evidence if schedule.evidence_weight > 0 else None
        arrays = policy.parameters.arrays()
        self.velocity = Parameters(**{name: np.zeros_like(a) for name, a in arrays.items()})
        self.epoch = 0
        self._steps = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.data.size // self.schedule.batch_size)

    @property
    def epochs(self) -> int:
        """Epochs that the schedule comes to on this data."""
        return max(self.schedule.epochs, -(-self.schedule.min_steps // self.steps_per_epoch))

    def run_epoch(self, objective: Objective) -> EpochReport:
        """One pass over the data."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.data.size)
        losses: list[Loss] = []
        # Batches of nearly equal sizes: a last one of a few examples would make a wild step.
        for chosen in np.array_split(order, self.steps_per_epoch):
            losses.append(self.step(objective, chosen))
        self.epoch += 1
        return EpochReport(
            self.epoch,
            *(
                float(np.mean([getattr(loss, name) for loss in losses]))
                for name in ("value", "reward", "entropy", "kl")
            ),
        )

    def step(self, objective: Objective, chosen: IntArray) -> Loss:
        """One step on some conversations; the number of steps so far sets its size."""
        batch = self.data.take(chosen)
        forward = self.policy.forward(batch)
        loss = objective(chosen, forward.logits)
        evidence = None
        if self.evidence is not None:
            turns = self.data.turns_of(chosen)
            evidence = Evidence(self.evidence[turns], self.schedule.evidence_weight)
        gradient = self.policy.gradient(batch, forward, loss.gradient, evidence)
        self._apply(gradient)
        return loss

    def _apply(self, gradient: Parameters) -> None:
        s = self.schedule
        done = self._steps
        self._steps = done + 1
        progress = min(1.0, done / max(1, self.epochs * self.steps_per_epoch))
        warm = min(1.0, (done + 1) / s.warm_up)
        rate = s.rate * warm * (0.505 + 0.495 * math.cos(math.pi * progress))
        current, velocity = self.policy.parameters.arrays(), self.velocity.arrays()
        for name, change in gradient.arrays().items():
            wide = name in ("linear", "before")
            step = rate if wide else rate * s.bias_rate
            _descend(current[name], velocity[name], change, s.momentum, step)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything that is needed to go on: parameters, velocity, epoch."""
        return {
            **{f"p_{k}": v for k, v in self.policy.parameters.arrays().items()},
            **{f"v_{k}": v for k, v in self.velocity.arrays().items()},
            "epoch": np.array(self.epoch),
        }

    def restore(self, state: dict[str, npt.NDArray[np.generic]]) -> None:
        """Go on from a saved state."""
        for name, array in self.policy.parameters.arrays().items():
            array[...] = state[f"p_{name}"]
        for name, array in self.velocity.arrays().items():
            array[...] = state[f"v_{name}"]
        self.epoch = int(state["epoch"])
        self._steps = self.epoch * self.steps_per_epoch


_ROWS = 2_048
"""Rows updated together: what they take stays in the cache from one operation to the next."""


def _descend(
    current: FloatArray, velocity: FloatArray, change: FloatArray, momentum: float, step: float
) -> None:
    """A step of gradient descent with momentum, in place; the gradient is overwritten."""
    for start in range(0, len(current), _ROWS):
        piece = slice(start, start + _ROWS)
        v, g = velocity[piece], change[piece]
        v *= momentum
        g *= 1 - momentum
        v += g
        np.multiply(v, step, out=g)
        current[piece] -= g
