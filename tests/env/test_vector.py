"""The native vector environment against Gymnasium's SyncVectorEnv, and the asynchronous one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

import memroute_env
from memroute_env import (
    Dataset,
    MemoryRoutingEnv,
    MemoryRoutingVectorEnv,
    OptionError,
    Taxonomy,
)
from tests.conftest import make_example

IDS = memroute_env.ENV_IDS
MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]
VIEWS: list[dict[str, Any]] = [
    {},
    {"parse": "lenient"},
    {"observation": "features", "action": "multidiscrete", "feature_dim": 16},
    {"observation": "features", "action": "multibinary", "feature_dim": 16},
    {"observation": "index", "action": "discrete"},
]
ANSWERS = [
    "company.brand_core",
    "none",
    "bananas",
    "company.brand_core, none",
    "user.role_context\nuser.session_history",
    "",
    "- `company.tools_config`, nonsense",
]
# Forking a process that has threads (numpy's) warns on newer Pythons.
FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def pair(
    dataset: Dataset, n: int, mode: AutoresetMode, **view: Any
) -> tuple[MemoryRoutingVectorEnv, SyncVectorEnv]:
    def make() -> gym.Env[Any, Any]:
        return MemoryRoutingEnv(dataset, **view)

    native = MemoryRoutingVectorEnv(n, dataset, autoreset_mode=mode, **view)
    return native, SyncVectorEnv([make] * n, autoreset_mode=mode)


def same(a: Any, b: Any, where: str = "") -> None:
    """Fail, naming the place, unless two nested structures hold the same."""
    if isinstance(a, dict):
        assert isinstance(b, dict), where
        assert a.keys() == b.keys(), (where, a.keys() ^ b.keys())
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray), where
        assert a.shape == b.shape, (where, a.shape, b.shape)
        assert a.dtype == b.dtype, (where, a.dtype, b.dtype)
        if a.dtype == object:
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                same(x, y, f"{where}[{i}]")
        else:
            assert (a == b).all(), (where, a, b)
    elif isinstance(a, tuple | list):
        assert type(a) is type(b), where
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{i}]")
    else:
        assert a == b, (where, a, b)


def actions_for(env: VectorEnv[Any, Any, Any], rng: np.random.Generator) -> Any:
    if isinstance(env.single_action_space, gym.spaces.Space) and env.single_action_space.shape:
        return env.action_space.sample()
    if isinstance(env.single_action_space, gym.spaces.Discrete):
        return env.action_space.sample()
    return tuple(ANSWERS[i] for i in rng.integers(len(ANSWERS), size=env.num_envs))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.get("action", v.get("parse", "text")))
@pytest.mark.parametrize("seed", [5, [3, 99, 3, 12345]])
def test_native_agrees_with_sync_example_by_example(
    small: Dataset, mode: AutoresetMode, view: dict[str, Any], seed: Any
) -> None:
    native, sync = pair(small, 4, mode, **view)
    native.action_space.seed(1)
    rng = np.random.default_rng(0)
    same(native.reset(seed=seed), sync.reset(seed=seed), "reset")
    for step in range(12):
        actions = actions_for(native, rng)
        same(native.step(actions), sync.step(actions), f"step {step}")
        if mode is AutoresetMode.DISABLED:
            mask = rng.random(4) < 0.5
            mask[step % 4] = True
            if step % 3 == 0:
                mask[:] = True
            options = {"reset_mask": mask}
            same(native.reset(options=options), sync.reset(options=options), "masked reset")
            if not mask.all():
                rest = {"reset_mask": ~mask}
                same(native.reset(options=rest), sync.reset(options=rest), "second reset")
    # Seeding again restarts both.
    same(native.reset(seed=seed), sync.reset(seed=seed), "reset again")


def test_native_agrees_with_sync_beyond_a_block_of_draws(small: Dataset) -> None:
    native, sync = pair(small, 2, AutoresetMode.SAME_STEP, observation="index", action="discrete")
    native.reset(seed=0)
    sync.reset(seed=0)
    for _ in range(600):
        same(native.step(np.array([0, 1])), sync.step(np.array([0, 1])))


def test_unseeded_native_environments_differ(small: Dataset) -> None:
    def draws() -> list[int]:
        env = MemoryRoutingVectorEnv(8, small, observation="index")
        env.reset()
        return [env.step(("none",) * 8)[4]["index"].tolist() for _ in range(8)]

    assert draws() != draws()


def test_sub_environment_i_draws_what_a_single_one_with_seed_plus_i_draws(small: Dataset) -> None:
    native = MemoryRoutingVectorEnv(3, small)
    _, info = native.reset(seed=40)
    drawn = [info["index"].tolist()]
    drawn += [native.step(("none",) * 3)[4]["index"].tolist() for _ in range(9)]
    for i in range(3):
        single = MemoryRoutingEnv(small)
        expected = [single.reset(seed=40 + i if k == 0 else None)[1]["index"] for k in range(10)]
        assert [row[i] for row in drawn] == expected


@pytest.mark.parametrize("option", [{"index": 13}, {"id": "three"}])
def test_reset_options_pick_one_example_for_all(small: Dataset, option: dict[str, Any]) -> None:
    native, sync = pair(small, 3, AutoresetMode.DISABLED)
    native.reset(seed=1)
    sync.reset(seed=1)
    same(native.reset(options=option), sync.reset(options=option))
    assert native.step(("none",) * 3)[4]["id"].tolist() == ["three"] * 3
    sync.step(("none",) * 3)
    # Nothing was drawn meanwhile.
    same(native.reset(), sync.reset())


def test_a_masked_reset_seeds_only_its_own_rows(small: Dataset) -> None:
    native, sync = pair(small, 3, AutoresetMode.DISABLED)
    native.reset(seed=[1, 2, 3])
    sync.reset(seed=[1, 2, 3])
    answers = ("none",) * 3
    native.step(answers)
    sync.step(answers)
    mask = {"reset_mask": np.array([True, False, True])}
    same(native.reset(seed=[7, 8, 9], options=mask), sync.reset(seed=[7, 8, 9], options=mask))
    same(native.reset(options=None), sync.reset(options=None))


def test_a_masked_reset_may_pick_an_example(small: Dataset) -> None:
    native = MemoryRoutingVectorEnv(3, small, autoreset_mode=AutoresetMode.DISABLED)
    _, before = native.reset(seed=0)
    native.step(("none",) * 3)
    mask = np.array([False, True, False])
    observations, info = native.reset(options={"reset_mask": mask, "id": "three"})
    assert info["_id"].tolist() == mask.tolist()
    assert info["id"][1] == "three"
    assert observations[1] == small[-1].conversation.to_text()
    assert observations[0] == small[int(before["index"][0])].conversation.to_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reset_mask": [True, False]}, "bool array"),
        ({"reset_mask": np.array([1, 0])}, "bool array"),
        ({"reset_mask": np.array([True])}, "shape"),
        ({"reset_mask": np.array([False, False])}, "at least one"),
        ({"index": 99}, "99"),
        ({"what": 1}, "what"),
        ({"index": 1, "id": "three"}, "either"),
    ],
)
def test_a_bad_reset_option_is_named(small: Dataset, options: dict[str, Any], said: str) -> None:
    env = MemoryRoutingVectorEnv(2, small)
    env.reset(seed=0)
    with pytest.raises(OptionError, match=said):
        env.reset(options=options)


def test_bad_arguments_are_named(small: Dataset) -> None:
    with pytest.raises(OptionError, match="num_envs"):
        MemoryRoutingVectorEnv(0, small)
    with pytest.raises(OptionError, match="does not render"):
        MemoryRoutingVectorEnv(2, small, render_mode="ansi")
    with pytest.raises(OptionError, match="2 seeds"):
        MemoryRoutingVectorEnv(2, small).reset(seed=[1, 2, 3])
    env = MemoryRoutingVectorEnv(2, small)
    env.reset(seed=0)
    with pytest.raises(OptionError, match="2 actions"):
        env.step(("none",))


def test_an_unknown_autoreset_mode_names_the_known_ones(small: Dataset) -> None:
    with pytest.raises(OptionError, match="SameStep"):
        MemoryRoutingVectorEnv(2, small, autoreset_mode="sometimes")


@pytest.mark.parametrize("mode", MODES)
def test_a_step_out_of_turn_raises(small: Dataset, mode: AutoresetMode) -> None:
    env = MemoryRoutingVectorEnv(2, small, autoreset_mode=mode)
    with pytest.raises(ResetNeeded):
        env.step(("none", "none"))
    env.reset(seed=0)
    env.step(("none", "none"))
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(ResetNeeded):
            env.step(("none", "none"))
        env.reset(options={"reset_mask": np.array([True, False])})
        with pytest.raises(ResetNeeded):
            env.step(("none", "none"))
    else:
        env.step(("none", "none"))


@pytest.mark.parametrize(
    ("action", "bad"),
    [
        ("discrete", [0, 299]),
        ("discrete", [-1, 0]),
        ("discrete", [0.5, 0.0]),
        ("multibinary", np.full((2, 12), 2)),
        ("multidiscrete", np.zeros((2, 11), int)),
        ("multidiscrete", np.full((2, 12), 257)),
    ],
)
def test_a_numeric_action_outside_its_space_is_refused(
    small: Dataset, action: Any, bad: Any
) -> None:
    env = MemoryRoutingVectorEnv(2, small, action=action)
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(np.asarray(bad))


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.bool_, np.float32, np.int32])
@pytest.mark.parametrize(
    "layout",
    [
        "C",
        pytest.param(
            "F",
        ),
        "strided",
    ],
)
def test_every_layout_of_an_array_of_bits_is_read(small: Dataset, dtype: Any, layout: str) -> None:
    env = MemoryRoutingVectorEnv(14, small, action="multibinary", autoreset_mode="Disabled")
    env.reset(seed=0)
    masks = np.arange(0, 4096, 293)
    bits = (masks[:, None] >> np.arange(12) & 1).astype(dtype)
    if layout == "F":
        bits = np.asfortranarray(bits)
    elif layout == "strided":
        bits = np.repeat(np.repeat(bits, 2, axis=0), 2, axis=1)[::2, ::2]
    predicted = env.step(bits)[4]["predicted"]
    assert predicted.tolist() == [small.taxonomy.ids(int(m)) for m in masks]


def test_everything_returned_is_a_copy(small: Dataset) -> None:
    view: dict[str, Any] = {"observation": "features", "action": "discrete", "feature_dim": 8}
    spoilt, clean = (MemoryRoutingVectorEnv(3, small, **view) for _ in range(2))
    returned: Any = spoilt.reset(seed=0)
    same(returned, clean.reset(seed=0))
    for step in range(6):
        observation, *numbers, info = returned
        observation[:] = 9
        for array in (*numbers, *info.values()):
            if isinstance(array, np.ndarray):
                array[...] = True if array.dtype == bool else 7
        for array in info.get("final_info", {}).values():
            array[...] = 0
        for row in info.get("final_obs", ()):
            if isinstance(row, np.ndarray):
                row[:] = 5
        actions = np.array([step, step + 1, step + 2])
        returned, expected = spoilt.step(actions), clean.step(actions)
        same(returned, expected)


def test_same_step_shows_the_finished_and_the_new_episode(small: Dataset) -> None:
    env = MemoryRoutingVectorEnv(2, small)
    first, info = env.reset(seed=3)
    observations, rewards, terminations, truncations, after = env.step(("none", "bananas"))
    assert after["final_obs"].tolist() == list(first)
    assert after["final_info"]["id"].tolist() == info["id"].tolist()
    assert after["_final_info"].all()
    assert after["final_info"]["malformed"][0] == ""
    assert "bananas" in after["final_info"]["malformed"][1]
    assert rewards[1] == -1
    assert terminations.all()
    assert not truncations.any()
    assert list(observations) == [
        small[int(i)].conversation.to_text() for i in after["index"].tolist()
    ]
    assert "gold" not in after


def test_next_step_spends_every_second_step_on_the_reset(small: Dataset) -> None:
    env = MemoryRoutingVectorEnv(2, small, autoreset_mode=AutoresetMode.NEXT_STEP)
    env.reset(seed=3)
    for step in range(6):
        _, rewards, terminations, _, info = env.step(("bananas", "bananas"))
        assert rewards.tolist() == ([0, 0] if step % 2 else [-1, -1])
        assert terminations.tolist() == [step % 2 == 0] * 2
        assert ("gold" in info) == (step % 2 == 0)


def test_np_random_and_seeds_are_those_of_the_sub_environments(small: Dataset) -> None:
    native, sync = pair(small, 3, AutoresetMode.SAME_STEP)
    native.reset(seed=[4, 5, 6])
    sync.reset(seed=[4, 5, 6])
    assert native.np_random_seed == sync.np_random_seed == (4, 5, 6)
    assert len(native.np_random) == 3


def test_more_environments_than_examples(small: Dataset) -> None:
    env = MemoryRoutingVectorEnv(100, small)
    env.reset(seed=0)
    rewards = env.step(("none",) * 100)[1]
    assert rewards.shape == (100,)
    assert set(rewards.tolist()) == set(
        env.reward.score_masks([0] * len(small), small.gold_masks).tolist()
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", IDS)
def test_make_vec_in_every_autoreset_mode(env_id: str, mode: AutoresetMode) -> None:
    env = gym.make_vec(env_id, num_envs=3, split="test", autoreset_mode=mode)
    assert isinstance(env.unwrapped, MemoryRoutingVectorEnv)
    assert env.metadata["autoreset_mode"] == mode
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    env.action_space.seed(0)
    for _ in range(4):
        observations, rewards, *_ = env.step(env.action_space.sample())
        assert observations in env.observation_space
        assert rewards.shape == (3,)
        if mode is AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": np.ones(3, bool)})
    env.close()


def test_make_vec_defaults_to_the_native_environment_in_same_step_mode() -> None:
    env = gym.make_vec("MemoryRouting-v0", num_envs=2, split="test")
    assert isinstance(env.unwrapped, MemoryRoutingVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


@pytest.mark.parametrize("env_id", IDS)
def test_make_vec_sync(env_id: str) -> None:
    env = gym.make_vec(env_id, num_envs=2, vectorization_mode="sync", split="test")
    native = gym.make_vec(
        env_id,
        num_envs=2,
        split="test",
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    assert env.observation_space == native.observation_space
    assert env.action_space == native.action_space
    same(env.reset(seed=0), native.reset(seed=0))
    env.action_space.seed(0)
    actions = env.action_space.sample()
    same(env.step(actions), native.step(actions))


@FORKS
@pytest.mark.parametrize(
    ("env_id", "shared_memory"),
    [
        pytest.param(IDS[0], True),
        (IDS[0], False),
        ("MemoryRoutingFeatures-v0", True),
        ("MemoryRoutingFeatures-v0", False),
        ("MemoryRoutingIndex-v0", True),
        ("MemoryRoutingIndex-v0", False),
    ],
)
def test_async_agrees_with_native(env_id: str, shared_memory: bool) -> None:
    env = gym.make_vec(
        env_id,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"shared_memory": shared_memory},
        split="test",
    )
    native = gym.make_vec(
        env_id,
        num_envs=2,
        split="test",
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    try:
        same(env.reset(seed=2), native.reset(seed=2))
        env.action_space.seed(0)
        for _ in range(4):
            actions = env.action_space.sample()
            same(env.step(actions), native.step(actions))
    finally:
        env.close()


AWKWARD = [
    "naïve café, 東京 🧠, \u0416\u202e",
    "tab\there and a\nsecond line",
    "z" * 20_000,
    "emoji " * 5 + "👩‍👩‍👧",
]


def awkward_env(taxonomy: Taxonomy) -> Callable[[], gym.Env[Any, Any]]:
    dataset = Dataset(
        [make_example(str(i), ["none"], text) for i, text in enumerate(AWKWARD)], taxonomy
    )
    return lambda: MemoryRoutingEnv(dataset)


@FORKS
@pytest.mark.parametrize("shared_memory", [pytest.param(True), False])
def test_async_carries_every_character(marketing: Taxonomy, shared_memory: bool) -> None:
    make = awkward_env(marketing)
    env = AsyncVectorEnv([make, make], shared_memory=shared_memory)
    try:
        for i, text in enumerate(AWKWARD):
            observations, _ = env.reset(options={"index": i})
            assert observations == (f"USER: {text}",) * 2
            assert observations in env.observation_space
    finally:
        env.close()


@FORKS
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_error_in_a_worker_keeps_its_type(small: Dataset) -> None:
    env = AsyncVectorEnv([lambda: MemoryRoutingEnv(small)])
    try:
        with pytest.raises(OptionError, match="99"):
            env.reset(options={"index": 99})
    finally:
        env.close(terminate=True)
