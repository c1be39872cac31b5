"""The contract of the single environment, over every registered id."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence

import memroute_env
from memroute_env import (
    DataError,
    Dataset,
    MemoryRoutingEnv,
    OptionError,
    Reward,
    Taxonomy,
    load_dataset,
)
from tests.conftest import make_example

IDS = memroute_env.ENV_IDS
STEP_KEYS = {
    "index",
    "id",
    "reward_f1",
    "reward_temporal",
    "reward_parity",
    "reward_efficiency",
    "predicted",
    "gold",
    "malformed",
}


def rollout(env: gym.Env[Any, Any], seed: int, episodes: int = 25) -> list[Any]:
    """Everything that an agent sees, with actions from a seeded space."""
    env.action_space.seed(seed)
    seen: list[Any] = []
    for episode in range(episodes):
        seen.append(env.reset(seed=seed if episode == 0 else None))
        seen.append(env.step(env.action_space.sample()))
    return seen


@pytest.mark.parametrize("env_id", IDS)
def test_passes_gymnasiums_checker_without_a_warning(env_id: str) -> None:
    check_env(gym.make(env_id, split="test").unwrapped)


def test_render_modes_pass_gymnasiums_checker() -> None:
    check_env(gym.make(IDS[0], split="test", render_mode="ansi").unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_two_copies_with_one_seed_behave_the_same(env_id: str) -> None:
    one, two = gym.make(env_id, split="test"), gym.make(env_id, split="test")
    assert data_equivalence(rollout(one, 7), rollout(two, 7))
    drawn = {
        seed: [step[1]["index"] for step in rollout(one, seed)[::2] if len(step) == 2]
        for seed in (7, 8)
    }
    assert drawn[7] != drawn[8]


@pytest.mark.parametrize("env_id", IDS)
def test_observations_and_actions_stay_in_their_spaces(env_id: str) -> None:
    env = gym.make(env_id, split="test")
    for episode in range(20):
        observation, _ = env.reset(seed=episode)
        assert observation in env.observation_space
        action = env.action_space.sample()
        assert action in env.action_space
        after, reward, terminated, truncated, _ = env.step(action)
        assert after in env.observation_space
        assert data_equivalence(observation, after)
        assert (terminated, truncated) == (True, False)
        assert isinstance(reward, float)
        assert -1 <= reward <= 1


@pytest.mark.parametrize("env_id", IDS)
def test_an_env_made_from_a_pickled_spec_is_the_same(env_id: str) -> None:
    env = gym.make(env_id, split="test")
    assert env.spec is not None
    again = gym.make(pickle.loads(pickle.dumps(env.spec)))
    assert again.spec == env.spec
    assert data_equivalence(rollout(env, 3), rollout(again, 3))


@pytest.mark.parametrize("env_id", IDS)
def test_the_spec_survives_json(env_id: str) -> None:
    spec = gym.spec(env_id)
    assert type(spec).from_json(spec.to_json()) == spec


@pytest.mark.parametrize("env_id", IDS)
def test_spaces_and_envs_pickle(env_id: str) -> None:
    env = gym.make(env_id, split="test")
    for space in (env.observation_space, env.action_space):
        assert pickle.loads(pickle.dumps(space)) == space
    again = pickle.loads(pickle.dumps(env.unwrapped))
    assert data_equivalence(rollout(env, 5), rollout(again, 5))


def test_the_text_view_shows_the_conversation(small: Dataset) -> None:
    env = MemoryRoutingEnv(small)
    observation, info = env.reset(options={"index": 2})
    assert observation == small[2].conversation.to_text()
    assert observation.startswith("USER: message about")
    assert info == {"index": 2, "id": small[2].id}


def test_nothing_about_the_gold_set_is_told_before_the_step(small: Dataset) -> None:
    env = MemoryRoutingEnv(small, render_mode="ansi")
    for i, example in enumerate(small):
        observation, info = env.reset(options={"index": i})
        assert set(info) == {"index", "id"}
        assert observation == example.conversation.to_text()
        assert "gold" not in str(env.render())


def test_step_info_is_complete_and_agrees_with_the_reward(small: Dataset) -> None:
    env, reward = MemoryRoutingEnv(small), Reward(small.taxonomy)
    for i, example in enumerate(small):
        answer = "user.role_context, company.brand_core"
        env.reset(options={"index": i})
        _, total, _, _, info = env.step(answer)
        assert set(info) == STEP_KEYS
        expected = reward.score_text(answer, example.labels.categories)
        assert total == expected.total
        assert info["reward_f1"] == expected.f1
        assert info["reward_temporal"] == expected.temporal
        assert info["reward_parity"] == expected.parity
        assert info["reward_efficiency"] == expected.efficiency
        assert info["predicted"] == ("company.brand_core", "user.role_context")
        assert info["gold"] == example.labels.categories
        assert info["malformed"] == ""
        assert (info["index"], info["id"]) == (i, example.id)


def test_a_malformed_answer_costs_one_and_says_why(small: Dataset) -> None:
    env = MemoryRoutingEnv(small)
    env.reset(options={"index": 0})
    _, reward, terminated, _, info = env.step("company.brand_core, bananas")
    assert (reward, terminated) == (-1.0, True)
    assert "bananas" in info["malformed"]
    assert info["predicted"] == ()
    components = [info[key] for key in STEP_KEYS if key.startswith("reward_")]
    assert components == [0.0] * 4


@pytest.mark.parametrize("action", [None, 3, b"none", ["none"], {"a": 1}, np.zeros(3)])
def test_a_text_action_that_is_no_text_is_malformed_not_a_crash(
    small: Dataset, action: Any
) -> None:
    env = MemoryRoutingEnv(small)
    env.reset(seed=0)
    assert env.step(action)[1] == -1.0


def test_lenient_reading_drops_what_it_does_not_know(small: Dataset) -> None:
    env = MemoryRoutingEnv(small, parse="lenient")
    env.reset(options={"index": 0})
    assert env.step("company.brand_core, bananas")[1] == 1.0


def test_info_holds_no_nan_and_is_never_shared_between_calls(small: Dataset) -> None:
    env = MemoryRoutingEnv(small)
    seen = []
    for answer in ("none", "bananas", "company.brand_core"):
        _, info = env.reset(options={"index": 0})
        seen.append(info)
        info = env.step(answer)[4]
        seen.append(info)
        floats = [v for v in info.values() if isinstance(v, float)]
        assert len(floats) == 4
        assert not np.isnan(floats).any()
    copies = [dict(info) for info in seen]
    for info in seen:
        info.clear()
    env.reset(options={"index": 0})
    assert env.step("none")[4] == copies[1]


def test_numeric_observations_are_fresh_arrays(small: Dataset) -> None:
    env = MemoryRoutingEnv(small, observation="features", feature_dim=32)
    first, _ = env.reset(options={"index": 1})
    kept = first.copy()
    first[:] = 7
    after = env.step("none")[0]
    assert (after == kept).all()
    after[:] = 9
    assert (env.reset(options={"index": 1})[0] == kept).all()
    assert kept.shape == (32,)
    assert kept.dtype == np.float32
    assert np.linalg.norm(kept) == pytest.approx(1)


def test_a_step_out_of_turn_raises(small: Dataset) -> None:
    for env in (MemoryRoutingEnv(small), gym.make("MemoryRouting-v0", dataset=small)):
        with pytest.raises(ResetNeeded, match="reset"):
            env.step("none")
        env.reset(seed=0)
        env.step("none")
        with pytest.raises(ResetNeeded, match="reset"):
            env.step("none")
        env.reset()
        env.step("none")


def test_reset_options_pick_an_example_and_draw_nothing(small: Dataset) -> None:
    plain, picking = MemoryRoutingEnv(small), MemoryRoutingEnv(small)
    plain.reset(seed=11)
    picking.reset(seed=11)
    picking.reset(options={"index": 4})
    assert picking.reset(options={"id": "three"})[1]["id"] == "three"
    drawn = [plain.reset()[1]["index"] for _ in range(20)]
    assert [picking.reset()[1]["index"] for _ in range(20)] == drawn


@pytest.mark.parametrize("index", [np.int64(3), np.uint8(3), 3])
def test_an_index_may_be_a_numpy_integer(small: Dataset, index: Any) -> None:
    info = MemoryRoutingEnv(small).reset(options={"index": index})[1]
    assert info["index"] == 3
    assert type(info["index"]) is int


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"index": 14}, r"14 is not in \[0, 14\)"),
        ({"index": -1}, r"-1 is not in \[0, 14\)"),
        ({"index": 1.0}, "whole number"),
        ({"index": "1"}, "whole number"),
        ({"index": True}, "whole number"),
        ({"index": None}, "whole number"),
        ({"id": "nobody"}, "nobody"),
        ({"id": 3}, "3"),
        pytest.param(
            {"id": ["three"]},
            "three",
        ),
        ({"index": 1, "id": "three"}, "either"),
        ({"idx": 1}, "idx"),
        ({"reset_mask": np.ones(1, bool)}, "reset_mask"),
    ],
)
def test_any_other_reset_option_is_an_error(
    small: Dataset, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        MemoryRoutingEnv(small).reset(options=options)


def test_a_refused_reset_leaves_the_episode_as_it_was(small: Dataset) -> None:
    env = MemoryRoutingEnv(small)
    env.reset(options={"id": "three"})
    with pytest.raises(OptionError):
        env.reset(options={"index": 99})
    assert env.step("none")[4]["id"] == "three"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"observation": "pixels"}, "text, features, index"),
        ({"action": "joystick"}, "text, multidiscrete, multibinary, discrete"),
        ({"parse": "loose"}, "strict, lenient"),
        ({"render_mode": "rgb_array"}, "ansi, human"),
        ({"observation": "features", "feature_dim": 0}, "at least 1"),
    ],
)
def test_an_unknown_argument_names_the_known_ones(
    small: Dataset, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        MemoryRoutingEnv(small, **arguments)


def test_data_of_another_taxonomy_is_refused(small: Dataset, support: Taxonomy) -> None:
    with pytest.raises(DataError, match="marketing.*not in 'support'"):
        MemoryRoutingEnv(small, taxonomy=support)
    with pytest.raises(DataError, match="unknown category 'company.brand_core'"):
        MemoryRoutingEnv(list(small), taxonomy=support)
    with pytest.raises(DataError, match="marketing.*not in 'support'"):
        MemoryRoutingEnv("marketing", taxonomy=support)


def test_a_sequence_of_examples_will_do(small: Dataset) -> None:
    env = MemoryRoutingEnv(list(small))
    env.reset(options={"id": "three"})
    assert env.step("company.brand_core")[4]["gold"] == small[-1].labels.categories


def test_the_dataset_hash_is_at_hand(small: Dataset) -> None:
    assert MemoryRoutingEnv(small).dataset_sha256 == small.sha256


# Numeric actions ---------------------------------------------------------------------------------


def test_every_action_view_reaches_the_same_reward(small: Dataset) -> None:
    taxonomy = small.taxonomy
    sets = taxonomy.small_sets()
    text = MemoryRoutingEnv(small)
    views = {
        name: MemoryRoutingEnv(small, action=name)
        for name in ("multidiscrete", "multibinary", "discrete")
    }
    for k in range(0, len(sets), 7):
        bits = np.array([sets[k] >> i & 1 for i in range(taxonomy.num_storing)], np.int8)
        text.reset(options={"index": k % len(small)})
        expected = text.step(", ".join(taxonomy.ids(sets[k])))
        for name, env in views.items():
            env.reset(options={"index": k % len(small)})
            assert env.step(k if name == "discrete" else bits)[1:] == expected[1:]


def test_action_spaces_are_as_documented(small: Dataset) -> None:
    spaces = {
        name: MemoryRoutingEnv(small, action=name).action_space
        for name in ("multidiscrete", "multibinary", "discrete")
    }
    assert spaces["multidiscrete"] == gym.spaces.MultiDiscrete([2] * 12)
    assert spaces["multibinary"] == gym.spaces.MultiBinary(12)
    assert spaces["discrete"] == gym.spaces.Discrete(299)


@pytest.mark.parametrize("action", ["multidiscrete", "multibinary"])
def test_the_empty_set_means_the_exclusive_category(small: Dataset, action: Any) -> None:
    env = MemoryRoutingEnv(small, action=action)
    env.reset(options={"id": "none"})
    _, reward, _, _, info = env.step(np.zeros(12, np.int64))
    assert (reward, info["predicted"], info["malformed"]) == (1.0, ("none",), "")


@pytest.mark.parametrize(
    ("view", "action"),
    [
        ("discrete", 299),
        ("discrete", -1),
        ("discrete", 0.5),
        pytest.param("discrete", "none"),
        pytest.param("discrete", None),
        pytest.param("discrete", float("nan")),
        ("multidiscrete", np.full(12, 2)),
        ("multidiscrete", np.full(12, -1)),
        ("multidiscrete", np.zeros(13, int)),
        ("multidiscrete", np.zeros((1, 12), int)),
        ("multibinary", np.full(12, 0.5)),
        ("multibinary", np.full(12, np.nan)),
        ("multibinary", np.full(12, 256)),
        ("multibinary", "none"),
        ("multibinary", None),
    ],
)
def test_a_numeric_action_outside_its_space_is_refused(
    small: Dataset, view: Any, action: Any
) -> None:
    env = MemoryRoutingEnv(small, action=view)
    env.reset(options={"id": "three"})
    with pytest.raises(InvalidAction):
        env.step(action)
    # The refused action did not use the episode up.
    fine = 0 if view == "discrete" else np.zeros(12, int)
    assert env.step(fine)[4]["id"] == "three"


# Rendering ---------------------------------------------------------------------------------------


def test_ansi_shows_the_conversation_then_the_outcome(small: Dataset) -> None:
    env = MemoryRoutingEnv(small, render_mode="ansi")
    with pytest.raises(ResetNeeded):
        env.render()
    env.reset(options={"id": "three"})
    before = env.render()
    assert before is not None
    assert "USER: a lot" in before
    assert "ASSISTANT: yes" in before
    env.step("company.brand_core")
    after = env.render()
    assert after is not None
    assert after.startswith(before.rstrip("\n"))
    for shown in ("answer: company.brand_core", "company.strategic_signatures", "f1", "parity"):
        assert shown in after


def test_human_prints_at_reset_and_at_step(
    small: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    env = MemoryRoutingEnv(small, render_mode="human")
    env.reset(options={"id": "three"})
    assert "a lot" in capsys.readouterr().out
    env.step("bananas")
    out = capsys.readouterr().out
    assert "bananas" in out
    assert "company.strategic_signatures" in out
    assert env.render() is None


@pytest.mark.parametrize("mode", ["ansi", "human"])
def test_rendering_never_passes_control_characters_on(
    mode: str, marketing: Taxonomy, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = Dataset([make_example("e\x1b[2J", ["none"], "hi \x1b]0;title\x07 \x9b31m")], marketing)
    env = MemoryRoutingEnv(evil, render_mode=mode)
    env.reset(seed=0)
    env.step("\x1b[31mred")
    shown = str(env.render()) if mode == "ansi" else capsys.readouterr().out
    assert "hi " in shown
    assert not any(c in shown for c in "\x1b\x07\x9b")


def test_rendering_without_a_mode_warns_and_shows_nothing(small: Dataset) -> None:
    env = MemoryRoutingEnv(small)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


# A fresh process ---------------------------------------------------------------------------------


def python(code: str, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=os.environ.copy(),
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_module_prefix_makes_it_without_an_import() -> None:
    code = """
