"""The data card says of the corpus what is in it: its counts are counted here."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from memroute_data_gen.authored import load_bank
from memroute_env import Example, Taxonomy, load_dataset, load_taxonomy

CARD = (Path(__file__).parents[2] / "docs" / "data-card.md").read_text(encoding="utf-8")
CONVERSATIONS = resources.files("memroute_data_gen") / "bank" / "conversations"


def row(first: str) -> list[str]:
    """The cells after the first of the only table row that begins so."""
    found = [line for line in CARD.splitlines() if line.startswith(f"| {first} |")]
    assert len(found) == 1, first
    return [cell.strip() for cell in found[0].strip("|").split("|")[1:]]


def numbers(text: str) -> list[int]:
    return [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\d|\d", text)]


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load_taxonomy("marketing")


@pytest.fixture(scope="module")
def whole() -> dict[str, list[dict[str, Any]]]:
    """File stem to conversations."""
    return {
        file.name.removesuffix(".jsonl"): [
            json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()
        ]
        for file in CONVERSATIONS.iterdir()
    }


def test_the_messages(taxonomy: Taxonomy) -> None:
    messages = load_bank().utterances
    least, several, nothing, kinds = numbers(row("messages")[0])
    single = Counter(m.mask for m in messages if m.mask.bit_count() == 1)
    assert len(single) == taxonomy.num_storing
    assert min(single.values()) == least
    assert sum(m.mask.bit_count() > 1 for m in messages) == several
    assert sum(m.mask == 0 for m in messages) == nothing
    assert len({m.kind for m in messages if m.mask == 0}) == kinds
    assert numbers(row("messages")[1]) == [len(messages)]
    twins = [m for m in messages if m.twin]
    assert numbers(row("of these near-twins")[1]) == [len(twins)]
    groups = {m.twin for m in twins}
    borders = {twin.rsplit("-", 1)[0] for twin in groups}
    assert numbers(row("of these near-twins")[0]) == [len(groups), len(borders)]


def test_the_whole_conversations(
    taxonomy: Taxonomy, whole: dict[str, list[dict[str, Any]]]
) -> None:
    examples = [e for items in load_bank().conversations.values() for e in items]
    lengths = [len(e.conversation.turns) for e in examples]
    sets = [e.labels.categories for e in examples]
    count = Counter(c for s in sets for c in s)
    assert numbers(row("whole conversations")[0]) == [
        min(lengths),
        max(lengths),
        round(100 * sum(len(s) > 1 for s in sets) / len(sets)),
        round(100 * count["none"] / len(sets)),
        min(count[c.id] for c in taxonomy.storing),
    ]
    assert numbers(row("whole conversations")[1]) == [len(examples)]
    assert sum(map(len, whole.values())) == len(examples)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_splits(split: str) -> None:
    dataset = load_dataset("marketing", split)
    sources = Counter(e.metadata.source for e in dataset)
    what, size = row(f"`marketing:{split}`")
    assert numbers(what) == [sources["authored"], sources["composed"]]
    assert numbers(size) == [len(dataset)]


def registers() -> list[tuple[list[str], int, int]]:
    """Files, conversations and median words of each register."""
    found = []
    for line in CARD.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not re.search(r"`\d{2,3}`", cells[1]):
            continue
        stems: list[str] = []
        for first, last in re.findall(r"`(\d{2,3})`(?: to `(\d{2,3})`)?", cells[1]):
            stems += [f"{n:02}" for n in range(int(first), int(last or first) + 1)]
        found.append((stems, numbers(cells[2])[0], numbers(cells[3])[0]))
    return found


def test_every_file_has_one_register(whole: dict[str, list[dict[str, Any]]]) -> None:
    named = sorted(stem for stems, _, _ in registers() for stem in stems)
    assert named == sorted(whole)


@pytest.mark.parametrize(("stems", "count", "words"), registers(), ids=lambda v: str(v))
def test_the_registers(
    stems: list[str], count: int, words: int, whole: dict[str, list[dict[str, Any]]]
) -> None:
    conversations = [c for stem in stems for c in whole[stem]]
    assert len(conversations) == count
    spoken = [
        sum(len(t["content"].split()) for t in c["conversation"] if t["role"] == "user")
        for c in conversations
    ]
    assert round(median(spoken)) == words


@pytest.mark.parametrize("split", ["validation", "test"])
def test_how_often_a_message_is_used(split: str) -> None:
    """In the splits that are measured on, as the card says."""
    said = Counter(
        turn.content
        for e in composed(split)
        for turn in e.conversation.turns
        if turn.role == "user"
    )
    fixed = {m.text for m in load_bank().utterances if m.split == split and m.mask == 0}
    closings = {t for kind in ("thanks", "leaving") for t in load_bank().replies[kind]}
    assert max(said[text] for text in fixed) == 1
    (claim,) = re.findall(rf"commonest closing stands in .*?(\d+) \({split}\)", CARD)
    assert max(said[text] for text in closings) == int(claim)


def composed(split: str) -> list[Example]:
    return [e for e in load_dataset("marketing", split) if e.metadata.source == "composed"]
