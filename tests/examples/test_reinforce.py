"""The one-file example learns."""

import pytest

from examples.reinforce import reinforce
from memroute_agents.baselines import best_constant
from memroute_env import load_dataset


def test_it_learns_from_rewards_what_no_constant_answer_earns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    score = reinforce(steps=150, envs=512, dim=1_024, rate=0.05)
    _, constant = best_constant(load_dataset("marketing", "validation"))
    assert score > constant + 0.1
    assert f"reward {score:.3f}" in capsys.readouterr().out
