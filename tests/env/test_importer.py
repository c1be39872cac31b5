"""Reading the older layout: every line is repaired or set aside, and none is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_env import DataError, Taxonomy, import_older_layout, load_taxonomy
from memroute_env.conversation import iter_examples, write_examples
from memroute_env.importer import ImportSummary

MARKETING = load_taxonomy("marketing")
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def line(**changes: Any) -> dict[str, Any]:
    return {
        "scenario_id": "s1",
        "conversation": TURNS,
        "labels": {
            "categories": ["company.brand_core"],
            "persistence_horizon": "long",
            "memory_scope": "company",
            "rationale": "Because.",
        },
    } | changes


def run(folder: Path, *records: Any) -> ImportSummary:
    path = folder / "old.jsonl"
    with path.open("wb") as file:
        for record in records:
            file.write(record if isinstance(record, bytes) else json.dumps(record).encode())
            file.write(b"\n")
    summary = import_older_layout(path)
    numbers = [item.line for item in (*summary.imported, *summary.set_aside)]
    assert sorted(numbers) == list(range(1, len(records) + 1))
    return summary


def read_back(summary: ImportSummary, folder: Path) -> list[Any]:
    """What was imported must be readable as the present layout."""
    path = folder / "new.jsonl"
    write_examples(path, summary.examples)
    return list(iter_examples(path, MARKETING))


def turns_of(summary: ImportSummary) -> Sequence[tuple[str, str]]:
    return [(t.role, t.content) for t in summary.examples[0].conversation.turns]


def test_a_regular_line_needs_no_repair(tmp_path: Path) -> None:
    summary = run(tmp_path, line(metadata={"domain": "d"}, extra=[1]))
    (item,) = summary.imported
    assert item.repairs == ()
    example = item.example
    assert example.id == "s1"
    assert example.labels.categories == ("company.brand_core",)
    assert example.labels.rationale == "Because."
    assert example.metadata.domain == "d"
    assert example.metadata.source == "old"
    extra = example.metadata.model_extra
    assert extra is not None
    assert extra["published"] == {"persistence_horizon": "long", "memory_scope": "company"}
    assert extra["extra"] == [1]
    assert read_back(summary, tmp_path) == summary.examples


REPAIRS: dict[str, tuple[dict[str, Any], str, list[tuple[str, str]] | None]] = {
    "human and ai": (
        line(conversation=[{"role": "Human", "content": "hi"}, {"role": "AI", "content": "hello"}]),
        "role renamed",
        [("user", "hi"), ("assistant", "hello")],
    ),
    "bare strings": (
        line(conversation=["hi", "hello", "bye"]),
        "turn without a role",
        [("user", "hi"), ("assistant", "hello"), ("user", "bye")],
    ),
    "role as a prefix": (
        line(conversation=["User: hi: there", "Assistant: hello"]),
        "role as a prefix",
        [("user", "hi: there"), ("assistant", "hello")],
    ),
    "JSON in a string": (
        line(conversation=['{"role": "user", "content": "hi"}', TURNS[1]]),
        "turn as JSON in a string",
        [("user", "hi"), ("assistant", "hello")],
    ),
    "fields one by one": (
        line(conversation=["role: user", "content: hi", "role: assistant", "content: hello"]),
        "turn's fields as strings",
        [("user", "hi"), ("assistant", "hello")],
    ),
    "odd key": (
        line(conversation=[{" Role": "user", "content": "hi"}, TURNS[1]]),
        "odd key in a turn",
        [("user", "hi"), ("assistant", "hello")],
    ),
    "blank turn": (
        line(conversation=[TURNS[0], {"role": "assistant", "content": " "}, TURNS[1]]),
        "blank turn removed",
        [("user", "hi"), ("assistant", "hello")],
    ),
    "null for a blank turn": (
        line(conversation=[{"role": "user", "content": None}, *TURNS]),
        "blank turn removed",
        None,
    ),
    "role without a turn": (
        line(conversation=[*TURNS, {"role": "user"}]),
        "blank turn removed",
        None,
    ),
    "role without a turn before another": (
        line(conversation=[{"role": "user"}, *TURNS]),
        "blank turn removed",
        None,
    ),
    "turn of text alone": (
        line(conversation=[{"content": "hi"}, TURNS[1]]),
        "turn without a role",
        None,
    ),
    "ShareGPT": (
        line(conversation=[{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]),
        "ShareGPT's keys",
        None,
    ),
    "content in parts": (
        line(
            conversation=[
                {"role": "user", "content": ["hi", {"type": "text", "text": "there"}]},
                TURNS[1],
            ]
        ),
        "content in parts",
        [("user", "hi\nthere"), ("assistant", "hello")],
    ),
    "one category in words": (
        line(labels={"categories": "company.brand_core"}),
        "categories not in a list",
        None,
    ),
    "category spelt otherwise": (
        line(labels={"categories": [" Company.Brand_Core"]}),
        "category spelt otherwise",
        None,
    ),
    "category twice": (
        line(labels={"categories": ["company.brand_core", "company.brand_core"]}),
        "category named twice",
        None,
    ),
    "no id": ({k: v for k, v in line().items() if k != "scenario_id"}, "no id", None),
    "horizon contradicts": (
        line(labels={"categories": ["company.brand_core"], "persistence_horizon": "short"}),
        "persistence_horizon contradicts the category",
        None,
    ),
    "scope contradicts": (
        line(labels={"categories": ["company.brand_core"], "memory_scope": "user"}),
        "memory_scope contradicts the category",
        None,
    ),
}


@pytest.mark.parametrize("kind", REPAIRS)
def test_every_kind_of_repair_is_made_and_told(kind: str, tmp_path: Path) -> None:
    record, told, turns = REPAIRS[kind]
    summary = run(tmp_path, record)
    assert summary.set_aside == []
    assert summary.repairs()[told] == 1, summary.repairs()
    assert summary.examples[0].labels.categories == ("company.brand_core",)
    assert turns_of(summary) == (turns or [("user", "hi"), ("assistant", "hello")])
    assert read_back(summary, tmp_path) == summary.examples


SET_ASIDE: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{nope", "not JSON"),
    "deeply nested": (b"[" * 100_000, "not JSON"),
    "no UTF-8": (b'{"id": "caf\xe9"}', "not UTF-8"),
    "no object": ([1], "not an object"),
    "no conversation": ({k: v for k, v in line().items() if k != "conversation"}, "no turns"),
    "no turns": (line(conversation=[]), "no turns"),
    "only blank turns": (line(conversation=[{"role": "user", "content": " "}]), "no turns"),
    "conversation in words": (line(conversation="hi"), "no turns"),
    "unknown role": (line(conversation=[{"role": "ghost", "content": "x"}]), "unknown role"),
    "turn is a number": (line(conversation=[3]), "odd turn"),
    "number of 5,000 digits": (b'{"id": ' + b"1" * 5_000 + b"}", "not JSON"),
    "text under an unknown key": (
        line(conversation=[{"role": "user", "message": "Our voice is warm"}, *TURNS]),
        "odd content",
    ),
    "text under an unknown key and no role": (
        line(conversation=[{"says": "Our voice is warm"}, *TURNS]),
        "odd content",
    ),
    "content is a number": (line(conversation=[{"role": "user", "content": 3}]), "odd content"),
    "content without text": (
        line(conversation=[{"role": "user", "content": [{"type": "image"}]}, *TURNS]),
        "odd content",
    ),
    "a key twice": (line(conversation=[{"role": "user", "Role": "ai", "text": "x"}]), "odd turn"),
    "evidence in words": (
        line(
            conversation=["", "hi"],
            labels={
                "categories": ["company.brand_core"],
                "evidence": {"company.brand_core": ["1"]},
            },
        ),
        "invalid field",
    ),
    "no labels": ({k: v for k, v in line().items() if k != "labels"}, "no labels"),
    "no categories": (line(labels={}), "no categories"),
    "empty categories": (line(labels={"categories": []}), "no categories"),
    "unknown category": (line(labels={"categories": ["company.vibes"]}), "unknown category"),
    "none beside others": (
        line(labels={"categories": ["none", "company.brand_core"]}),
        "exclusive category beside others",
    ),
    "evidence beyond the end": (
        line(
            labels={"categories": ["company.brand_core"], "evidence": {"company.brand_core": [9]}}
        ),
        "invalid field",
    ),
    "evidence of another category": (
        line(labels={"categories": ["company.brand_core"], "evidence": {"none": [0]}}),
        "invalid labels",
    ),
    "unknown difficulty": (line(metadata={"difficulty": "brutal"}), "invalid field"),
    "nested JSON in a turn": (
        line(conversation=['{"a": ' + "[" * 100_000]),
        "",
    ),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
        )
        if kind == "nested JSON in a turn"
        else kind
        for kind in SET_ASIDE
    ],
)
def test_every_kind_of_unusable_line_is_set_aside_with_its_reason(
    kind: str, tmp_path: Path
) -> None:
    record, reason = SET_ASIDE[kind]
    summary = run(tmp_path, line(), record, line(scenario_id="s3"))
    if not reason:  # only that it is accounted for
        return
    assert [item.line for item in summary.imported] == [1, 3]
    (aside,) = summary.set_aside
    assert aside.line == 2
    assert aside.reason.startswith(reason), aside.reason
    assert summary.reasons() == {reason: 1}
    stored = json.loads(aside.to_json())
    assert (stored["line"], stored["reason"]) == (2, aside.reason)
    if not isinstance(record, bytes):
        assert json.loads(stored["raw"]) == record


def only(summary: ImportSummary, folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The one line's metadata and repairs."""
    (item,) = summary.imported
    assert read_back(summary, folder) == summary.examples
    return item.example.metadata.model_dump(), item.repairs


