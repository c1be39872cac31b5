"""Hashed n-grams: equal substrings have equal hashes wherever they stand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_agents.local import encoding as encoding_module
from memroute_agents.local.encoding import Encoder
from memroute_agents.local.features import FeatureConfig, count_ngrams, extract, sentences_of
from memroute_env import Conversation, load_dataset

WORDS = FeatureConfig(word_orders=(1,), stem_lengths=(), speaker_stem=0, char_orders=())
PAIRS = FeatureConfig(word_orders=(2,), stem_lengths=(), speaker_stem=0, char_orders=())
STEMS = FeatureConfig(word_orders=(), stem_lengths=(5,), speaker_stem=0, char_orders=())
SPEAKER = FeatureConfig(word_orders=(), stem_lengths=(), char_orders=())
BY_WORD = FeatureConfig(word_orders=(1, 2), stem_lengths=(5,), char_orders=())
TRIGRAMS = FeatureConfig(word_orders=(), stem_lengths=(), speaker_stem=0, char_orders=(3,))
CHARACTERS = FeatureConfig(word_orders=(), stem_lengths=(), speaker_stem=0, char_orders=(3, 4, 5))
DEFAULT = FeatureConfig()
WORD = st.text("abcdefghijklmnopqrstuvwxyzäé", min_size=1, max_size=8)
SENTENCE = st.lists(WORD, min_size=1, max_size=6).map(" ".join)
ANY_TEXT = st.text(st.characters(exclude_categories=()), min_size=1, max_size=60)
FAST = settings(max_examples=60, deadline=None)


def buckets(texts: list[str], config: FeatureConfig = DEFAULT) -> list[Counter[int]]:
    """Bucket to its count, for each text."""
    counts = count_ngrams(texts, config)
    assert len(counts.indptr) == len(texts) + 1
    assert counts.indices.max(initial=0) < 1 << config.bits
    return [
        Counter(counts.indices[counts.indptr[i] : counts.indptr[i + 1]].tolist())
        for i in range(len(texts))
    ]


def conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation.model_validate([{"role": r, "content": c} for r, c in turns])


@FAST
@given(st.lists(WORD, min_size=1, max_size=8), st.data())
def test_a_word_has_one_hash_wherever_it_stands(words: list[str], data: st.DataObject) -> None:
    alone = [buckets([word], WORDS)[0] for word in words]
    together = sum(alone, Counter[int]())
    shuffled = data.draw(st.permutations(words))
    before = data.draw(st.lists(SENTENCE, max_size=3))
    assert buckets([*before, " ".join(shuffled)], WORDS)[-1] == together


@FAST
@given(st.lists(WORD, min_size=2, max_size=8))
def test_word_pairs_are_those_of_neighbours(words: list[str]) -> None:
    pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
    expected = sum((buckets([pair], PAIRS)[0] for pair in pairs), Counter[int]())
    assert buckets([" ".join(words)], PAIRS)[0] == expected
    assert buckets([words[0]], PAIRS)[0] == Counter()


def test_equal_windows_have_equal_hashes_wherever_they_stand() -> None:
    one, two, repeated = (buckets([t], TRIGRAMS)[0] for t in ("abcdef", "xbcdex", "abcxabcyabc"))
    assert len(one.keys() & two.keys()) == 2  # bcd and cde
    assert max(repeated.values()) == 3


@pytest.mark.parametrize(
    "text",
    [
        " so cold",
        "so \t cold",
        "SO-COLD",
        pytest.param(
            "so cold ",
        ),
    ],
)
def test_surplus_space_changes_no_character_gram(text: str) -> None:
    assert buckets([text], CHARACTERS) == buckets(["so cold"], CHARACTERS)


def test_words_with_a_common_stem_share_it() -> None:
    def single(word: str) -> set[int]:
        return set(buckets([word], STEMS)[0])

    assert single("prioritise") == single("priority") == single("prior")
    assert single("prior") != single("price")


def test_stems_are_taken_together_with_who_speaks_and_whether_it_asks() -> None:
    def of(text: str) -> set[int]:
        return set(buckets([text], SPEAKER)[0])

    def sign(text: str) -> set[int]:
        return of(text + " sign") - of(text + " xxxxx")

    manners = [sign(t) for t in ("we", "i", "i we", "they", "we ?", "i ?")]
    assert all(len(found) == 1 for found in manners)
    assert len(set.union(*manners)) == 6
    assert sign("we") == sign("our") == sign("We're")
    alone = [buckets([t], SPEAKER)[0] for t in ("we sign", "they sign")]
    assert buckets(["we sign", "they sign"], SPEAKER) == alone


def test_different_words_have_different_hashes() -> None:
    words = sorted({w for t in load_dataset("marketing", "test").texts for w in t.lower().split()})
    clean = [w for w in words if w.isalpha() and w.isascii()][:3_000]
    distinct = {next(iter(found)) for found in buckets(clean, WORDS)}
    # 3,000 balls into 131,072 boxes: about 34 collisions are expected.
    assert len(distinct) > len(clean) - 80


@FAST
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_a_text_is_counted_alike_alone_and_in_a_batch(texts: list[str]) -> None:
    assert buckets(texts, BY_WORD) == [buckets([text], BY_WORD)[0] for text in texts]


def test_character_grams_are_counted_alike_alone_and_in_a_batch() -> None:
    texts = ["alpha beta", "gamma delta"]
    assert buckets(texts, CHARACTERS) == [buckets([text], CHARACTERS)[0] for text in texts]


@FAST
@given(st.lists(ANY_TEXT, max_size=6))
def test_any_text_has_a_row(texts: list[str]) -> None:
    counts = count_ngrams(texts, DEFAULT)
    assert len(counts.indptr) == len(texts) + 1
    assert np.isfinite(counts.data).all()


def test_case_digits_marks_and_space_are_normalised() -> None:
    same = ["Up 25% in Q3!", "up  31% in q4 !", "UP 7%\tin Q1!"]
    first, *rest = buckets(same, BY_WORD)
    assert rest == [first, first]
    assert buckets(["a-b"], WORDS) == buckets(["a b"], WORDS)
    assert buckets(["€5"], WORDS) == buckets(["$5"], WORDS)


def test_rows_are_sentences_of_the_user_and_what_each_turn_answers() -> None:
    conversations = [
        conversation(
            ("user", "One. Two! Three?"),
            ("assistant", "Four. Five."),
            ("user", "Six\n7"),
            ("user", "Eight"),
            ("assistant", "Not read."),
        ),
        conversation(("assistant", "Only me.")),
        conversation(("user", "Only you.")),
    ]
    features = extract(conversations, BY_WORD)
    assert features.user_conversation.tolist() == [0, 0, 0, 0, 0, 0, 1, 2]
    assert features.user_turn.tolist() == [0, 0, 0, 2, 2, 3, -1, 0]
    assert features.turn_rows.tolist() == [0, 3, 5, 6, 7, 8]
    assert len(features.user.indptr) == 8 + 1
    assert features.size == 3
    has = np.diff(features.before.indptr) > 0
    assert has.tolist() == [False, True, False, True, False]
    answered = Counter(features.before[1].indices.tolist())
    apart = buckets(["Four.", "Five."], BY_WORD)
    assert answered == apart[0] + apart[1]


def test_what_is_hashed_together_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = [
        conversation(("assistant", f"A {'ab'[i % 2]}."), ("user", f"B {'cde'[i % 3]}. C."),
                     ("user", "D"), ("assistant", "E"), ("user", "F"))
        for i in range(8)
    ]  # fmt: skip
    encoder = Encoder.fit(talk, BY_WORD)
    together = encoder(talk)
    monkeypatch.setattr(encoding_module, "_AT_ONCE", 3)
    again = Encoder.fit(talk, BY_WORD)
    assert np.array_equal(again.columns, encoder.columns)
    assert np.array_equal(again.idf, encoder.idf)
    for name, value in encoder(talk)._asdict().items():
        same = getattr(together, name)
        if name in ("user", "before"):
            value, same = value.toarray(), same.toarray()
        assert np.array_equal(value, same), name


def test_replies_are_read_on_request() -> None:
    talk = [
        conversation(("assistant", "Zero."), ("user", "One."), ("assistant", "Two."),
                     ("user", "Three."), ("assistant", "Four.")),
    ]  # fmt: skip
    heard = extract(talk, BY_WORD).before
    with_replies = extract(talk, replace(BY_WORD, replies=True)).before
    zero, two, four = buckets(["Zero.", "Two.", "Four."], BY_WORD)
    for found, expected in ((heard, [zero, two]), (with_replies, [zero + two, two + four])):
        rows = np.split(found.indices, found.indptr[1:-1])
        assert [Counter(row.tolist()) for row in rows] == expected


@FAST
@given(ANY_TEXT)
def test_sentences_lose_nothing_but_space(text: str) -> None:
    parts = sentences_of(text)
    assert parts
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_an_empty_batch_has_no_rows() -> None:
    features = extract([], DEFAULT)
    assert len(features.user.indptr) == len(features.before.indptr) == 1
    assert features.size == 0
