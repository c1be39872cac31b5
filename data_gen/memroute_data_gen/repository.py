"""A dataset as Parquet files, and as a repository of the Hugging Face hub.

A Parquet row holds everything that a JSON line holds: known fields are columns, whatever else an
example carries goes into the column `extra` as JSON. The hub's layout adds a dataset card that is
generated from the data, and the taxonomy that the labels name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from memroute_data_gen.card import dataset_card
from memroute_env.conversation import Example
from memroute_env.datasets import SPLITS, Dataset, load_dataset, shipped_datasets
from memroute_env.errors import DataError, MissingDependencyError

__all__ = ["load_splits", "write_hf", "write_parquet"]

ROWS_A_GROUP = 5000
"""Rows that are in memory at a time while a Parquet file is written."""


def load_splits(source: str, taxonomy: str | None = None) -> dict[str, Dataset]:
    """Every split of a shipped dataset, a folder of split files, or one file.

    Args:
        source: A shipped name, also `name:split`, or a path (`./marketing` for a folder called
            like a shipped dataset). A file whose name is not a split's counts as `train`.
        taxonomy: Of the labels; `marketing` by default.

    Returns:
        Split name to its examples, in the order of `SPLITS`.

    Raises:
        DataError: If there is nothing to load, or a shipped dataset is labelled in another
            taxonomy; the message names the remedy.
    """
    # As in `load_dataset`, a shipped name wins over a file or folder called like it.
    name, _, split = source.partition(":")
    if name in shipped_datasets():
        wanted = (split,) if split else shipped_datasets()[name]
        loaded = [load_dataset(name, s, taxonomy) for s in wanted]
        return {dataset.split: dataset for dataset in loaded}
    path = Path(source)
    if path.is_dir():
        found = [
            s for s in SPLITS if list(path.glob(f"{s}.jsonl")) + list(path.glob(f"{s}.jsonl.gz"))
        ]
        if not found:
            raise DataError(f"{path}: holds no train.jsonl, validation.jsonl or test.jsonl")
        return {s: load_dataset(path, s, taxonomy) for s in found}
    stem = path.name.partition(".")[0]
    return {stem if stem in SPLITS else "train": load_dataset(path, None, taxonomy)}


def _schema() -> Any:
    pa = _pyarrow()
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    indices = pa.list_(pa.int32())
    evidence = pa.struct([("category", pa.string()), ("turns", indices)])
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("conversation", pa.list_(turn), nullable=False),
            pa.field("categories", pa.list_(pa.string()), nullable=False),
            ("evidence", pa.list_(evidence)),
            ("rationale", pa.string()),
            ("domain", pa.string()),
            ("difficulty", pa.string()),
            ("source", pa.string()),
            ("distractors", indices),
            ("extra", pa.string()),
        ]
    )


def _row(example: Example) -> dict[str, Any]:
    """An example as a row of `_schema`."""
    labels, metadata = example.labels, example.metadata
    extras = {
        "example": example.model_extra,
        "labels": labels.model_extra,
        "metadata": metadata.model_extra,
    }
    extras = {name: values for name, values in extras.items() if values}
    return {
        "id": example.id,
        "conversation": [vars(turn) for turn in example.conversation.turns],
        "categories": labels.categories,
        "evidence": [{"category": c, "turns": t} for c, t in labels.evidence.items()],
        "rationale": labels.rationale,
        "domain": metadata.domain,
        "difficulty": metadata.difficulty,
        "source": metadata.source,
        "distractors": metadata.distractors,
        "extra": json.dumps(extras, ensure_ascii=False, sort_keys=True) if extras else None,
    }


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingDependencyError("pyarrow", "hub") from None
    return pyarrow


def _groups(examples: Sequence[Example]) -> Iterator[list[dict[str, Any]]]:
    rows = map(_row, examples)
    while group := list(islice(rows, ROWS_A_GROUP)):
        yield group


def write_parquet(dataset: Dataset, path: Path) -> None:
    """Write a dataset as one Parquet file, atomically; equal data gives equal bytes.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
    """
    pa, schema = _pyarrow(), _schema()
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for group in _groups(dataset):
            writer.write_table(pa.Table.from_pylist(group, schema))
    partial.replace(path)


def write_hf(
    splits: Mapping[str, Dataset], folder: Path, *, name: str, license_id: str = ""
) -> list[Path]:
    """Write a dataset repository: `README.md`, `taxonomy.json`, `data/SPLIT-….parquet`.

    Args:
        splits: Split name to its examples.
        folder: Where to.
        name: Title of the card, and what its example loads.
        license_id: An identifier that the hub knows (`apache-2.0`); empty: none is claimed.

    Returns:
        The files, the card first.
    """
    files = {split: f"data/{split}-00000-of-00001.parquet" for split in splits}
    for split, file in files.items():
        write_parquet(splits[split], folder / file)
    taxonomy = next(iter(splits.values())).taxonomy
    card, described = folder / "README.md", folder / "taxonomy.json"
    card.write_text(dataset_card(splits, files, name=name, license_id=license_id), "utf-8")
    described.write_text(json.dumps(taxonomy.to_dict(), indent=2) + "\n", "utf-8")
    return [card, described, *(folder / file for file in files.values())]
