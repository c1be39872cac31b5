"""`python -m memroute_data_gen.curate`: give new lines of the bank an id and a split.

Lines that have both are left as they are. A new message goes where its near duplicates and twins
already are, else by hash; a new conversation by hash.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from memroute_data_gen.splits import assign_splits, near_duplicates

__all__ = ["curate"]

_MESSAGES = {"train": 0.8, "validation": 0.1, "test": 0.1}
_CONVERSATIONS = {"train": 0.84, "validation": 0.08, "test": 0.08}
_CLOSE = 0.4


def curate(folder: Path) -> int:
    """Fill in what is missing in `folder` (the bank); returns how many lines were new."""
    return _messages(folder) + _conversations(folder / "conversations")


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


def _messages(folder: Path) -> int:
    files = _read(sorted(folder.glob("*.jsonl")))
    for file, records in files.items():
        _name(file, records)
    everything = [record for records in files.values() for record in records]
    texts = [record["text"] for record in everything]
    twins = defaultdict(list)
    for i, record in enumerate(everything):
        if "twin" in record:
            twins[record["twin"]].append(i)
    ids = [record["id"] for record in everything]
    proposed = assign_splits(ids, texts, _MESSAGES, together=twins.values(), threshold=_CLOSE)
    settled = {i: record["split"] for i, record in enumerate(everything) if "split" in record}
    company: dict[int, str] = {}
    for group in twins.values():
        for i in group:
            company |= {j: settled[i] for j in group if i in settled}
    for i, j, _ in near_duplicates(texts, _CLOSE):
        for a, b in ((i, j), (j, i)):
            if a in settled:
                company.setdefault(b, settled[a])
    new = [i for i in range(len(everything)) if i not in settled]
    for i in new:
        everything[i]["split"] = company.get(i, proposed[i])
    _write(files)
    return len(new)


def _conversations(folder: Path) -> int:
    files = _read(sorted(folder.glob("*.jsonl")))
    for file, records in files.items():
        _name(file, records, "whole-")
    everything = [record for records in files.values() for record in records]
    texts = [
        " ".join(turn["content"] for turn in record["conversation"] if turn["role"] == "user")
        for record in everything
    ]
    proposed = assign_splits([r["id"] for r in everything], texts, _CONVERSATIONS)
    new = [i for i, record in enumerate(everything) if "split" not in record["metadata"]]
    for i in new:
        everything[i]["metadata"]["split"] = proposed[i]
    _write(files)
    return len(new)


def main() -> None:
    """Curate the bank beside this file."""
    print(f"{curate(Path(__file__).parent / 'bank')} new lines")


if __name__ == "__main__":
    main()
