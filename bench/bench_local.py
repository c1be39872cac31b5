"""The local policy: features against scikit-learn's, routing latency and throughput, size."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from bench.harness import Row, rate, seconds
from memroute_agents.local.checkpoint import load_policy, save_policy
from memroute_agents.local.factorised import FactorisedFamily
from memroute_agents.local.features import FeatureConfig, extract, sentences_of
from memroute_agents.local.router import LocalAgent, default_policy
from memroute_data_gen.compose import Composer
from memroute_env import Taxonomy, load_dataset
from memroute_env.taxonomy import Category, Horizon


def _large_taxonomy(categories: int) -> Taxonomy:
    """Categories of every horizon and both scopes, too many for a list of sets."""
    horizons = list(Horizon)
    storing = [
        Category(f"c{i}", f"kind {i}", ("company", "user")[i % 2], horizons[i % 5], 90)
        for i in range(categories)
    ]
    nothing = Category("nothing", "the rest", "none", Horizon.SHORT, None, exclusive=True)
    return Taxonomy("large", (*storing, nothing), scopes=("company", "user"))


def rows() -> list[Row]:
    from sklearn.feature_extraction.text import HashingVectorizer

    conversations = [e.conversation for e in load_dataset("marketing-300")]
    config = FeatureConfig()
    characters = HashingVectorizer(analyzer="char", ngram_range=(3, 5))
    words = HashingVectorizer(ngram_range=(1, 2))

    def library() -> None:
        for conversation in conversations[:64]:
            parts = [s for turn in conversation.turns for s in sentences_of(turn.content)]
            characters.transform(parts)
            words.transform(parts)

    library_rate = rate(library, 64)
    ours = rate(lambda: extract(conversations[:64], config), 64)
    single = iter(range(10**9))
    one = 1 / seconds(lambda: extract([conversations[next(single) % 300]], config))
    result = [
        Row(
            "n-grams of sentences, scikit-learn's HashingVectorizer",
            f"{library_rate:,.0f} conversations a second",
            1.0,
        ),
        Row("the same, ours, in batches of 64", f"{ours:,.0f} a second", ours / library_rate, "10"),
        Row("the same, ours, one at a time", f"{one:,.0f} a second", one / library_rate),
    ]
    policy = default_policy()
    agent = LocalAgent(policy)
    agent.route(conversations[:1])
    latencies = []
    for conversation in conversations * 3:
        started = time.perf_counter()
        agent.route([conversation])
        latencies.append(time.perf_counter() - started)
    p50, p95 = np.percentile(latencies, [50, 95]) * 1e3
    result.append(
        Row("routing one at a time", f"p50 {p50:.2f} ms, p95 {p95:.2f} ms", None, "1 ms, 2 ms")
    )
    throughput = rate(lambda: agent.route(conversations), len(conversations))
    result.append(Row("routing in a batch of 300", f"{throughput:,.0f} a second", None, "3,000"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.npz"
        save_policy(policy, path)
        loading = seconds(lambda: load_policy(path), repeats=5, clock=time.perf_counter)
        size = path.stat().st_size / 1e6
    result.append(
        Row("checkpoint", f"{size:.1f} MB, loads in {loading * 1e3:.0f} ms", None, "10 MB, 100 ms")
    )
    factorised = FactorisedFamily(_large_taxonomy(60))
    shape = (300, factorised.num_categories + factorised.num_sizes)
    logits = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    decisions = rate(lambda: factorised.decide(logits), len(logits))
    alone = seconds(lambda: factorised.decide(logits[:1]))
    result.append(
        Row(
            "decisions for 60 storing categories (factorised), in a batch of 300",
            f"{decisions:,.0f} a second; alone {alone * 1e3:.1f} ms",
        )
    )
    composer = Composer(0)
    numbers = iter(range(10**9))
    result.append(
        Row(
            "composer, one core",
            f"{rate(lambda: composer(next(numbers)), 1):,.0f} conversations a second",
            None,
            "5,000",
        )
    )
    return result
