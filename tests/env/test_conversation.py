"""Conversations and their JSONL files: what is read, and how a bad line is named."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from memroute_env import Conversation, DataError, Example, Taxonomy, Turn, load_taxonomy
from memroute_env.conversation import (
    conversation_from_text,
    iter_examples,
    iter_lines,
    write_examples,
)
from tests.conftest import make_example

MARKETING = load_taxonomy("marketing")


def line(**changes: Any) -> dict[str, Any]:
    return {
        "id": "a",
        "conversation": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
        ],
        "labels": {"categories": ["company.brand_core"]},
    } | changes


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path) -> list[Example]:
    return list(iter_examples(path, MARKETING))


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in line(id="b").items() if k != key}


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_a_byte_order_mark_in_front_is_passed_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = json.dumps(line(conversation=[{"role": "user", "content": "\ufeffhi"}]))
    data = f"\ufeff{text}\n".encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (example,) = read(path)
    assert example.conversation.turns[0].content == "\ufeffhi"


BAD_LINES: dict[str, tuple[Any, list[str]]] = {
    "no id": (without("id"), ["'id'", "required"]),
    "empty id": (line(id=""), ["'id'"]),
    "number for an id": (line(id=3), ["'id'", "string"]),
    "no conversation": (without("conversation"), ["'conversation'", "required"]),
    "no turns": (line(id="b", conversation=[]), ["'conversation'", "at least one turn"]),
    "conversation in words": (line(id="b", conversation="hi"), ["conversation"]),
    "unknown role": (
        line(id="b", conversation=[{"role": "narrator", "content": "x"}]),
        ["'conversation.0.role'", "narrator", "memroute data import"],
    ),
    "no role": (line(id="b", conversation=[{"content": "x"}]), ["'conversation.0.role'"]),
    "empty turn": (
        line(id="b", conversation=[{"role": "user", "content": ""}]),
        ["'conversation.0.content'"],
    ),
    "blank turn": (
        line(id="b", conversation=[{"role": "user", "content": " \n"}]),
        ["'conversation.0.content'", "blank"],
    ),
    "content not text": (
        line(id="b", conversation=[{"role": "user", "content": 3}]),
        ["'conversation.0.content'", "string"],
    ),
    "key beside role and content": (
        line(id="b", conversation=[{"role": "user", "content": "x", "mood": 1}]),
        ["'conversation.0.mood'"],
    ),
    "turn as a string": (line(id="b", conversation=["hi"]), ["'conversation.0'"]),
    "no labels": (without("labels"), ["'labels'", "required"]),
    "no categories": (line(id="b", labels={}), ["'labels.categories'", "required"]),
    "empty categories": (line(id="b", labels={"categories": []}), ["'labels.categories'"]),
    "unknown category": (
        line(id="b", labels={"categories": ["company.brand_cor"]}),
        ["'labels.categories'", "did you mean 'company.brand_core'", "marketing"],
    ),
    "none beside others": (
        line(id="b", labels={"categories": ["none", "company.brand_core"]}),
        ["'labels.categories'", "stands alone"],
    ),
    "evidence of another category": (
        line(
            id="b",
            labels={"categories": ["company.brand_core"], "evidence": {"user.role_context": [0]}},
        ),
        ["'labels.evidence'", "user.role_context"],
    ),
    "evidence of an unknown category": (
        line(id="b", labels={"categories": ["company.brand_core"], "evidence": {"x": [0]}}),
        ["'labels.evidence'", "'x'"],
    ),
    "evidence beyond the end": (
        line(
            id="b",
            labels={"categories": ["company.brand_core"], "evidence": {"company.brand_core": [2]}},
        ),
        ["labels.evidence.company.brand_core", "turn 2", "0 to 1"],
    ),
    "negative evidence": (
        line(
            id="b",
            labels={"categories": ["company.brand_core"], "evidence": {"company.brand_core": [-1]}},
        ),
        ["turn -1"],
    ),
    "distractor beyond the end": (
        line(id="b", metadata={"distractors": [7]}),
        ["metadata.distractors", "turn 7"],
    ),
    "unknown difficulty": (
        line(id="b", metadata={"difficulty": "brutal"}),
        ["'metadata.difficulty'", "easy", "brutal"],
    ),
    "older layout": (
        {"scenario_id": "b", "conversation": ["hi"], "labels": {"categories": ["none"]}},
        ["older layout", "memroute data import"],
    ),
    "an array": ([1, 2], ["object"]),
    "a number": (3, ["object"]),
    "null": (None, ["object"]),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_with_file_line_and_field(kind: str, tmp_path: Path) -> None:
    record, said = BAD_LINES[kind]
    path = write(tmp_path / "data.jsonl", line(), record)
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    for part in said:
        assert part in message, message


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{not json", "not valid JSON"),
        (b'{"id": "x"', "not valid JSON"),
        (b'{"id": "caf\xe9"}', "not UTF-8 text .byte 11 of the line.; save the file as UTF-8"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"id": "\\ud800"}', "not valid JSON"),
    ],
)
def test_a_line_that_is_no_json_is_named(raw: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(line()).encode() + b"\n\n" + raw + b"\n")
    with pytest.raises(DataError, match=rf"data.jsonl:3: .*{said}"):
        read(path)


def test_a_repeated_id_names_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", line(), line(id="b"), line(id="a"))
    with pytest.raises(DataError, match=r"data.jsonl:3: field 'id': 'a' .* line 1.*rename"):
        read(path)


def test_blank_lines_and_carriage_returns_are_skipped_but_counted(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    text = "\r\n\n  \n".join(json.dumps(line(id=i)) for i in ("a", "b"))
    path.write_bytes(text.encode() + b"\r\n")
    assert [example.id for example in read(path)] == ["a", "b"]
    assert [number for number, _ in iter_lines(path)] == [1, 4]


def test_a_ten_megabyte_line_is_an_error_not_a_memory_problem(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(line()).encode() + b"\n")
        for _ in range(10):
            file.write(b"x" * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"data.jsonl:2: the line is longer than 4 MiB"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_long_file_streams(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    record = line(conversation=[{"role": "user", "content": "word " * 200}])
    with path.open("w") as file:
        for i in range(20_000):
            file.write(json.dumps(record | {"id": str(i)}) + "\n")
    stream = iter_lines(path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in stream) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 20
    # The first example is there before the last line has been looked at.
    with path.open("a") as file:
        file.write("broken\n")
    examples = iter_examples(path, MARKETING)
    assert next(examples).id == "0"


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent.jsonl: cannot be opened .*check the path"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="is a directory; give a JSONL file"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.jsonl", line())
    path.chmod(0)
    with pytest.raises(DataError, match="secret.jsonl: cannot be opened .Permission denied"):
        read(path)


# gzip ---------------------------------------------------------------------------------------------


def test_gzip_is_read_and_its_bytes_depend_on_the_examples_alone(tmp_path: Path) -> None:
    examples = [make_example(str(i), ["none"], f"text {i}") for i in range(5)]
    one, two = tmp_path / "one.jsonl.gz", tmp_path / "other" / "two.jsonl.gz"
    assert write_examples(one, examples) == write_examples(two, examples) == 5
    assert one.read_bytes() == two.read_bytes()
    assert read(one) == examples


def test_a_file_that_only_claims_to_be_gzip_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl.gz", line())
    with pytest.raises(DataError, match=r"data.jsonl.gz:1: cannot be read .*damaged"):
        read(path)


def test_a_cut_off_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(line()).encode() * 50)[:-20])
    with pytest.raises(DataError, match=r"data.jsonl.gz:1: cannot be read .*damaged"):
        read(path)


def test_a_damaged_gzip_is_named_wherever_the_damage_is(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    records = [line(id=str(i), metadata={"note": str(i**7)}) for i in range(300)]
    whole = gzip.compress("\n".join(map(json.dumps, records)).encode())
    refused = 0
    for position in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            read(path)
        except DataError as error:
            refused += 1
            assert str(error).startswith(str(path))
    assert refused > 10


# Round trips --------------------------------------------------------------------------------------

TEXT = st.text(min_size=1, max_size=40).filter(lambda t: t.strip())


@st.composite
def examples(draw: st.DrawFn) -> Example:
    turns = draw(
        st.lists(
            st.builds(lambda r, c: {"role": r, "content": c}, st.sampled_from(
                ["user", "assistant"]), TEXT), min_size=1, max_size=4)
    )  # fmt: skip
    ids = MARKETING.ids(draw(st.integers(0, 4095)))
    evidence = {c: [draw(st.integers(0, len(turns) - 1))] for c in ids[:2] if c != "none"}
    return Example.model_validate(
        {
            "id": draw(TEXT),
            "conversation": turns,
            "labels": {"categories": ids, "evidence": evidence, "rationale": draw(st.text())},
            "metadata": {"domain": draw(st.none() | TEXT), "extra": draw(st.integers())},
        }
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(examples(), min_size=1, max_size=3, unique_by=lambda e: e.id))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Example]
) -> None:
    path = tmp_path_factory.mktemp("round") / "data.jsonl"
    write_examples(path, drawn)
    assert read(path) == drawn
    assert len(path.read_bytes().splitlines()) >= len(drawn)


def test_unset_optional_fields_are_left_out_and_unknown_ones_kept() -> None:
    plain = Example.model_validate(line())
    assert json.loads(plain.to_json()) == line()
    more = line(metadata={"team": "red"}, note="kept", labels={"categories": ["none"], "by": "x"})
    assert json.loads(Example.model_validate(more).to_json()) == more


def test_a_file_that_could_not_be_finished_does_not_take_the_place_of_the_old_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.jsonl"
    write_examples(path, [make_example("old", ["none"])])
    before = path.read_bytes()

    def broken() -> Iterator[Example]:
        yield make_example("new", ["none"])
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_examples(path, broken())
    assert path.read_bytes() == before


def test_conversations_are_immutable() -> None:
    example = make_example("a", ["none"])
    with pytest.raises(ValidationError, match="frozen"):
        example.conversation.turns[0].content = "other"  # type: ignore[misc]
    assert example.conversation.user_texts == ("hello there", "thanks")
    assert example.conversation.to_text() == "USER: hello there\nASSISTANT: hi\nUSER: thanks"


# Plain text ---------------------------------------------------------------------------------------


def test_messages_of_chat_apis_become_turns() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    conversation = Conversation.from_messages(
        [
            {"role": "system", "content": "You are helpful."},
            {"role": "user", "content": "Keep it short.", "name": "ida"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_call_id": "1"},
            {"role": "ai", "content": [{"type": "text", "text": "Noted."}]},
            {
                "role": "human",
                "content": [{"type": "text", "text": "See"}, picture, {"text": "it?"}],
            },
            {"role": "user", "content": "  "},
        ]
    )
    assert [(t.role, t.content) for t in conversation.turns] == [
        ("user", "Keep it short."),
        ("assistant", "Noted."),
        ("user", "See\nit?"),
    ]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "no message of a user or an assistant"),
        ([{"role": "system", "content": "hello"}], "no message of a user or an assistant"),
        (
            [{"role": "user", "content": "a"}, {"role": "boss", "content": "b"}],
            "message 1:.*'boss'",
        ),
        ([{"content": "hello"}], "message 0: field 'role': None"),
    ],
)
def test_messages_that_hold_no_conversation_are_refused(messages: list[dict], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Conversation.from_messages(messages)


def test_plain_text_is_read_turn_by_turn() -> None:
    text = "User: one\nand more\n\nASSISTANT: two\nhuman: three: four\n"
    turns = conversation_from_text(text).turns
    assert [(t.role, t.content) for t in turns] == [
        ("user", "one\nand more"),
        ("assistant", "two"),
        ("user", "three: four"),
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant"]), st.text("abc .?", min_size=1)).filter(
            lambda t: bool(t[1].strip())
        ),
        min_size=1,
        max_size=5,
    )
)
def test_plain_text_inverts_to_text(turns: list[tuple[Any, str]]) -> None:
    conversation = Conversation(turns=tuple(Turn(role=r, content=c.strip()) for r, c in turns))
    assert conversation_from_text(conversation.to_text()) == conversation


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "no line begins with 'USER:'"),
        ("", "no line begins"),
        ("intro\nUSER: hi", "text before the first"),
        ("USER: hi\nASSISTANT:\nUSER: x", "chat.txt:2: the turn is empty"),
    ],
)
def test_plain_text_that_is_no_conversation_is_named(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        conversation_from_text(text, "chat.txt")


def test_the_exclusive_category_may_have_evidence_too(tmp_path: Path) -> None:
    record = line(labels={"categories": ["none"], "evidence": {"none": [0]}})
    assert read(write(tmp_path / "data.jsonl", record))[0].labels.evidence == {"none": (0,)}


def test_labels_of_another_taxonomy_are_refused(tmp_path: Path, support: Taxonomy) -> None:
    path = write(tmp_path / "data.jsonl", line())
    with pytest.raises(DataError, match="data.jsonl:1: .*company.brand_core.*'support'"):
        list(iter_examples(path, support))
