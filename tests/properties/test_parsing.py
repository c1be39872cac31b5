"""The specification of the parser, as properties."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memroute_env import (
    AnswerParser,
    Category,
    Horizon,
    MalformedReason,
    ParsedAnswer,
    Taxonomy,
    load_taxonomy,
    parse_answer,
)
from memroute_env.parsing import ParseMode, format_answer
from tests.properties.slow_reward import slow_parse
from tests.properties.strategies import taxonomies, taxonomy_and_masks

MARKETING = load_taxonomy("marketing")
IDS = MARKETING.all_ids
MODES: tuple[ParseMode, ...] = ("strict", "lenient")
ALL = settings(max_examples=120, deadline=None)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)
NEARLY = st.lists(
    st.sampled_from(
        [
            *IDS,
            ",",
            "\n",
            " ",
            "- ",
            "* ",
            "1. ",
            ".",
            '"',
            "`",
            "[",
            "]",
            "categories:",
            "x",
            "none",
        ]
    ),
    max_size=20,
).map("".join)
SPACE = st.sampled_from(["", " ", "  ", "\t", "\u00a0", "\u3000"])
SEPARATOR = st.sampled_from([",", ", ", " , ", "\n", "\r\n", ",\n", "\n\n", " \n "])
MARKER = st.sampled_from(["", "", "- ", "* ", "• ", "-", "1. ", "2. ", "12. "])
QUOTES = st.sampled_from(
    ["", "", '""', "''", "``", "[]", "()", "<>", "“”", "‘’", '["]', "«»"]  # fmt: skip
)
LABEL = st.sampled_from(
    ["", "", "categories:", "Category: ", "ANSWER:\n", " categories : ", "answer:"]
)


@st.composite
def spelt(draw: st.DrawFn, category_id: str) -> str:
    """An id in any dress that the specification says does not matter."""
    letters = "".join(draw(st.sampled_from([c, c.upper()])) for c in category_id)
    cut = draw(st.integers(0, len(letters)))
    letters = letters[:cut] + draw(SPACE) + letters[cut:]
    quotes = draw(QUOTES)
    half = len(quotes) // 2
    stop = draw(st.sampled_from(["", "", "."]))
    inner = letters + stop if draw(st.booleans()) else letters
    outer = "" if inner != letters else stop
    return f"{draw(SPACE)}{draw(MARKER)}{quotes[:half]}{inner}{quotes[half:]}{outer}{draw(SPACE)}"


@st.composite
def dressed_answer(draw: st.DrawFn) -> tuple[Taxonomy, int, str]:
    """A taxonomy, a set of it, and one of the many texts that mean it."""
    taxonomy, (mask,) = draw(taxonomy_and_masks(1))
    ids = list(taxonomy.ids(mask))
    items = draw(st.permutations(ids + draw(st.lists(st.sampled_from(ids), max_size=2))))
    text = draw(LABEL)
    for i, category_id in enumerate(items):
        text += (draw(SEPARATOR) if i else "") + draw(spelt(category_id))
    return taxonomy, mask, text + draw(st.sampled_from(["", "\n", ",", " ,\n"]))


@ALL
@given(ANY_TEXT | NEARLY, st.sampled_from(MODES), st.booleans())
@example("\ud800", "strict", False)
@example("\x00", "lenient", True)
@example("1" * 5_000, "strict", False)
@example("," * 5_000, "lenient", False)
def test_no_text_makes_it_raise(text: str, mode: ParseMode, truncated: bool) -> None:
    answer = parse_answer(text, MARKETING, mode, truncated=truncated)
    assert (answer.mask is None) == (answer.reason is not None)
    assert bool(answer.malformed) == (answer.mask is None)
    if answer.mask is None:
        assert len(answer.item) <= 80
    else:
        assert 0 <= answer.mask < MARKETING.num_masks


@pytest.mark.parametrize("thing", [None, 3, 1.5, b"none", ["none"], {"none"}, object()])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncated", [True, False])
def test_no_object_makes_it_raise(thing: object, mode: ParseMode, truncated: bool) -> None:
    answer = parse_answer(thing, MARKETING, mode, truncated=truncated)
    assert answer.reason is MalformedReason.NOT_TEXT
    assert type(thing).__name__ in answer.malformed


@ALL
@given(dressed_answer(), st.sampled_from(MODES))
def test_order_case_space_duplicates_and_dress_do_not_matter(
    drawn: tuple[Taxonomy, int, str], mode: ParseMode
) -> None:
    taxonomy, mask, text = drawn
    assert parse_answer(text, taxonomy, mode) == ParsedAnswer(mask)


@ALL
@given(dressed_answer(), st.sampled_from(["", ", banana", "\n- nothing", ",none.", "\n-nothing,x"]))
def test_reads_what_the_obvious_parser_reads(drawn: tuple[Taxonomy, int, str], more: str) -> None:
    taxonomy, _, text = drawn
    expected = slow_parse(text + more, taxonomy.all_ids, taxonomy.exclusive.id)
    answer = parse_answer(text + more, taxonomy)
    found = None if answer.mask is None else set(taxonomy.ids(answer.mask))
    assert found == expected


@ALL
@given(taxonomy_and_masks(1), st.sampled_from(MODES))
def test_the_canonical_answer_reads_back(
    drawn: tuple[Taxonomy, list[int]], mode: ParseMode
) -> None:
    taxonomy, (mask,) = drawn
    text = format_answer(taxonomy.ids(mask))
    assert parse_answer(text, taxonomy, mode).mask == mask


@ALL
@given(ANY_TEXT | NEARLY)
def test_what_strict_reads_lenient_reads_alike(text: str) -> None:
    strict, lenient = (parse_answer(text, MARKETING, mode) for mode in MODES)
    if strict.mask is not None:
        assert lenient == strict
    if lenient.mask is None:
        assert strict.mask is None
    if lenient.dropped:
        assert strict.mask is None


UNKNOWN = st.sampled_from(
    ["bananas", "company", "brand_core", "company.brand_cores", "xnone", "company.brand_core x"]
)


@ALL
@given(st.sets(st.sampled_from(IDS[:-1]), min_size=1), st.lists(UNKNOWN, min_size=1), st.data())
def test_an_unknown_item_is_malformed_strictly_and_dropped_leniently(
    known: set[str], unknown: list[str], data: st.DataObject
) -> None:
    text = ", ".join(data.draw(st.permutations([*sorted(known), *unknown])))
    strict = parse_answer(text, MARKETING)
    assert strict.reason is MalformedReason.UNKNOWN_CATEGORY
    assert strict.item in unknown
    assert strict.item in strict.malformed
    lenient = parse_answer(text, MARKETING, "lenient")
    assert lenient.mask == MARKETING.mask(known)
    assert sorted(lenient.dropped) == sorted(unknown)


@ALL
@given(st.sets(st.sampled_from(IDS[:-1]), min_size=1), st.data())
def test_none_beside_others(known: set[str], data: st.DataObject) -> None:
    text = ", ".join(data.draw(st.permutations([*sorted(known), "none"])))
    strict = parse_answer(text, MARKETING)
    assert (strict.mask, strict.reason) == (None, MalformedReason.EXCLUSIVE_NOT_ALONE)
    assert "none" in strict.malformed
    lenient = parse_answer(text, MARKETING, "lenient")
    assert (lenient.mask, lenient.dropped) == (MARKETING.mask(known), ("none",))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "text", ["", " ", "\n", ",", ",,\n ,", "categories:", "answer: ", "- ", '""', ".", "[]", "*\n*"]
)
def test_no_item_at_all_is_empty(text: str, mode: ParseMode) -> None:
    answer = parse_answer(text, MARKETING, mode)
    assert (answer.mask, answer.reason) == (None, MalformedReason.EMPTY)


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("none", ["none"], ["none"]),
        ("None.", ["none"], ["none"]),
        ("none, none", ["none"], ["none"]),
        ("none, bananas", None, ["none"]),
        ("bananas", None, None),
        ("I think company.brand_core", None, None),
        ("company.brand_core user.role_context", None, None),
        ("company.brand_core; user.role_context", None, None),
        ("Categories: company.brand_core", ["company.brand_core"], ["company.brand_core"]),
        ("answer: categories: none", None, None),
        ("labels: none", None, None),
        ("none..", None, None),
        (
            '["company.brand_core", "user.role_context"]',
            ["company.brand_core", "user.role_context"],
            ["company.brand_core", "user.role_context"],
        ),
        (
            "Category:\n1. `company.brand_core`\n2. User.Role_Context.",
            ["company.brand_core", "user.role_context"],
            ["company.brand_core", "user.role_context"],
        ),
    ],
)
def test_known_cases(text: str, strict: list[str] | None, lenient: list[str] | None) -> None:
    for mode, expected in zip(MODES, (strict, lenient), strict=True):
        mask = parse_answer(text, MARKETING, mode).mask
        assert (None if mask is None else list(MARKETING.ids(mask))) == expected


# Answers that the token limit cut off -------------------------------------------------------------


@ALL
@given(
    st.lists(st.sampled_from([*IDS, "bananas"]), min_size=1, max_size=5),
    st.sampled_from([", ", "\n", ",", "\n- "]),
    st.data(),
    st.sampled_from(MODES),
)
def test_a_cut_off_answer_loses_its_last_item_and_is_read_leniently(
    items: list[str], separator: str, data: st.DataObject, mode: ParseMode
) -> None:
    rest = data.draw(st.integers(0, len(items[-1])))
    text = separator.join([*items[:-1], items[-1][:rest]])
    cut = parse_answer(text, MARKETING, mode, truncated=True)
    assert cut.mask == parse_answer(separator.join(items[:-1]), MARKETING, "lenient").mask


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("company.brand_core, user.role_con", ["company.brand_core"]),
        ("company.brand_core, user.role_context", ["company.brand_core"]),
        ("company.brand_core,", ["company.brand_core"]),
        ("company.brand_core\n", ["company.brand_core"]),
        ("company.brand_core", None),
        ("company.brand", None),
        ("none, company.bra", ["none"]),
        ("", None),
    ],
)
def test_cut_off_cases(text: str, expected: list[str] | None) -> None:
    mask = parse_answer(text, MARKETING, truncated=True).mask
    assert (None if mask is None else list(MARKETING.ids(mask))) == expected


# The parser as an object --------------------------------------------------------------------------


@ALL
@given(st.lists(ANY_TEXT | NEARLY | st.sampled_from(IDS), max_size=8), st.sampled_from(MODES))
def test_a_batch_reads_like_its_items(texts: list[str], mode: ParseMode) -> None:
    parser = AnswerParser(MARKETING, mode)
    for _ in range(2):  # with an empty memory, then with a full one
        masks, reasons = parser.many(texts)
        answers = [parse_answer(text, MARKETING, mode) for text in texts]
        assert masks == [answer.mask or 0 for answer in answers]
        expected = [answer.malformed for answer in answers]
        assert reasons == (expected if any(expected) else None)


def test_a_batch_may_hold_anything() -> None:
    parser = AnswerParser(MARKETING)
    masks, reasons = parser.many(["none", ["none"], None, {}])
    assert masks == [0] * 4
    assert reasons is not None
    assert [bool(reason) for reason in reasons] == [False, True, True, True]


@given(st.lists(NEARLY, max_size=5))
@settings(max_examples=50, deadline=None)
def test_what_was_read_before_changes_nothing(texts: list[str]) -> None:
    parser = AnswerParser(MARKETING)
    first = [parser(text) for text in texts]
    assert [parser(text, truncated=True) for text in texts] == [
        parse_answer(text, MARKETING, truncated=True) for text in texts
    ]
    assert [parser(text) for text in texts] == first
    again = pickle.loads(pickle.dumps(parser))
    assert [again(text) for text in texts] == first


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="strict, lenient"):
        AnswerParser(MARKETING, "loose")  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(taxonomies(max_storing=6))
def test_every_id_of_every_taxonomy_is_an_answer(taxonomy: Taxonomy) -> None:
    for category_id in taxonomy.all_ids:
        answer = parse_answer(category_id.upper() + " .", taxonomy)
        assert answer.mask == taxonomy.bits[category_id]


def test_an_id_that_begins_like_a_list_marker_is_still_an_id() -> None:
    category = Category("1.tier", "First.", "company", Horizon.LONG, None)
    nothing = Category("nothing", "Nothing.", "none", Horizon.SHORT, None, exclusive=True)
    taxonomy = Taxonomy("numbered", (category, nothing))
    for text in ("1.tier", "1.Tier", " 1.tier", "- 1.tier", "1. 1.tier"):
        assert parse_answer(text, taxonomy).mask == 1, text


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0", "\u3000", "\u2009"])
@pytest.mark.parametrize(
    "pattern", ['"{0}none{0}"', "[{0}none{0}.]", '"{0}none.{0}"', "-{0}none.{0}"]
)
def test_white_space_of_every_kind_is_ignored_inside_wrapping(space: str, pattern: str) -> None:
    assert parse_answer(pattern.format(space), MARKETING).mask == 0
