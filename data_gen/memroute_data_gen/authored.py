"""The authored bank: utterances, whole conversations, and what fills their slots.

`bank/*.jsonl` holds single user messages (one file a category, `none`, `multi` for messages of
several categories, `borders-*` for near-twins that fall on different sides of a border);
`bank/conversations/*.jsonl` holds conversations written in one piece; `bank/replies.json` the
assistant's replies, closing remarks and openings that fit any message; `bank/slots.toml` the
entities. AUTHORING.md says how they are written.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from memroute_env.conversation import Example
from memroute_env.errors import DataError
from memroute_env.taxonomy import load_taxonomy

__all__ = ["Bank", "Utterance", "load_bank"]

ACTS = ("statement", "request", "question", "chat")
"""Dialogue acts: a statement may be answered by a shared acknowledgement."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One authored user message."""

    id: str
    """Unique: file stem and number."""
    text: str
    """May hold slots: `{person}`."""
    mask: int
    """The categories that this message alone makes gold."""
    reply: str
    """An assistant's reply written for it, which does not give the label away."""
    act: str
    """One of `ACTS`."""
    split: str
    """`train`, `validation` or `test`."""
    reason: str = ""
    """Hard cases: why the label is right."""
    twin: str = ""
    """Near-twins share this: border and pair number."""
    kind: str = ""
    """`none` only: the kind of nothing."""


@dataclass(frozen=True)
class Bank:
    """Everything that was authored for a taxonomy."""

    utterances: tuple[Utterance, ...]
    conversations: Mapping[str, tuple[Example, ...]]
    """Split to the conversations written in one piece."""
    replies: Mapping[str, tuple[str, ...]]
    """`heard`, `acknowledgement`, `opening`, `bridge`, `thanks`, `leaving` to shared texts."""
    slots: Mapping[str, tuple[str, ...]]
    figures: Mapping[str, tuple[int, int]]


@lru_cache(maxsize=1)
def load_bank() -> Bank:
    """Read the shipped bank, once per process.

    Raises:
        DataError: If a line is inconsistent; the message names file and line.
    """
    taxonomy = load_taxonomy("marketing")
    folder = resources.files("memroute_data_gen") / "bank"
    utterances: list[Utterance] = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".jsonl"):
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            record: dict[str, Any] = json.loads(line)
            if record["act"] not in ACTS or record["split"] not in _SPLITS:
                raise DataError(f"{file.name}:{number}: unknown act or split")
            utterances.append(
                Utterance(
                    id=record["id"],
                    text=record["text"],
                    mask=taxonomy.mask(record["categories"]),
                    reply=record["reply"],
                    act=record["act"],
                    split=record["split"],
                    reason=record.get("reason", ""),
                    twin=record.get("twin", ""),
                    kind=record.get("kind", ""),
                )
            )
    conversations: dict[str, list[Example]] = {split: [] for split in _SPLITS}
    for file in sorted((folder / "conversations").iterdir(), key=lambda f: f.name):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            split = record["metadata"].pop("split")
            conversations[split].append(Example.model_validate(record))
    replies = json.loads((folder / "replies.json").read_text(encoding="utf-8"))
    slots = tomllib.loads((folder / "slots.toml").read_text(encoding="utf-8"))
    figures = slots.pop("figures")
    return Bank(
        tuple(utterances),
        {split: tuple(items) for split, items in conversations.items()},
        {act: tuple(texts) for act, texts in replies.items()},
        {name: tuple(values) for name, values in slots.items()},
        {name: (span["low"], span["high"]) for name, span in figures.items()},
    )


_SPLITS = ("train", "validation", "test")