def test_what_a_turn_has_beside_role_and_text_is_kept(tmp_path: Path) -> None:
    image = [{"type": "text", "text": "hello"}, {"type": "image", "url": "u"}]
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [1]},
        {"role": "user", "content": "hi", "text": "bye", "time": 5},
        {"role": "assistant", "content": image},
    ]
    summary = run(tmp_path, line(conversation=turns))
    metadata, repairs = only(summary, tmp_path)
    assert turns_of(summary) == [("user", "hi"), ("assistant", "hello")]
    assert metadata["source_turns"] == {
        "0": {"tool_calls": [1]},
        "1": {"text": "bye", "time": 5},
        "2": {"content": image},
    }
    assert summary.repairs()["further keys of a turn kept in metadata.source_turns"] == 1
    assert "blank turn removed: turn 0" in repairs


def test_metadata_that_is_no_object_is_kept(tmp_path: Path) -> None:
    metadata, repairs = only(run(tmp_path, line(metadata=["retail"])), tmp_path)
    assert metadata["metadata"] == ["retail"]
    assert repairs == ("metadata not an object: kept as metadata.metadata",)


def test_keys_of_the_same_name_overwrite_nothing(tmp_path: Path) -> None:
    record = line(
        id="a", metadata={"topic": "x", "published": 1}, topic="y", source="s", domain="d"
    )
    metadata, repairs = only(run(tmp_path, record), tmp_path)
    assert (metadata["topic"], metadata["topic-2"]) == ("x", "y")
    assert (metadata["published"], metadata["published-2"]["memory_scope"]) == (1, "company")
    assert (metadata["source"], metadata["domain"]) == ("s", "d")
    assert metadata["scenario_id"] == "s1"
    assert repairs == (
        "key twice: 'topic' became metadata.topic-2",
        "key twice: 'published' became metadata.published-2",
    )


