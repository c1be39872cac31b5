"""Wrappers around a text environment equal the environment's own numeric views."""

from __future__ import annotations

import pickle
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import memroute_env
from memroute_env import OptionError
from memroute_env.wrappers import (
    DiscreteAction,
    FeatureObservation,
    MultiBinaryAction,
    MultiDiscreteAction,
    hash_features,
)

ACTIONS = {
    "multibinary": MultiBinaryAction,
    "multidiscrete": MultiDiscreteAction,
    "discrete": DiscreteAction,
}


def made(**options: Any) -> gym.Env:
    return gym.make(memroute_env.ENV_IDS[0], split="validation", **options)


@pytest.mark.parametrize("name", ACTIONS)
def test_a_wrapped_text_environment_equals_the_view(name: str) -> None:
    wrapped = ACTIONS[name](FeatureObservation(made(), feature_dim=64))
    view = made(observation="features", action=name, feature_dim=64)
    assert wrapped.observation_space == view.observation_space
    assert wrapped.action_space == view.action_space
    wrapped.action_space.seed(3)
    for episode in range(20):
        seed = 5 if episode == 0 else None
        (ours, info), (theirs, expected) = wrapped.reset(seed=seed), view.reset(seed=seed)
        assert info == expected
        assert np.array_equal(ours, theirs)
        assert ours.dtype == np.float32
        action = wrapped.action_space.sample()
        ours, *rest = wrapped.step(action)
        theirs, *expected_rest = view.step(action)
        assert np.array_equal(ours, theirs)
        assert rest == expected_rest


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")
@pytest.mark.parametrize("name", ACTIONS)
def test_wrapped_environments_pass_gymnasiums_checker_and_are_made_again(name: str) -> None:
    env = ACTIONS[name](FeatureObservation(made(), feature_dim=16))
    check_env(env, skip_render_check=True)
    again = gym.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.action_space == env.action_space
    assert again.observation_space == env.observation_space


def test_no_bit_set_is_the_exclusive_answer() -> None:
    env = MultiBinaryAction(made())
    env.reset(seed=0)
    *_, info = env.step(np.zeros(12, np.int8))
    assert info["predicted"] == ("none",)
    assert info["malformed"] == ""


def test_an_action_outside_the_space_is_refused() -> None:
    env = DiscreteAction(made())
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="299"):
        env.step(299)


def test_wrappers_say_what_they_need() -> None:
    with pytest.raises(OptionError, match="observation='text'"):
        FeatureObservation(made(observation="index"))
    with pytest.raises(OptionError, match="action='text'"):
        MultiBinaryAction(made(action="discrete"))
    with pytest.raises(OptionError, match="at least 1"):
        FeatureObservation(made(), feature_dim=0)


def test_features_tell_texts_of_every_script_apart() -> None:
    texts = ["Мы говорим тепло", "Бюджет вырос", "预算增加了", "café", "caf", ""]
    rows = hash_features(texts, 4096)
    assert len({row.tobytes() for row in rows}) == len(texts)
    assert [bool(row.any()) for row in rows] == [True] * 5 + [False]
    assert np.array_equal(hash_features(["МЫ ГОВОРИМ ТЕПЛО"], 4096)[0], rows[0])


@given(st.text(st.characters(max_codepoint=127)))
def test_features_of_ascii_texts_are_those_of_letters_figures_and_apostrophes(text: str) -> None:
    words = re.findall("[a-z0-9']+", text.lower())
    assert np.array_equal(*hash_features([text, " ".join(words)], 4096))
