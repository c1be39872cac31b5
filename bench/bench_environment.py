"""Reward, environment and import time, against the plain obvious implementation."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from bench.harness import Row, rate, seconds
from memroute_env import Reward, load_dataset, load_taxonomy
from memroute_env.reward import RewardConfig, _build_tables
from tests.properties.slow_reward import slow_score, slow_score_text

ASSUMED = 30_000
"""Rewards a second of the plain implementation that the targets were reckoned with."""


def rows() -> list[Row]:
    return [*_rewards(), *_environments(), *_tables(), *_imports()]


def _rewards() -> list[Row]:
    """Each path against the plain implementation on the same answers and gold sets.

    The plain implementation is the one that the property tests hold ours against: written from the
    specification, with sets, dictionaries, Counter and regular expressions, in no hurry.
    """
    taxonomy = load_taxonomy("marketing")
    reward = Reward(taxonomy)
    horizons = {c.id: str(c.horizon) for c in taxonomy.categories}
    scopes = {c.id: c.scope for c in taxonomy.categories}
    names = taxonomy.all_ids[:-1]
    numbers = np.random.default_rng(0)
    result: list[Row] = []

    def race(what: str, count: int, ours: Callable[[], object], plain: float, target: str) -> None:
        speed = rate(ours, count)
        measured = f"{speed:,.0f} a second ({speed / ASSUMED:,.0f} × {ASSUMED:,})"
        result.append(Row(what, measured, speed / plain, target))

    # Texts: small sets, as policies answer them.
    small = numbers.choice(taxonomy.small_sets(), (2_000, 2)).tolist()
    texts = [", ".join(taxonomy.ids(p)) for p, _ in small]
    # The same in spellings that all differ, for a parser that has read none of them.
    upper = numbers.integers(0, 2, (len(texts), 200))
    spelt = [
        "".join(c.upper() if u else c for c, u in zip(text, row, strict=False))
        for text, row in zip(texts, upper.tolist(), strict=True)
    ]
    masks = [g for _, g in small]
    gold_sets = [set(taxonomy.ids(g)) for g in masks]

    def plain_texts() -> None:
        for text, gold in zip(texts, gold_sets, strict=True):
            slow_score_text(text, gold, horizons, scopes, taxonomy.exclusive.id)

    def our_texts() -> None:
        for text, mask in zip(texts, masks, strict=True):
            reward.score_text(text, mask)

    def our_new_texts() -> None:
        fresh = Reward(taxonomy)
        for text, mask in zip(spelt, masks, strict=True):
            fresh.score_text(text, mask)

    base = rate(plain_texts, len(texts))
    result.append(Row("plain: texts parsed and scored", f"{base:,.0f} a second", 1.0))
    race("text actions, `score_text`, answers seen before", len(texts), our_texts, base, "20")
    race("text actions, `score_text`, no answer seen before", len(texts), our_new_texts, base, "")

    # Sets: every pair of the 4,096 alike.
    pairs = numbers.integers(0, taxonomy.num_masks, (2_000, 2)).tolist()
    lists = [(taxonomy.ids(p), taxonomy.ids(g)) for p, g in pairs]

    def plain_sets() -> None:
        for predicted, gold in lists:
            slow_score(set(predicted), set(gold), horizons, scopes)

    base = rate(plain_sets, len(lists))
    result.append(Row("plain: lists of ids scored", f"{base:,.0f} a second", 1.0))
    for n, target in ((1_024, "3,000"), (1_000_000, "6,000")):
        p, g = numbers.integers(0, taxonomy.num_masks, (2, n))
        what = f"`score_masks`, batch of {n:,}"
        race(what, n, lambda p=p, g=g: reward.score_masks(p, g), base, target)

    # Binary actions.
    actions = numbers.integers(0, 2, (2_000, len(names))).astype(np.int8)

    def plain_actions() -> None:
        for action, (_, gold) in zip(actions, lists, strict=True):
            predicted = {name for name, bit in zip(names, action, strict=True) if bit}
            slow_score(predicted or {taxonomy.exclusive.id}, set(gold), horizons, scopes)

    base = rate(plain_actions, len(actions))
    result.append(Row("plain: arrays of bits scored", f"{base:,.0f} a second", 1.0))
    for n in (1_024, 1_000_000):
        bits = numbers.integers(0, 2, (n, len(names))).astype(np.int8)
        g = numbers.integers(0, taxonomy.num_masks, n)
        what = f"MultiBinary to rewards, batch of {n:,}"
        race(what, n, lambda b=bits, g=g: reward.score_actions(b, g), base, "1,000")
    return result


def _tables() -> list[Row]:
    taxonomy = load_taxonomy("marketing")
    built, tables = [], _build_tables(taxonomy, RewardConfig())
    for i in range(7):
        config = RewardConfig(malformed=-1.0 - i * 1e-9)
        started = time.perf_counter()
        tables = _build_tables(taxonomy, config)
        built.append(time.perf_counter() - started)
    arrays = (*tables.scores, tables.row_of, tables.column_of, tables.union_of)
    size = sum(array.nbytes for array in arrays)
    return [
        Row(
            "reward tables",
            f"{size / 2**20:.1f} MiB, built in {statistics.median(built) * 1e3:.0f} ms",
            None,
            "10 MB, 50 ms",
        )
    ]


def _environments() -> list[Row]:
    dataset = load_dataset("marketing", "validation")
    env = gym.make("MemoryRouting-v0", dataset=dataset)
    env.reset(seed=0)
    pole = gym.make("CartPole-v1")
    pole.reset(seed=0)

    def episode() -> None:
        env.reset()
        env.step("company.brand_core")

    def pole_step() -> None:
        _, _, terminated, truncated, _ = pole.step(1)
        if terminated or truncated:
            pole.reset()

    episodes, steps = rate(episode, 1), rate(pole_step, 1)
    result = [
        Row(
            "reset + step of a made environment, against a CartPole-v1 step",
            f"{episodes:,.0f} against {steps:,.0f} a second",
            episodes / steps,
            "2",
        )
    ]
    mode = gym.vector.AutoresetMode.SAME_STEP
    views: list[dict[str, Any]] = [{}, {"observation": "index", "action": "discrete"}]
    for view in views:
        name = "/".join(view.values()) or "text"
        native = gym.make_vec("MemoryRouting-v0", num_envs=64, dataset=dataset, **view)
        sync = gym.make_vec(
            "MemoryRouting-v0",
            num_envs=64,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": mode},
            dataset=dataset,
            **view,
        )
        native.reset(seed=0)
        sync.reset(seed=0)
        native.action_space.seed(0)
        actions = native.action_space.sample()
        fast, slow = (
            rate(lambda v=native, a=actions: v.step(a), 64),
            rate(lambda v=sync, a=actions: v.step(a), 64),
        )
        result.append(
            Row(
                f"native vector environment, 64 × {name}, against SyncVectorEnv",
                f"{fast:,.0f} against {slow:,.0f} steps a second",
                fast / slow,
                "30",
            )
        )
    return result


def _imports() -> list[Row]:
    def cost(module: str) -> float:
        return seconds(
            lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True),
            repeats=5,
            at_least=0.0,
        )

    ours, theirs = cost("memroute_env"), cost("gymnasium")
    return [
        Row(
            "`import memroute_env`, against `import gymnasium`",
            f"{ours * 1e3:.0f} against {theirs * 1e3:.0f} ms",
            ours / theirs,
        )
    ]