@pytest.mark.parametrize(
    ("ids", "expected"),
    [({"id": 0}, "0"), ({"id": " ", "scenario_id": 7}, "7"), ({"id": None}, "s1")],
)
def test_every_id_counts_that_is_not_blank(
    ids: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    summary = run(tmp_path, line(**ids))
    assert summary.examples[0].id == expected
    assert summary.repairs() == {}


def test_a_rationale_that_is_not_text_is_kept(tmp_path: Path) -> None:
    labels = {"categories": ["company.brand_core"], "rationale": ["über", 1]}
    summary = run(tmp_path, line(labels=labels))
    assert summary.examples[0].labels.rationale == '["über", 1]'
    assert summary.repairs() == {"rationale not text": 1}


def test_indices_follow_the_turns_when_a_blank_one_is_removed(tmp_path: Path) -> None:
    labels = {"categories": ["company.brand_core"], "evidence": {"company.brand_core": [0, 1, 3]}}
    turns = [TURNS[0], " ", *TURNS]
    summary = run(
        tmp_path, line(conversation=turns, labels=labels, metadata={"distractors": [1, 2]})
    )
    metadata, repairs = only(summary, tmp_path)
    assert summary.examples[0].labels.evidence == {"company.brand_core": (0, 2)}
    assert metadata["distractors"] == (1,)
    assert [text for text in repairs if text.startswith("index of a removed turn")] == [
        "index of a removed turn dropped: metadata.distractors: turn 1",
        "index of a removed turn dropped: labels.evidence.company.brand_core: turn 1",
    ]


def test_indices_beyond_the_end_stay_an_error_when_a_turn_is_removed(tmp_path: Path) -> None:
    for index in (3, -1):
        summary = run(tmp_path, line(conversation=[" ", *TURNS], metadata={"distractors": [index]}))
        assert summary.reasons() == {"invalid field": 1}


def test_the_order_of_keys_is_the_files_under_every_hash_seed(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(line(**{f"key{i}": i for i in range(8)})) + "\n")
    code = (
        "import sys; from memroute_env import import_older_layout;"
        "print(import_older_layout(sys.argv[1]).examples[0].to_json())"
    )
    written = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(written) == 1


def test_a_repeated_id_is_made_unique(tmp_path: Path) -> None:
    summary = run(tmp_path, line(), line(), line())
    assert [e.id for e in summary.examples] == ["s1", "s1-2", "s1-3"]
    assert summary.repairs() == {"repeated id": 2}


def test_made_up_ids_never_collide(tmp_path: Path) -> None:
    records = [line(scenario_id=i) for i in ("a-3", "a", "a", "a-3")]
    summary = run(tmp_path, *records)
    assert len({e.id for e in summary.examples}) == 4
    assert len(read_back(summary, tmp_path)) == 4


def test_what_is_imported_can_always_be_written(tmp_path: Path) -> None:
    record = json.dumps(line(metadata={"note": "\ud800"})).encode()
    summary = run(tmp_path, record, line(scenario_id="s2"))
    assert summary.lines == 2
    assert read_back(summary, tmp_path) == summary.examples


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
LOOSE = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "scenario_id": JSON,
        "conversation": JSON
        | st.lists(
            st.sampled_from(["hi", "user: a", "role: user", "content: b", "", '{"role": 1}'])
            | st.fixed_dictionaries(
                {},
                optional={"role": st.sampled_from(["user", "AI", "x", 3, None]), "content": JSON},
            ),
            max_size=4,
        ),
        "labels": JSON
        | st.fixed_dictionaries(
            {"categories": st.lists(st.sampled_from([*MARKETING.all_ids[:3], "none", 3, "x"]))},
            optional={"evidence": JSON, "rationale": JSON, "persistence_horizon": JSON},
        ),
        "metadata": JSON,
    },
)


