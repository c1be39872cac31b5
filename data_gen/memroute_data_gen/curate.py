"""`python -m memroute_data_gen.curate`: give new lines of the bank an id and a split.

Lines that have both are left as they are. A new message goes where its near duplicates and twins
already are, a new conversation where one already is, or a message of the bank, that says nearly the
same as any one of its own messages; what has no such company goes by hash.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memroute_data_gen.splits import NEAR_DUPLICATE, SHORT, near_duplicates, place
from memroute_env.errors import DataError

__all__ = ["curate"]

_MESSAGES = {"train": 0.8, "validation": 0.1, "test": 0.1}
_CONVERSATIONS = {"train": 0.84, "validation": 0.08, "test": 0.08}
_CLOSE = 0.4
"""Messages of the bank are short: less is enough for them to be a paraphrase."""


def curate(folder: Path) -> int:
    """Fill in what is missing in `folder` (the bank); returns how many lines were new.

    Raises:
        DataError: If a new line is close to lines of different splits: it must be reworded.
    """
    message_files = _read(sorted(folder.glob("*.jsonl")))
    conversation_files = _read(sorted((folder / "conversations").glob("*.jsonl")))
    for file, records in message_files.items():
        _name(file, records)
    for file, records in conversation_files.items():
        _name(file, records, "whole-")
    messages = [record for records in message_files.values() for record in records]
    conversations = [record for records in conversation_files.values() for record in records]
    new = _place(messages, conversations)
    _write(message_files)
    _write(conversation_files)
    return new


def _place(messages: list[dict[str, Any]], conversations: list[dict[str, Any]]) -> int:
    """Set the split of every record without one; returns how many they were."""
    records = messages + conversations
    holders = messages + [conversation["metadata"] for conversation in conversations]
    groups = _groups(messages, conversations)
    ids = [record["id"] for record in records]
    new = 0
    for group in groups:
        fresh = [i for i in group if "split" not in holders[i]]
        if not fresh:
            continue
        new += len(fresh)
        taken = sorted({holders[i]["split"] for i in group if "split" in holders[i]})
        if len(taken) > 1:
            raise DataError(
                f"{', '.join(ids[i] for i in fresh)}: close to lines of {' and '.join(taken)} "
                f"({', '.join(ids[i] for i in group if i not in fresh)}); reword"
            )
        if taken:
            split = taken[0]
        else:
            shares = _MESSAGES if fresh[0] < len(messages) else _CONVERSATIONS
            split = place(min(ids[i] for i in fresh), shares)
        for i in fresh:
            holders[i]["split"] = split
    return new


def _groups(
    messages: Sequence[dict[str, Any]], conversations: Sequence[dict[str, Any]]
) -> list[list[int]]:
    """Positions (messages first) of what must stay in one split, each in exactly one group.

    What has a split already does not tie others together: only the ties of new records count.
    """
    texts = [record["text"] for record in messages]
    owners = list(range(len(messages)))
    settled = ["split" in record for record in messages]
    for i, record in enumerate(conversations, len(messages)):
        said = [turn["content"] for turn in record["conversation"] if turn["role"] == "user"]
        longer = [text for text in said if len(text.split()) > SHORT]
        texts += [" ".join(said), *longer]
        owners += [i] * (1 + len(longer))
        settled.append("split" in record["metadata"])
    ties = []
    for i, j, similarity in near_duplicates(texts, _CLOSE):
        both_messages = j < len(messages)
        if similarity >= (_CLOSE if both_messages else NEAR_DUPLICATE):
            ties.append((owners[i], owners[j]))
    twins: dict[str, int] = {}
    for i, record in enumerate(messages):
        if "twin" in record:
            ties.append((twins.setdefault(record["twin"], i), i))
    parent = list(range(len(settled)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in ties:
        if not (settled[i] and settled[j]):
            parent[root(j)] = root(i)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(settled)):
        groups[root(i)].append(i)
    return list(groups.values())


def _read(files: list[Path]) -> dict[Path, list[dict[str, Any]]]:
    return {
        file: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in files
    }


def _write(files: dict[Path, list[dict[str, Any]]]) -> None:
    for file, records in files.items():
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if text != file.read_text(encoding="utf-8"):
            file.write_text(text, encoding="utf-8")


def _name(file: Path, records: list[dict[str, Any]], prefix: str = "") -> None:
    used = {record["id"] for record in records if "id" in record}
    number = 0
    for record in records:
        while "id" not in record:
            number += 1
            if f"{prefix}{file.stem}-{number:03d}" not in used:
                record["id"] = f"{prefix}{file.stem}-{number:03d}"
                used.add(record["id"])


def main() -> None:
    """Curate the bank beside this file."""
    print(f"{curate(Path(__file__).parent / 'bank')} new lines")


if __name__ == "__main__":
    main()
