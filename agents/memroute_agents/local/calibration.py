"""Calibration: how sure a trained policy should be, and of how many categories.

A policy that has fitted its training data is surer than it should be, and shyer of a second
category: the score of what it has not seen is smaller, and a set has one for each category. Two
kinds of numbers mend that, fitted to validation data by maximum likelihood: the temperature of
Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), and the biases of set sizes.

One more number is not about probabilities but about what follows from them: a memory that is
wrongly dropped is lost, one that is wrongly kept can be dropped later, while the reward takes both
for the same mistake. `reluctance` says how unwilling the policy is to store nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.optimize

from memroute_agents.local.encoding import Encoded
from memroute_agents.local.objectives import Objective
from memroute_agents.local.policy import Calibration, LocalPolicy

__all__ = ["calibrate", "reluctance"]

FloatArray = npt.NDArray[np.float64]

COLDEST, HOTTEST = 0.2, 5.0
"""Bounds of the temperature, for validation data that would have it 0 or infinite."""


MOST_RELUCTANT, STEP = 2.0, 0.05
"""Largest reluctance, and how finely it is searched; in nats."""

DEAREST = 0.005
"""Most held-out reward that reluctance may cost."""

FEWEST = 10
"""Exclusive answers that are needed to say how often they are right."""


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


def reluctance(
    policy: LocalPolicy,
    held_out: Encoded,
    gold: npt.NDArray[np.int64],
    precision: float,
) -> float:
    """The least reluctance with which the exclusive answer is right as often as is wanted.

    Args:
        policy: Calibrated; its own reluctance does not matter.
        held_out: Conversations that it was not trained on.
        gold: (N,) their gold masks.
        precision: Share of the exclusive answers that are to be right, in [0, 1].

    Returns:
        Nats, at least 0; 0 where no reluctance up to `MOST_RELUCTANT` reaches the precision, or
        only at the price of more than `DEAREST` of mean reward, or where the exclusive answer is
        given fewer than `FEWEST` times.
    """
    logits = policy.logits(held_out)
    plain = 0.0
    for tried in np.arange(0.0, MOST_RELUCTANT + STEP / 2, STEP).tolist():
        doubting = replace(policy, calibration=policy.calibration._replace(reluctance=tried))
        answers = doubting.answers(logits)
        reward = float(policy.family.reward.score_masks(answers, gold).mean())
        plain = plain if tried else reward
        nothing = answers == 0
        if reward < plain - DEAREST or nothing.sum() < FEWEST:
            break
        if (gold[nothing] == 0).mean() >= precision:
            return tried
    return 0.0