@settings(max_examples=150, deadline=None)
@given(st.lists(LOOSE | JSON, min_size=1, max_size=4))
def test_every_line_is_accounted_for_whatever_it_holds(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("loose")
    summary = run(folder, *records)
    assert summary.lines == len(records)
    if summary.examples:
        assert len(read_back(summary, folder)) == len(summary.examples)


def test_an_empty_file_and_a_directory_are_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(DataError, match="empty.jsonl: is empty"):
        import_older_layout(empty)
    with pytest.raises(DataError, match="directory"):
        import_older_layout(tmp_path)


def test_another_taxonomy_can_be_imported(tmp_path: Path, support: Taxonomy) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text(json.dumps(line(labels={"categories": ["Shop.Policy"]})) + "\n")
    summary = import_older_layout(path, support)
    assert summary.examples[0].labels.categories == ("shop.policy",)


def test_the_external_file_loses_no_line(external: Path, tmp_path: Path) -> None:
    raw = [text for text in external.read_bytes().splitlines() if text.strip()]
    summary = import_older_layout(external)
    assert summary.lines == len(raw)
    numbers = [item.line for item in (*summary.imported, *summary.set_aside)]
    assert len(set(numbers)) == len(numbers)
    assert len(summary.imported) > 0.9 * len(raw)
    assert read_back(summary, tmp_path) == summary.examples
    assert len(summary.imported) == 896
    assert summary.repairs()["repeated id"] == 161
    # Neither what was said nor the labels changed on the way.
    lines = external.read_bytes().splitlines()
    for item in summary.imported:
        record = json.loads(lines[item.line - 1])
        source = " ".join(json.dumps(record["conversation"], ensure_ascii=False).lower().split())
        for turn in item.example.conversation.turns:
            first = json.dumps(turn.content[:30], ensure_ascii=False)[1:-1].lower()
            assert " ".join(first.split()).split("\\\\")[0] in source, item.line
        given_labels = record["labels"]["categories"]
        given_labels = given_labels if isinstance(given_labels, list) else [given_labels]
        assert set(item.example.labels.categories) == {c.strip().lower() for c in given_labels}
    for aside in summary.set_aside:
        assert aside.raw == lines[aside.line - 1].decode()
        assert aside.reason