import gymnasium as gym
env = gym.make("memroute_env:MemoryRouting-v0")
observation, info = env.reset(seed=0)
print(info["id"]); print(env.step("none")[2])
"""
    identifier, terminated = python(code).split()
    env = gym.make("MemoryRouting-v0")
    assert env.reset(seed=0)[1]["id"] == identifier
    assert terminated == "True"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = """
import sys, json
import memroute_env
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = set(json.loads(python(code)))
    assert not loaded & {
        "torch", "sklearn", "scipy", "tinker", "tinker_cookbook", "cohere", "matplotlib",
        "pandas", "jinja2", "rich", "typer", "memroute_agents", "memroute_eval",
    }  # fmt: skip


def test_playing_an_episode_loads_nothing_heavy() -> None:
    code = """
import sys, json
import gymnasium as gym
import memroute_env
env = gym.make("MemoryRoutingFeatures-v0")
env.reset(seed=0); env.step(env.action_space.sample())
memroute_env.build_messages(env.unwrapped.dataset[0].conversation, env.unwrapped.taxonomy)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = set(json.loads(python(code)))
    assert not loaded & {"torch", "sklearn", "scipy", "tinker", "cohere", "matplotlib"}


def test_importing_twice_does_not_register_twice() -> None:
    code = """
import importlib, memroute_env
importlib.reload(memroute_env)
print(len(memroute_env.ENV_IDS))
"""
    assert python(code).strip() == str(len(IDS))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_shipped_splits_are_playable_by_name(split: str) -> None:
    env = gym.make("MemoryRouting-v0", split=split).unwrapped
    assert isinstance(env, MemoryRoutingEnv)
    assert env.dataset is load_dataset("marketing", split)
    env.reset(seed=1)
    info = env.step("none")[4]
    assert info["gold"]
