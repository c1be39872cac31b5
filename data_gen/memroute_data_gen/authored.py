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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from memroute_env.conversation import Example, parse_example
from memroute_env.errors import DataError, MemrouteError
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["Bank", "Utterance", "load_bank", "read_bank"]

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
        DataError: See `read_bank`.
    """
    return read_bank(resources.files("memroute_data_gen") / "bank")


def read_bank(folder: Traversable) -> Bank:
    """Read a bank in the layout of the shipped one.

    Raises:
        DataError: If a line is inconsistent; the message names file, line and field.
    """
    taxonomy = load_taxonomy("marketing")
    utterances = [_utterance(*found, taxonomy) for found in _records(folder)]
    conversations: dict[str, list[Example]] = {split: [] for split in _SPLITS}
    for where, record in _records(folder / "conversations"):
        metadata = record.get("metadata")
        split = metadata.pop("split", None) if isinstance(metadata, dict) else None
        _one_of(split, _SPLITS, where, "metadata.split")
        line = json.dumps(record).encode()
        conversations[str(split)].append(parse_example(line, where, taxonomy))
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


def _records(folder: Traversable) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`file:line`, object) of the JSON-lines files of a folder, in order of their names."""
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".jsonl"):
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{folder.name}/{file.name}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: not valid JSON ({error}); mend the line") from None
            if not isinstance(record, dict):
                raise DataError(f"{where}: not a JSON object; mend the line")
            yield where, record


def _utterance(where: str, record: Mapping[str, Any], taxonomy: Taxonomy) -> Utterance:
    for name in ("id", "text", "categories", "reply", "act", "split"):
        if name not in record:
            raise DataError(f"{where}: field {name!r} is missing; AUTHORING.md says what it holds")
    _one_of(record["act"], ACTS, where, "act")
    _one_of(record["split"], _SPLITS, where, "split")
    if not isinstance(record["categories"], list):
        raise DataError(f"{where}: field 'categories': a list of category ids is needed")
    try:
        mask = taxonomy.mask(record["categories"])
    except MemrouteError as error:
        raise DataError(f"{where}: field 'categories': {error}") from None
    return Utterance(
        id=record["id"],
        text=record["text"],
        mask=mask,
        reply=record["reply"],
        act=record["act"],
        split=record["split"],
        reason=record.get("reason", ""),
        twin=record.get("twin", ""),
        kind=record.get("kind", ""),
    )


def _one_of(value: object, known: Sequence[str], where: str, field: str) -> None:
    if value not in known:
        raise DataError(f"{where}: field {field!r}: {value!r} is not one of {', '.join(known)}")


_SPLITS = ("train", "validation", "test")
