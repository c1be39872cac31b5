"""Calibration: how sure a trained policy should be, and of how many categories.

A policy that has fitted its training data is surer than it should be, and shyer of a second
category: the score of what it has not seen is smaller, and a set has one for each category. Two
kinds of numbers mend that, fitted to validation data by maximum likelihood: the temperature of
Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), and the biases of set sizes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.optimize

from memroute_agents.local.encoding import Encoded
from memroute_agents.local.objectives import Objective
from memroute_agents.local.policy import Calibration, LocalPolicy

__all__ = ["calibrate"]

FloatArray = npt.NDArray[np.float64]

COLDEST, HOTTEST = 0.2, 5.0
"""Bounds of the temperature, for validation data that would have it 0 or infinite."""


def calibrate(
    policy: LocalPolicy, held_out: Encoded, likelihood: Objective, *, sizes: bool = True
) -> Calibration:
    """The calibration under which a policy finds N held-out gold sets likeliest.

    Shifts of set sizes have a normal prior around 0, standard deviation 1: a handful of
    conversations, or none of some size, moves them little.

    Args:
        policy: Its own calibration does not matter.
        held_out: Conversations that it was not trained on.
        likelihood: Mean negative log-likelihood of their gold sets, positions 0 to N - 1.
        sizes: False to fit the temperature alone.
    """
    family = policy.family
    everyone = np.arange(held_out.size)
    logits = policy.forward(held_out).logits
    nothing = np.zeros((1, family.num_categories), np.float32)

    def loss(values: FloatArray) -> tuple[float, FloatArray]:
        cooling, shift = np.exp(-values[0]), values[1:]
        cooled = logits * np.float32(cooling)
        found = likelihood(everyone, cooled + family.logits(nothing, shift.astype(np.float32)))
        hotter = -float((found.gradient * cooled).sum())
        prior = float(shift @ shift) / (2 * len(everyone))
        by_size = family.pull_back(found.gradient)[1] + shift / len(everyone)
        return found.value + prior, np.concatenate([[hotter], by_size])

    bounds = [(np.log(COLDEST), np.log(HOTTEST))]
    bounds += [(None, None) if sizes else (0.0, 0.0)] * family.num_sizes
    start = np.zeros(1 + family.num_sizes)
    best = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Calibration(float(np.exp(best[0])), best[1:].astype(np.float32))
