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

from bench.harness import Row, race, seconds
from memroute_env import Reward, load_dataset, load_taxonomy
from memroute_env.reward import RewardConfig, _build_tables
from tests.properties.slow_reward import slow_score, slow_score_text

ASSUMED = 30_000
"""Rewards a second of the plain implementation that the targets were reckoned with."""

REMARKS = f"""
The plain implementation (`tests/properties/slow_reward.py`) is written from the specification and
checks the package in the property tests. Each of its rows is the same work as the rows below it:
the same texts, or pairs drawn alike. The targets for arrays were reckoned with {ASSUMED:,} plain
rewards a second; where it is faster than that, the ratio shrinks by as much, so the multiple of
{ASSUMED:,} stands beside each rate.

What bounds `score_masks` is four gathers a pair (two classes, the union's size, the total), about
a nanosecond each in numpy: a million pairs wait for memory on top of that, and a batch of 1,024
spends half its time in the calls themselves. Everything runs in one thread.
"""


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

    def against(
        plain: tuple[str, int, Callable[[], object]],
        *ours: tuple[str, int, Callable[[], object], str],
    ) -> None:
        """A row for the plain implementation, and one for each that races it."""
        times = race([plain[2], *(run for _, _, run, _ in ours)])
        base = plain[1] / times[0]
        result.append(Row(f"plain: {plain[0]}", f"{base:,.0f} a second", 1.0))
        for (what, count, _, target), spent in zip(ours, times[1:], strict=True):
            speed = count / spent
            measured = f"{speed:,.0f} a second ({speed / ASSUMED:,.0f} × {ASSUMED:,})"
            result.append(Row(what, measured, speed / base, target))

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

    count = len(texts)
    against(
        ("texts parsed and scored", count, plain_texts),
        ("text actions, `score_text`, answers seen before", count, our_texts, "20"),
        ("text actions, `score_text`, no answer seen before", count, our_new_texts, ""),
    )

    # Sets: every pair of the 4,096 alike.
    pairs = numbers.integers(0, taxonomy.num_masks, (2_000, 2)).tolist()
    lists = [(taxonomy.ids(p), taxonomy.ids(g)) for p, g in pairs]

    def plain_sets() -> None:
        for predicted, gold in lists:
            slow_score(set(predicted), set(gold), horizons, scopes)

    def our_masks(n: int) -> Callable[[], object]:
        p, g = numbers.integers(0, taxonomy.num_masks, (2, n))
        return lambda: reward.score_masks(p, g)

    against(
        ("lists of ids scored", len(lists), plain_sets),
        ("`score_masks`, batch of 1,024", 1_024, our_masks(1_024), "3,000"),
        ("`score_masks`, batch of 1,000,000", 1_000_000, our_masks(1_000_000), "6,000"),
    )

    # Binary actions.
    actions = numbers.integers(0, 2, (2_000, len(names))).astype(np.int8)

    def plain_actions() -> None:
        for action, (_, gold) in zip(actions, lists, strict=True):
            predicted = {name for name, bit in zip(names, action, strict=True) if bit}
            slow_score(predicted or {taxonomy.exclusive.id}, set(gold), horizons, scopes)

    def our_actions(n: int) -> Callable[[], object]:
        bits = numbers.integers(0, 2, (n, len(names))).astype(np.int8)
        g = numbers.integers(0, taxonomy.num_masks, n)
        return lambda: reward.score_actions(bits, g)

    against(
        ("arrays of bits scored", len(actions), plain_actions),
        ("MultiBinary to rewards, batch of 1,024", 1_024, our_actions(1_024), "1,000"),
        ("MultiBinary to rewards, batch of 1,000,000", 1_000_000, our_actions(1_000_000), "1,000"),
    )
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

    episodes, steps = (1 / spent for spent in race([episode, pole_step]))
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
            64 / spent
            for spent in race(
                [lambda v=native, a=actions: v.step(a), lambda v=sync, a=actions: v.step(a)]
            )
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
            clock=time.perf_counter,
        )

    ours, theirs = cost("memroute_env"), cost("gymnasium")
    return [
        Row(
            "`import memroute_env`, against `import gymnasium`",
            f"{ours * 1e3:.0f} against {theirs * 1e3:.0f} ms",
            ours / theirs,
        )
    ]
