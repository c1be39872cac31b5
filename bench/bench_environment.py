"""Reward, environment and import time, against the plain obvious implementation."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np

from bench.harness import Row, rate, seconds
from memroute_env import Reward, load_dataset, load_taxonomy
from memroute_env.reward import RewardConfig, _build_tables

ORDER = ["long", "medium", "rolling", "evolving", "short"]
ADJACENT = [{"long", "medium"}, {"medium", "short"}, {"medium", "rolling"}, {"rolling", "short"}]


def plain_reward(text: str, gold: list[str], horizons: dict, scopes: dict) -> float:
    """What one writes first: split, sets, dictionaries, Counter."""
    items = [item.strip().lower() for item in text.replace("\n", ",").split(",") if item.strip()]
    predicted = set(items)
    if (
        not predicted
        or not predicted <= horizons.keys()
        or ("none" in predicted and len(predicted) > 1)
    ):
        return -1.0
    truth = set(gold)
    f1 = 2 * len(predicted & truth) / (len(predicted) + len(truth))
    tops = []
    for names in (predicted, truth):
        counts = Counter(horizons[n] for n in names)
        most = max(counts.values())
        tops.append(next(h for h in ORDER if counts[h] == most))
    temporal = 1.0 if tops[0] == tops[1] else 0.5 if set(tops) in ADJACENT else 0.0
    kinds = [{scopes[n] for n in names} for names in (predicted, truth)]
    named = [k.pop() if len(k) == 1 else "mixed" for k in kinds]
    parity = 1.0 if named[0] == named[1] else 0.0
    n = len(predicted)
    efficiency = 1.0 if n <= 3 else 0.7 if n == 4 else 0.4 if n == 5 else 0.0
    return 0.6 * f1 + 0.2 * temporal + 0.1 * parity + 0.1 * efficiency


def rows() -> list[Row]:
    taxonomy = load_taxonomy("marketing")
    reward = Reward(taxonomy)
    horizons = {c.id: str(c.horizon) for c in taxonomy.categories}
    scopes = {c.id: c.scope for c in taxonomy.categories}
    rng = random.Random(0)
    sets = taxonomy.small_sets()
    pairs = [(rng.choice(sets), rng.choice(sets)) for _ in range(2000)]
    texts = [", ".join(taxonomy.ids(p)) for p, _ in pairs]
    golds = [list(taxonomy.ids(g)) for _, g in pairs]
    masks = [g for _, g in pairs]

    def plain() -> None:
        for text, gold in zip(texts, golds, strict=True):
            plain_reward(text, gold, horizons, scopes)

    def ours() -> None:
        for text, mask in zip(texts, masks, strict=True):
            reward.score_text(text, mask)

    base = rate(plain, len(texts))
    text_rate = rate(ours, len(texts))
    result = [
        Row("plain rewards (sets, dictionaries, Counter)", f"{base:,.0f} a second", 1.0),
        Row("text actions, `score_text`", f"{text_rate:,.0f} a second", text_rate / base, "20"),
    ]
    numbers = np.random.default_rng(0)
    for n, target in ((1_024, "3,000"), (1_000_000, "6,000")):
        p, g = numbers.integers(0, 4096, (2, n))
        speed = rate(lambda p=p, g=g: reward.score_masks(p, g), n)
        result.append(
            Row(f"`score_masks`, batch of {n:,}", f"{speed:,.0f} a second", speed / base, target)
        )
    for n in (1_024, 1_000_000):
        bits = numbers.integers(0, 2, (n, 12)).astype(np.int8)
        g = numbers.integers(0, 4096, n)
        speed = rate(lambda b=bits, g=g: reward.score_actions(b, g), n)
        result.append(
            Row(
                f"MultiBinary to rewards, batch of {n:,}",
                f"{speed:,.0f} a second",
                speed / base,
                "1,000",
            )
        )
    result += _environments()
    built, tables = [], _build_tables(taxonomy, RewardConfig())
    for i in range(7):
        config = RewardConfig(malformed=-1.0 - i * 1e-9)
        started = time.perf_counter()
        tables = _build_tables(taxonomy, config)
        built.append(time.perf_counter() - started)
    size = sum(np.asarray(t).nbytes for t in (*tables.columns, tables.class_of, tables.column_of))
    result.append(
        Row(
            "reward tables",
            f"{size / 2**20:.1f} MiB, built in {statistics.median(built) * 1e3:.0f} ms",
            None,
            "10 MB, 50 ms",
        )
    )
    result += _imports()
    return result


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
