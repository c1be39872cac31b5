"""The composer: item i depends on (seed, i) alone, and what it labels is there."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_data_gen import compose as compose_module
from memroute_data_gen.authored import load_bank
from memroute_data_gen.compose import Composer, Recipe, compose, compose_distinct
from memroute_data_gen.corpus import COMPOSED, build_split
from memroute_data_gen.quality import check_corpus
from memroute_data_gen.splits import normalise
from memroute_env import Dataset, Example, OptionError, load_dataset, load_taxonomy

MARKETING = load_taxonomy("marketing")
SPLITS = ("train", "validation", "test")
BANK = load_bank()


@pytest.fixture(scope="module")
def two_thousand() -> list[Example]:
    return list(compose(2_000, seed=11))


# Where an item comes from -------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 10**6), st.sampled_from(SPLITS))
def test_an_item_can_be_rebuilt_by_itself(seed: int, index: int, split: str) -> None:
    one = Composer(seed, split)(index)
    composer = Composer(seed, split)
    composer(index + 1)
    composer(0)
    assert composer(index) == one
    assert next(compose(1, seed=seed, split=split, start=index)) == one


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_any_number_of_workers_makes_the_same() -> None:
    alone = list(compose(1_100, seed=4))
    assert list(compose(1_100, seed=4, workers=2)) == alone
    assert list(compose(600, seed=4, start=500, workers=2)) == alone[500:]


def test_seeds_splits_and_indices_matter() -> None:
    texts = {
        Composer(seed, split)(index).conversation.to_text()
        for seed in (0, 1)
        for split in SPLITS
        for index in range(20)
    }
    assert len(texts) >= 118


def test_ids_are_unique_and_tell_the_origin(two_thousand: list[Example]) -> None:
    assert two_thousand[7].id == "composed-train-11-7"
    assert len({e.id for e in two_thousand}) == 2_000


# What an item holds -------------------------------------------------------------------------------


def test_every_item_is_a_valid_example(two_thousand: list[Example]) -> None:
    for example in two_thousand:
        assert Example.model_validate_json(example.to_json()) == example
    Dataset(two_thousand, MARKETING)


@pytest.mark.parametrize("seed", [0, 1])
def test_two_thousand_pass_every_gate(seed: int) -> None:
    report = check_corpus(list(compose(2_000, seed=seed)), MARKETING, deep=False)
    assert [(g.name, g.found) for g in report.gates if not g.passed] == []
    assert len(report.gates) == 8


def test_a_file_of_many_holds_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Recipe(none=0, one=0, two=0, three=1, mixed_unit=1, distractors=(1, 0, 0))
    made = list(compose_distinct(1_500, seed=3, split="test", recipe=small))
    said = [normalise(" ".join(e.conversation.user_texts)) for e in made]
    assert len(set(said)) == 1_500
    plain = {e.id: e for e in compose(4_000, seed=3, split="test", recipe=small)}
    assert all(plain.get(e.id, e) == e for e in made)
    assert len({int(e.id.rpartition("-")[2]) for e in made}) == 1_500
    # Messages without slots, each with nothing but a closing: a few hundred.
    fixed = tuple(u for u in BANK.utterances if "{" not in u.text)
    monkeypatch.setattr(compose_module, "load_bank", lambda: replace(BANK, utterances=fixed))
    tiny = replace(small, merged=0, bridge=0, opening=0, closing=0)
    with pytest.raises(OptionError, match="do not hold 10000 different"):
        list(compose_distinct(10_000, split="test", recipe=tiny))


def test_next_to_no_conversation_is_composed_twice() -> None:
    said = [normalise(" ".join(e.conversation.user_texts)) for e in compose(8_000, seed=0)]
    assert len(set(said)) > 0.998 * len(said)


def pattern(text: str) -> re.Pattern[str]:
    """What an authored text may look like once its slots are filled."""
    parts = re.split(r"\{\w+?2?\}", text)
    return re.compile(".+?".join(map(re.escape, parts)), re.S | re.I)


def test_evidence_names_the_turns_that_hold_an_authored_message_of_the_category(
    two_thousand: list[Example],
) -> None:
    authored: dict[str, list[re.Pattern[str]]] = {c: [] for c in MARKETING.all_ids[:-1]}
    for unit in BANK.utterances:
        if unit.split == "train" and unit.mask:
            for category_id in MARKETING.ids(unit.mask):
                authored[category_id].append(pattern(unit.text))
    for example in two_thousand[:150]:
        stored = [c for c in example.labels.categories if c != "none"]
        assert set(example.labels.evidence) == set(stored)
        turns = example.conversation.turns
        for category_id, places in example.labels.evidence.items():
            assert places
            for place in places:
                assert turns[place].role == "user"
                assert any(p.search(turns[place].content) for p in authored[category_id])


def test_what_wants_an_answer_gets_the_one_written_for_it(two_thousand: list[Example]) -> None:
    asking = [
        (pattern(unit.text), pattern(unit.reply))
        for unit in BANK.utterances
        if unit.split == "train" and unit.act != "statement"
    ][::40]
    met = 0
    for example in two_thousand:
        turns = example.conversation.turns
        for turn, answer in zip(turns[::2], turns[1::2], strict=False):
            for said, reply in asking:
                if said.search(turn.content):
                    met += 1
                    assert reply.search(answer.content)
    assert met > 10


def test_a_bridge_takes_the_capital_of_what_follows_a_comma(two_thousand: list[Example]) -> None:
    leads = [lead for lead in BANK.replies["bridge"] + BANK.replies["opening"] if lead[-1] == ","]
    capital = re.compile(rf"(?:^|[.!?\n] ?)(?:{'|'.join(leads)}) (?!I\b)[A-Z]")
    authored = {normalise(unit.text)[:15] for unit in BANK.utterances}
    for example in two_thousand:
        for text in example.conversation.user_texts:
            if normalise(text)[:15] not in authored:
                assert not capital.search(text)


def test_a_small_split_repeats_little() -> None:
    for split in SPLITS:
        examples = list(load_dataset("marketing", split))
        heard = Counter(
            text
            for example in examples
            for text in {normalise(text) for text in example.conversation.user_texts}
        )
        assert heard.most_common(1)[0][1] <= 0.01 * len(examples)
        longer = max(n for text, n in heard.items() if len(text.split()) > 7)
        assert longer <= max(3, 0.002 * len(examples))


def test_no_message_comes_up_again_before_the_others_have() -> None:
    nothing = Recipe(none=1, one=0, two=0, three=0, bridge=0, merged=0, opening=0, closing=0)
    composer = Composer(5, "test", nothing)
    pool = sum(unit.split == "test" and unit.mask == 0 for unit in BANK.utterances)
    said = Counter(
        normalise(text)
        for index in range(pool // 3)
        for text in composer(index).conversation.user_texts
    )
    assert set(said.values()) == {1}


def test_distractors_are_user_turns_without_evidence(two_thousand: list[Example]) -> None:
    for example in two_thousand:
        evidence = {i for places in example.labels.evidence.values() for i in places}
        assert not evidence & set(example.metadata.distractors)
        for place in example.metadata.distractors:
            assert example.conversation.turns[place].role == "user"
        if example.labels.categories == ("none",):
            assert example.metadata.distractors == ()


def test_speakers_alternate_and_nothing_is_left_unfilled(two_thousand: list[Example]) -> None:
    for example in two_thousand:
        roles = [turn.role for turn in example.conversation.turns]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2)
        assert 3 <= len(roles) <= 12
        assert not re.search(r"\{\w*\}", example.conversation.to_text())


def test_shares_are_those_of_the_recipe(two_thousand: list[Example]) -> None:
    sizes = [MARKETING.mask(e.labels.categories).bit_count() for e in two_thousand]
    recipe = Recipe()
    for size, share in enumerate((recipe.none, recipe.one, recipe.two, recipe.three)):
        assert sizes.count(size) / 2_000 == pytest.approx(share, abs=0.05)
    nothing = list(compose(50, recipe=Recipe(none=1, one=0, two=0, three=0)))
    assert {e.labels.categories for e in nothing} == {("none",)}


@pytest.mark.parametrize("most", [4, 5, 6, 7, 8])
def test_no_conversation_has_more_turns_than_the_recipe_allows(most: int) -> None:
    labels = {"one": 0.6, "three": 0} if most < 6 else {}
    recipe = Recipe(max_turns=most, closing=0.9, last_reply=1, merged=0, **labels)
    made = list(compose(300, seed=3, recipe=recipe))
    assert max(len(e.conversation.turns) for e in made) == most
    plain = compose(300, seed=3, recipe=replace(recipe, max_turns=12))
    assert [e.labels.categories for e in made] == [e.labels.categories for e in plain]
    mixed = Recipe(max_turns=4, none=0, one=0, two=0, three=1, mixed_unit=1)
    for example in compose(100, recipe=mixed):
        assert len(example.conversation.turns) <= 4
        assert len(example.labels.categories) == 3


def test_telling_messages_of_different_splits_are_different() -> None:
    said: dict[str, set[str]] = {}
    for split in SPLITS:
        said[split] = {
            normalise(example.conversation.turns[place].content)
            for example in compose(800, seed=2, split=split)
            for places in example.labels.evidence.values()
            for place in places
        }
    assert not said["train"] & said["test"]
    assert not said["train"] & said["validation"]
    assert not said["validation"] & said["test"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"none": -0.1}, "none must be in"),
        ({"one": 1.5}, "one must be in"),
        ({"none": 0.5}, "must sum to 1"),
        ({"distractors": (0.5, 0.5, 0.5)}, "must sum to 1"),
        ({"max_turns": 3}, "at least 4"),
        ({"max_turns": 5}, "max_turns 5 is too few for three categories"),
        ({"closing": float("nan")}, "closing"),
    ],
)
def test_an_impossible_recipe_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Recipe(**changes)


def test_recipes_from_plain_data() -> None:
    assert Recipe.from_dict({}) == Recipe()
    assert Recipe.from_dict({"distractors": [1, 0, 0]}).distractors == (1.0, 0.0, 0.0)
    with pytest.raises(OptionError, match="unknown key 'colour'; known: .*closing"):
        Recipe.from_dict({"colour": 1})


def test_bad_arguments_are_named() -> None:
    for seed in (-1, 2**31):
        with pytest.raises(OptionError, match="seed must be in"):
            Composer(seed)
    with pytest.raises(OptionError, match="'dev'"):
        Composer(0, "dev")


# The bank -----------------------------------------------------------------------------------------


def test_the_bank_is_as_large_as_promised() -> None:
    for bit in range(12):
        own = [u for u in BANK.utterances if u.mask == 1 << bit]
        assert len({normalise(u.text) for u in own}) >= 20, MARKETING.all_ids[bit]
    nothing = [u for u in BANK.utterances if u.mask == 0]
    assert len({normalise(u.text) for u in nothing}) >= 60
    assert all(u.reply for u in BANK.utterances)


def test_authored_ids_and_texts_are_unique_and_splits_disjoint() -> None:
    assert len({u.id for u in BANK.utterances}) == len(BANK.utterances)
    texts = [normalise(u.text) for u in BANK.utterances]
    assert len(set(texts)) == len(texts)


# The shipped corpus -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_the_shipped_splits_can_be_rebuilt(split: str) -> None:
    shipped = load_dataset("marketing", split)
    built = Dataset(build_split(split), MARKETING)
    assert built.sha256 == shipped.sha256


def test_a_corpus_has_as_many_composed_ones_as_asked() -> None:
    authored = len(BANK.conversations["test"])
    assert len(build_split("test", composed=30)) == authored + 30
    assert len(build_split("test")) == authored + COMPOSED["test"]
    assert (
        build_split("test", 1, composed=5)[authored:] != build_split("test", composed=5)[authored:]
    )
