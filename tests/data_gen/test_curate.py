"""New lines of the bank go where what they resemble already is; nothing ever moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memroute_data_gen.curate import curate
from memroute_env import DataError

LONG = "We closed the spring appeal with four hundred and twelve new monthly donors, most by post."


def conversation(*said: str, split: str = "", **more: Any) -> dict[str, Any]:
    turns = [
        {"role": role, "content": content}
        for text in said
        for role, content in (("user", text), ("assistant", f"About {len(text)} letters."))
    ]
    metadata = {"split": split} if split else {}
    return {**more, "conversation": turns, "labels": {}, "metadata": metadata}


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    (tmp_path / "conversations").mkdir()
    return tmp_path


def write(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_message_nearly_the_same_is_enough(bank: Path, split: str) -> None:
    old = conversation("Morning, is the lift fixed by any chance?", LONG, split=split, id="whole-1")
    new = conversation(
        "I have three unrelated questions about the tram to the fair today.",
        "Which of the four printers takes the heavy paper with the linen finish?",
        LONG.replace("most by post", "most of them by post"),
    )
    write(bank / "conversations" / "00.jsonl", old)
    write(bank / "conversations" / "01.jsonl", new, {**new})
    assert curate(bank) == 2
    placed = read(bank / "conversations" / "01.jsonl")
    assert [r["metadata"]["split"] for r in placed] == [split, split]
    assert [r["id"] for r in placed] == ["whole-01-001", "whole-01-002"]
    assert read(bank / "conversations" / "00.jsonl") == [old]
    assert curate(bank) == 0


@pytest.mark.parametrize("split", ["validation", "test"])
def test_conversations_follow_single_messages_and_the_other_way_round(
    bank: Path, split: str
) -> None:
    write(bank / "a.jsonl", {"text": LONG, "id": "a-1", "split": split})
    write(bank / "conversations" / "00.jsonl", conversation("Hello there, me again.", LONG))
    curate(bank)
    assert read(bank / "conversations" / "00.jsonl")[0]["metadata"]["split"] == split
    write(bank / "b.jsonl", {"text": LONG.replace("spring", "autumn")})
    curate(bank)
    assert read(bank / "b.jsonl") == [
        {"text": LONG.replace("spring", "autumn"), "id": "b-001", "split": split}
    ]


def test_twins_share_a_split(bank: Path) -> None:
    write(bank / "a.jsonl", {"text": "One thing.", "id": "a-1", "split": "test", "twin": "b1-1"})
    write(bank / "b.jsonl", {"text": "Quite another matter.", "twin": "b1-1"})
    curate(bank)
    assert read(bank / "b.jsonl")[0]["split"] == "test"


def test_what_resembles_two_splits_is_refused_and_nothing_is_written(bank: Path) -> None:
    other = "The caterer for the summer party wants the final head count by noon on Monday, please."
    write(
        bank / "conversations" / "00.jsonl",
        conversation(LONG, split="train", id="whole-1"),
        conversation(other, split="test", id="whole-2"),
    )
    write(bank / "conversations" / "01.jsonl", conversation(LONG, other))
    before = (bank / "conversations" / "01.jsonl").read_text()
    with pytest.raises(DataError, match="whole-01-001: close to lines of test and train"):
        curate(bank)
    assert (bank / "conversations" / "01.jsonl").read_text() == before
