"""What ships: the corpus is what the bank builds, the benchmarks are frozen, the floor is low."""

from __future__ import annotations

import numpy as np
import pytest

from memroute_agents.baselines import best_constant
from memroute_data_gen.authored import load_bank
from memroute_data_gen.compose import Composer
from memroute_data_gen.corpus import COMPOSED, build_split
from memroute_data_gen.quality import check_corpus
from memroute_data_gen.splits import near_duplicates
from memroute_env import Reward, load_dataset

FROZEN = {
    "marketing-50": (
        50,
        "1.0",
        # pragma: allowlist nextline secret
        "e8789705b4623257b5780c2e9a04e384c4a23c30e90e4ae49380b8d7fc0cea45",
    ),
    "marketing-300": (
        300,
        "1.0",
        # pragma: allowlist nextline secret
        "a001b81abbb7cabf642d3161331fd9540b7a0abc6ac168b5e243787e740fb883",
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_benchmark_changes_only_with_a_new_version(name: str) -> None:
    dataset = load_dataset(name)
    assert (len(dataset), dataset.version, dataset.sha256) == FROZEN[name]


@pytest.mark.parametrize("name", FROZEN)
def test_a_benchmark_has_the_shape_that_it_promises(name: str) -> None:
    dataset = load_dataset(name)
    times = len(dataset) // 50
    domains = [e.metadata.domain for e in dataset]
    expected = {
        "Brand & Positioning": 8, "Strategic Decisions": 8, "Performance & Metrics": 8,
        "Tools & Integrations": 6, "User Preferences": 10, "Business Priorities": 6,
        "Knowledge Artifacts": 4,
    }  # fmt: skip
    assert {d: domains.count(d) for d in expected} == {d: n * times for d, n in expected.items()}
    difficulties = [e.metadata.difficulty for e in dataset]
    assert [difficulties.count(d) for d in ("easy", "medium", "hard")] == [
        n * times for n in (14, 26, 10)
    ]
    for example in dataset:
        assert 3 <= len(example.conversation.turns) <= 6
        named = set(example.labels.categories) - {"none"}
        assert set(example.labels.evidence) == named
        assert example.labels.rationale


def test_every_category_is_gold_at_least_six_times_in_the_300() -> None:
    dataset = load_dataset("marketing-300")
    for category in dataset.taxonomy.all_ids:
        assert sum(category in e.labels.categories for e in dataset) >= 6, category


def test_benchmarks_share_no_utterance_with_the_bank() -> None:
    bank = load_bank()
    ours = [u.text for u in bank.utterances] + [
        text
        for examples in bank.conversations.values()
        for example in examples
        for text in example.conversation.user_texts
    ]
    theirs = [
        text
        for name in FROZEN
        for example in load_dataset(name)
        for text in example.conversation.user_texts
    ]
    border = len(ours)
    close = [(i, j) for i, j, _ in near_duplicates([*ours, *theirs], 0.3) if i < border <= j]
    assert close == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_shipped_splits_are_what_the_bank_builds(split: str) -> None:
    built = build_split(split)
    shipped = load_dataset("marketing", split)
    assert [e.canonical_json() for e in built] == [e.canonical_json() for e in shipped]


def test_the_shipped_training_split_is_what_the_bank_builds() -> None:
    shipped = load_dataset("marketing", "train")
    authored = len(shipped) - COMPOSED["train"]
    composer = Composer(0, "train")
    by_id = {e.id: e for e in shipped}
    for index in (0, 1, 777, 5_000):
        example = composer(index)
        assert by_id[example.id].canonical_json() == example.canonical_json()
    assert [e.id for e in shipped[:authored]] == [e.id for e in load_bank().conversations["train"]]


def test_the_bank_is_as_large_as_promised() -> None:
    bank = load_bank()
    width = 12
    singles = [u.mask for u in bank.utterances]
    for bit in range(width):
        assert singles.count(1 << bit) >= 150
    assert singles.count(0) >= 300
    assert sum(mask.bit_count() > 1 for mask in singles) >= 150
    whole = [e for examples in bank.conversations.values() for e in examples]
    assert len(whole) >= 800
    twins: dict[str, set[str]] = {}
    for unit in bank.utterances:
        if unit.twin:
            twins.setdefault(unit.twin.split("-")[0], set()).add(unit.twin)
    assert len(twins) >= 20
    assert min(map(len, twins.values())) >= 8


def test_the_default_recipe_passes_every_gate() -> None:
    composed = [Composer(11)(i) for i in range(2_000)]
    test = load_dataset("marketing", "test")
    report = check_corpus(composed, test.taxonomy, other=list(test), deep=False)
    assert report.passed, [g for g in report.gates if not g.passed]


@pytest.mark.parametrize("name", ["marketing:test", *FROZEN])
def test_no_constant_and_no_spraying_answer_comes_near_the_oracle(name: str) -> None:
    dataset = load_dataset(name)
    reward = Reward(dataset.taxonomy)
    assert best_constant(dataset)[1] < 0.45
    for spray in (4095, 0b010101010101, 0b101010101010, 0b111111):
        assert reward.score_masks(np.full(len(dataset), spray), dataset.gold_masks).mean() < 0.45
    gold = dataset.gold_masks
    assert reward.score_masks(gold, gold).min() == 1.0
