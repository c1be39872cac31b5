"""Gates that fail when they should, and splits that keep alike texts together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_data_gen.compose import compose
from memroute_data_gen.quality import check_corpus
from memroute_data_gen.quality_view import print_report, write_page
from memroute_data_gen.splits import (
    assign_splits,
    near_duplicates,
    near_duplicates_across,
    normalise,
    redundant,
    split_examples,
)
from memroute_env import Example, load_taxonomy
from tests.conftest import make_example

MARKETING = load_taxonomy("marketing")
GATES = [
    "examples per category",
    "multi-label share",
    "none share",
    "share with distractor turns",
    "labels per stored example",
    "turns",
    "exact duplicates",
    "most frequent user utterance",
]


@pytest.fixture(scope="module")
def corpus() -> list[Example]:
    """Composed conversations, less those whose greetings and thanks are heard too often."""
    heard: Counter[str] = Counter()
    kept: list[Example] = []
    whole: set[str] = set()
    for example in compose(4_000, seed=21):
        said = {normalise(text) for text in example.conversation.user_texts}
        key = normalise(" ".join(example.conversation.user_texts))
        if len(kept) < 900 and key not in whole and all(heard[text] < 5 for text in said):
            heard.update(said)
            whole.add(key)
            kept.append(example)
    return kept


def relabel(example: Example, *categories: str) -> Example:
    labels = example.labels.model_copy(update={"categories": categories, "evidence": {}})
    return example.model_copy(update={"labels": labels})


def with_turns(example: Example, texts: list[str]) -> Example:
    return make_example(example.id, list(example.labels.categories), *texts).model_copy(
        update={"metadata": example.metadata.model_copy(update={"distractors": (0,)})}
    )


def drop_category(corpus: list[Example]) -> list[Example]:
    rare = "company.tools_config"
    return [e for e in corpus if rare not in e.labels.categories]


def single_labels(corpus: list[Example]) -> list[Example]:
    return [relabel(e, e.labels.categories[0]) for e in corpus]


def nothing_is_none(corpus: list[Example]) -> list[Example]:
    return [e for e in corpus if e.labels.categories != ("none",)]


def no_distractors(corpus: list[Example]) -> list[Example]:
    return [
        e.model_copy(update={"metadata": e.metadata.model_copy(update={"distractors": ()})})
        for e in corpus
    ]


def many_labels(corpus: list[Example]) -> list[Example]:
    ids = MARKETING.all_ids[:4]
    return [e if e.labels.categories == ("none",) else relabel(e, *ids) for e in corpus]


def too_short(corpus: list[Example]) -> list[Example]:
    return [with_turns(corpus[0], ["only", "two"]), *corpus[1:]]


def too_long(corpus: list[Example]) -> list[Example]:
    return [with_turns(corpus[0], [f"turn {i} of many" for i in range(13)]), *corpus[1:]]


def duplicated(corpus: list[Example]) -> list[Example]:
    text = corpus[0].model_copy(update={"id": "again"})
    return [*corpus, text]


def parroted(corpus: list[Example]) -> list[Example]:
    # 10 of 900 is more than 1%; figures and case do not hide it.
    return [
        with_turns(e, [f"please Write draft {i} today", "ok", f"it is about {'abcdefghij'[i]}"])
        if i < 10
        else e
        for i, e in enumerate(corpus)
    ]


SPOILT: dict[str, Callable[[list[Example]], list[Example]]] = {
    "examples per category": drop_category,
    "multi-label share": single_labels,
    "none share": nothing_is_none,
    "share with distractor turns": no_distractors,
    "labels per stored example": many_labels,
    "turns": too_short,
    "turns, too many": too_long,
    "exact duplicates": duplicated,
    "most frequent user utterance": parroted,
}


def failed(examples: list[Example], **options: object) -> set[str]:
    report = check_corpus(examples, MARKETING, deep=False, **options)  # type: ignore[arg-type]
    assert report.passed == (not [g for g in report.gates if not g.passed])
    return {gate.name for gate in report.gates if not gate.passed}


def test_a_good_corpus_passes_every_gate(corpus: list[Example]) -> None:
    report = check_corpus(corpus, MARKETING, deep=False)
    assert [gate.name for gate in report.gates] == GATES
    assert failed(corpus) == set()
    plain = report.to_dict()
    assert (plain["passed"], plain["n"]) == (True, 900)
    assert sum(plain["distributions"]["labels"].values()) == 900


@pytest.mark.parametrize("gate", SPOILT)
def test_a_spoilt_corpus_fails_that_gate(gate: str, corpus: list[Example]) -> None:
    name = gate.partition(",")[0]
    assert name in failed(SPOILT[gate](corpus))
    if gate not in ("labels per stored example", "multi-label share", "none share"):
        assert failed(SPOILT[gate](corpus)) == {name}


def test_a_near_duplicate_in_the_other_split_fails(corpus: list[Example]) -> None:
    text = max(corpus[0].conversation.user_texts, key=len)
    words = text.split()
    assert len(words) > 6
    across = "near duplicates across splits"
    for copied in (text, text.upper() + "!!", " ".join([*words, "really"])):
        other = [make_example("copy", ["none"], copied)]
        assert failed(corpus, other=other) == {across}
    fresh = [make_example("fresh", ["none"], "an entirely unheard-of sentence about otters")]
    assert failed(corpus, other=fresh) == set()


def test_secrets_are_found() -> None:
    secrets = {
        "e-mail address": "write to jane.doe@acme.com soon",
        "phone number": "call +44 20 7946 0958 now",
        "API key": "the key is sk-abcdefghijklmnop1234",
        "card number": "pay with 4111 1111 1111 1111 please",
    }
    for kind, text in secrets.items():
        report = check_corpus([make_example("a", ["none"], text)], MARKETING, deep=False)
        assert kind in {found for _, found, _ in report.secrets}, text
    harmless = "we spend $12,000 on 25% of 2024-06-01, see example dot com"
    report = check_corpus([make_example("a", ["none"], harmless)], MARKETING, deep=False)
    assert report.secrets == []


# Splits -------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrst"
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
A = "our board signs off on every campaign above five thousand pounds"
B = "our board signs off on every campaign above six thousand pounds"
C = "I would rather read three bullets than three paragraphs any day"


def test_near_duplicates_are_found_and_others_not() -> None:
    ((i, j, similarity),) = near_duplicates([A, C, B])
    assert (i, j) == (0, 2)
    assert 0.5 <= similarity < 1
    assert near_duplicates([A, C]) == []
    assert near_duplicates([A, A.upper() + "?"]) == [(0, 1, 1.0)]
    assert near_duplicates([]) == []


THRESHOLDS = [0.1, 0.3, 0.5, 0.7, 0.8, 1.0]
TEXTS = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12).map(" ".join), max_size=12
)


def similarity_of(a: str, b: str) -> float:
    def grams(text: str) -> set[str]:
        words = text.split()
        if len(words) <= 3:
            return {text}
        return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}

    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(THRESHOLDS))
def test_without_what_is_redundant_there_are_no_near_duplicates(
    texts: list[str], threshold: float
) -> None:
    found = redundant(texts, threshold)
    gone = {j for j, _, _ in found}
    stays = [text for j, text in enumerate(texts) if j not in gone]
    assert near_duplicates(stays, threshold) == []
    for j, i, similarity in found:
        earlier = [similarity_of(texts[k], texts[j]) for k in range(j) if k not in gone]
        assert i < j and i not in gone
        assert similarity == similarity_of(texts[i], texts[j]) == max(earlier) >= threshold


def test_of_a_template_one_text_stays() -> None:
    texts = [f"please remember that we always sign off with name{i} here" for i in range(5_000)]
    found = redundant(texts)
    assert [j for j, _, _ in found] == list(range(1, 5_000))
    assert {i for _, i, _ in found} == {0}


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(THRESHOLDS))
def test_near_duplicates_equal_the_obvious_implementation(
    texts: list[str], threshold: float
) -> None:
    expected = [
        (i, j, similarity)
        for j in range(len(texts))
        for i in range(j)
        if (similarity := similarity_of(texts[i], texts[j])) >= threshold
    ]
    assert near_duplicates(texts, threshold) == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(THRESHOLDS))
def test_across_equals_the_obvious_implementation(
    ours: list[str], theirs: list[str], threshold: float
) -> None:
    expected = [
        (i, j, similarity)
        for i, a in enumerate(ours)
        for j, b in enumerate(theirs)
        if (similarity := similarity_of(a, b)) >= threshold
    ]
    assert near_duplicates_across(ours, theirs, threshold) == expected


WORDS = [a + b + c for a in "bcdfghj" for b in "aeiou" for c in "lmnprst"]


@settings(max_examples=15, deadline=None)
@given(st.integers(61, 200), st.randoms(use_true_random=False), st.sampled_from([0.3, 0.5, 0.8]))
def test_what_many_texts_share_counts_too(count: int, random: Random, threshold: float) -> None:
    # A template's trigrams occur in all texts; some texts also hold rare words of their own.
    template = "please remember that the tone of voice in our newsletters is X and nothing else"
    texts = [
        " ".join([template.replace("X", random.choice(WORDS)), *random.sample(WORDS, k)])
        for k in (random.choice((0, 0, 1, 4, 12, 30)) for _ in range(count))
    ]
    expected = [
        (i, j)
        for j in range(count)
        for i in range(j)
        if similarity_of(texts[i], texts[j]) >= threshold
    ]
    assert [(i, j) for i, j, _ in near_duplicates(texts, threshold)] == sorted(expected)
    border = count // 3
    assert [
        (i, border + j)
        for i, j, _ in near_duplicates_across(texts[:border], texts[border:], threshold)
    ] == [(i, j) for i, j in sorted(expected) if i < border <= j]


def templated(random: Random, count: int) -> list[Example]:
    """Conversations of a few templates, some of their messages repeated or alike."""
    templates = [
        "please remember that the tone of voice in every one of our newsletters is X and nothing "
        "else",
        "X is what we said to X last week about X",
        "could you look at X for me",
    ]

    def message() -> str:
        words = random.choice(templates).split()
        return " ".join(random.choice(WORDS) if word == "X" else word for word in words)

    return [
        make_example(f"{n:03d}", ["none"], message(), "ok", message(), "ok", "thanks")
        if random.random() < 0.3
        else make_example(f"{n:03d}", ["none"], message() if n % 3 else f"{n} only {WORDS[n]} here")
        for n in range(count)
    ]


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 200), st.randoms(use_true_random=False), st.integers(0, 5))
def test_no_two_splits_share_what_the_gate_would_find(
    count: int, random: Random, seed: int
) -> None:
    parts = split_examples(templated(random, count), SHARES, seed=seed)
    assert sum(map(len, parts.values())) == count
    for name, part in parts.items():
        others = [e for other, es in parts.items() if other != name for e in es]
        if part and others:
            assert check_corpus(part, MARKETING, other=others, deep=False).across == []


def test_a_common_template_stays_in_one_split() -> None:
    said = (
        "please remember that the tone of voice in every one of our newsletters is {} and no more"
    )
    examples = [
        make_example(f"{n:03d}", ["none"], said.format(word), "ok", f"thanks {word}")
        for n, word in enumerate(WORDS[:150])
    ]
    parts = split_examples(examples, SHARES)
    assert sorted(map(len, parts.values())) == [0, 0, 150]


def test_texts_in_other_alphabets_are_told_apart() -> None:
    texts = [
        "мы никогда не даём скидок постоянным клиентам",
        "пишите мне коротко и без вступлений, пожалуйста",
        "мы никогда не даём скидок постоянным клиентам!",
    ]
    assert near_duplicates(texts) == [(0, 2, 1.0)]
    assert normalise("Crème brûlée, 25%") == "crème brûlée 0"


def test_alike_texts_stay_together_whatever_the_seed() -> None:
    for seed in range(40):
        names = assign_splits(["a", "b", "c"], [A, B, C], SHARES, seed=seed)
        assert names[0] == names[1]
        together = assign_splits(["a", "b", "c"], [A, B, C], SHARES, seed=seed, together=[(0, 2)])
        assert len(set(together)) == 1


def test_adding_texts_moves_no_others() -> None:
    ids = [LETTERS[i // 20] + LETTERS[i % 20] for i in range(200)]
    texts = [f"text named {word} stands entirely {word} alone {word}" for word in ids]
    names = assign_splits(ids, texts, SHARES)
    more = assign_splits([*ids, "new"], [*texts, C], SHARES)
    assert more[:-1] == names
    assert 0.7 < names.count("train") / 200 < 0.9
    assert assign_splits(ids, texts, SHARES, seed=1) != names


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text("abc ", min_size=1, max_size=25), max_size=12),
    st.lists(st.text("abc ", min_size=1, max_size=25), max_size=12),
)
def test_across_finds_the_pairs_that_a_joint_search_finds(
    ours: list[str], theirs: list[str]
) -> None:
    border = len(ours)
    joint = [(i, j, s) for i, j, s in near_duplicates([*ours, *theirs]) if i < border <= j]
    assert near_duplicates_across(ours, theirs) == [(i, j - border, s) for i, j, s in joint]


def test_a_split_corpus_passes_the_gate_on_what_is_across() -> None:
    examples = [
        make_example(f"{n:03d}", ["none"], f"{word} opens the door of number {word} at {word}",
                     "ok", f"thanks {LETTERS[n % 8]} again then")
        for n, word in enumerate(LETTERS[n // 8] + LETTERS[n % 8] for n in range(64))
    ]  # fmt: skip
    parts = split_examples(examples, SHARES)
    assert sum(map(bool, parts.values())) > 1
    for name, part in parts.items():
        others = [e for other, es in parts.items() if other != name for e in es]
        if part and others:
            assert check_corpus(part, MARKETING, other=others, deep=False).across == []


def test_shares_must_sum_to_one() -> None:
    for shares in ({"a": 0.5}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(ValueError, match="sum to 1"):
            assign_splits(["a"], [A], shares)


def test_examples_that_share_an_utterance_stay_together() -> None:
    examples = [
        make_example(f"e{i}{k}", ["none"], f"{word} is what only conversation {word} is about",
                     "ok", f"the shared long sentence of group {word} stands here twice {word}")
        for i, word in enumerate(LETTERS[n // 8] + LETTERS[n % 8] for n in range(60))
        for k in range(2)
    ]  # fmt: skip
    examples = [e.model_copy(update={"id": f"{n:03d}"}) for n, e in enumerate(examples)]
    parts = split_examples(examples, SHARES)
    assert sorted(e.id for part in parts.values() for e in part) == [e.id for e in examples]
    place = {e.id: name for name, part in parts.items() for e in part}
    for n in range(0, 120, 2):
        assert place[f"{n:03d}"] == place[f"{n + 1:03d}"]
    assert len({*place.values()}) == 3


def test_no_longer_utterance_of_a_split_corpus_stands_in_two_splits(
    corpus: list[Example],
) -> None:
    parts = split_examples(corpus, SHARES)
    said = [
        {normalise(t) for e in part for t in e.conversation.user_texts if len(t.split()) > 3}
        for part in parts.values()
    ]
    assert not said[0] & said[1]
    assert not said[0] & said[2]
    assert not said[1] & said[2]


def test_splits_are_the_same_under_every_hash_seed() -> None:
    code = (
        "from memroute_data_gen.splits import assign_splits\n"
        "t = [f'text {i} of {i % 7} with several {i % 5} words' for i in range(80)]\n"
        "print(assign_splits([str(i) for i in range(80)], t, {'a': 0.5, 'b': 0.5}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "7")
    }
    assert len(found) == 1


def test_the_page_shows_every_distribution_with_room_for_its_labels(
    corpus: list[Example], tmp_path: Path
) -> None:
    report = check_corpus(corpus, MARKETING, deep=False)
    write_page(report, "marketing:train <b>", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "marketing:train &lt;b&gt;" in page
    for name, counts in report.distributions.items():
        chart = page[page.index(f'aria-label="{name}"') :]
        chart = chart[: chart.index("</svg>")]
        right = int(re.findall(r'<text x="(\d+)"', chart)[0])  # where the labels end
        assert right >= 7 * max(map(len, counts))
        assert chart.count("<rect") == len(counts)


def test_a_name_is_printed_as_it_is(
    corpus: list[Example], capsys: pytest.CaptureFixture[str]
) -> None:
    print_report(check_corpus(corpus, MARKETING, deep=False), "marketing:train")
    assert "marketing:train: " in capsys.readouterr().out
