"""A slip in the bank is named with file, line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memroute_data_gen.authored import read_bank
from memroute_env import DataError

UTTERANCE = {
    "id": "a-1",
    "text": "we never discount",
    "categories": ["company.brand_core"],
    "reply": "Noted.",
    "act": "statement",
    "split": "train",
}
CONVERSATION = {
    "id": "whole-1",
    "conversation": [{"role": "user", "content": "hello"}],
    "labels": {"categories": ["none"]},
    "metadata": {"split": "test", "source": "authored"},
}


def bank(folder: Path, utterance: str, conversation: str) -> Path:
    """A bank with the given second lines."""
    (folder / "conversations").mkdir()
    (folder / "a.jsonl").write_text(f"{json.dumps(UTTERANCE)}\n{utterance}\n")
    lines = f"{json.dumps(CONVERSATION)}\n{conversation}\n"
    (folder / "conversations" / "00.jsonl").write_text(lines)
    (folder / "replies.json").write_text("{}")
    (folder / "slots.toml").write_text("[figures]\n")
    return folder


def without(record: dict[str, Any], field: str) -> str:
    return json.dumps({k: v for k, v in record.items() if k != field})


def test_a_bank_is_read(tmp_path: Path) -> None:
    read = read_bank(bank(tmp_path, json.dumps(UTTERANCE), json.dumps(CONVERSATION)))
    assert [u.text for u in read.utterances] == ["we never discount"] * 2
    assert {split: len(items) for split, items in read.conversations.items()} == {
        "train": 0, "validation": 0, "test": 2,
    }  # fmt: skip
    assert "split" not in (read.conversations["test"][0].metadata.model_extra or {})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": ', "not valid JSON"),
        ("[]", "not a JSON object"),
        (without(UTTERANCE, "split"), "field 'split' is missing"),
        (without(UTTERANCE, "reply"), "field 'reply' is missing"),
        (json.dumps(UTTERANCE | {"split": "dev"}), "field 'split': 'dev' is not one of train"),
        (json.dumps(UTTERANCE | {"act": "song"}), "field 'act': 'song' is not one of statement"),
        (json.dumps(UTTERANCE | {"categories": ["company.brand_cor"]}), "'categories'.*brand_cor"),
        (json.dumps(UTTERANCE | {"categories": 3}), "field 'categories'"),
    ],
)
def test_a_slip_in_an_utterance_is_named(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_bank(bank(tmp_path, line, json.dumps(CONVERSATION)))
    assert "/a.jsonl:2: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nothing", "not valid JSON"),
        (without(CONVERSATION, "metadata"), "field 'metadata.split': None is not one of"),
        (json.dumps(CONVERSATION | {"metadata": {"split": "dev"}}), "'dev' is not one of train"),
        (json.dumps(CONVERSATION | {"labels": {"categories": ["non"]}}), "labels.categories.*non"),
        (json.dumps(CONVERSATION | {"conversation": []}), "conversation"),
    ],
)
def test_a_slip_in_a_conversation_is_named(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_bank(bank(tmp_path, json.dumps(UTTERANCE), line))
    assert "conversations/00.jsonl:2: " in str(caught.value)
    assert "\n" not in str(caught.value)
