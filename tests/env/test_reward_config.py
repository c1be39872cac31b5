"""The reward's numbers: how they may be given, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from memroute_env import OptionError, Reward, RewardConfig, load_taxonomy

MARKETING = load_taxonomy("marketing")


def test_lists_as_json_holds_them_are_the_same_numbers() -> None:
    default = RewardConfig()
    given: dict[str, Any] = {
        "efficiency": list(default.efficiency),
        "adjacent": [sorted(pair) for pair in default.adjacent],
    }
    config = RewardConfig(**given)
    assert config == default
    assert hash(config) == hash(default)
    reward = Reward(MARKETING, config)
    assert reward.score(3, 1) == Reward(MARKETING).score(3, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"efficiency": 1.0}, "efficiency must be a sequence of numbers"),
        ({"efficiency": ["full"]}, "efficiency must be a sequence of numbers"),
        ({"efficiency": []}, "the efficiency schedule must fall"),
        ({"efficiency": [0.5, 1.0]}, "the efficiency schedule must fall"),
        ({"adjacent": [["long"], 3]}, "adjacent one of pairs of horizons"),
        ({"adjacent": [["long", "soon"]]}, "an adjacency is a pair of two horizons"),
    ],
)
def test_what_is_no_schedule_or_no_pair_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        RewardConfig(**given)
