"""Datasets: the shipped ones by name, anyone's by path.

Shipped: `marketing` with the splits `train`, `validation` and `test` (no utterance stands in two of
them), and the frozen benchmarks. A dataset knows its content hash, which `info`, checkpoints and
reports carry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from memroute_env.conversation import Example, check_categories, iter_examples
from memroute_env.errors import DataError
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["SPLITS", "Dataset", "load_dataset", "shipped_datasets"]

SPLITS = ("train", "validation", "test")


class _Shipped(NamedTuple):
    taxonomy: str
    files: dict[str, str]
    """Split to file name in the package's `data` folder."""
    default_split: str
    description: str
    version: str = ""


_SHIPPED: dict[str, _Shipped] = {
    "marketing": _Shipped(
        "marketing",
        {split: f"marketing-{split}.jsonl.gz" for split in SPLITS},
        "train",
        "authored and composed conversations of marketing teams",
    ),
    "marketing-50": _Shipped(
        "marketing",
        {"test": "marketing-50.jsonl"},
        "test",
        "fifty authored scenarios in seven domains, written apart from the training data",
        version="1.0",
    ),
    "marketing-300": _Shipped(
        "marketing",
        {"test": "marketing-300.jsonl"},
        "test",
        "the same shape six times as large, for intervals that tell agents apart",
        version="1.0",
    ),
}


class Dataset(Sequence[Example]):
    """An immutable sequence of examples of one taxonomy.

    Args:
        examples: At least one; ids are unique.
        taxonomy: Whose categories the labels name.
        name: What reports call it.
        split: `train`, `validation`, `test`, or empty.
        version: Of a frozen benchmark; empty otherwise.
        checked: The examples' labels have been checked against the taxonomy already.

    Raises:
        DataError: If there is no example, an id repeats, or a label is not of the taxonomy.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        *,
        name: str = "custom",
        split: str = "",
        version: str = "",
        checked: bool = False,
    ) -> None:
        """See the class."""
        self._examples = tuple(examples)
        self.taxonomy, self.name, self.split, self.version = taxonomy, name, split, version
        if not self._examples:
            raise DataError(f"dataset {name!r} has no example; give at least one")
        self._index = {example.id: i for i, example in enumerate(self._examples)}
        if len(self._index) != len(self._examples):
            seen: set[str] = set()
            repeated = next(e.id for e in self._examples if e.id in seen or seen.add(e.id))
            raise DataError(f"dataset {name!r}: the id {repeated!r} occurs twice; rename one")
        if not checked:
            for i, example in enumerate(self._examples):
                check_categories(example, f"dataset {name!r}, example {i}", taxonomy)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """Example by position, or a tuple of examples by slice."""
        return self._examples[index]

    def __iter__(self) -> Iterator[Example]:
        """Iterate in order."""
        return iter(self._examples)

    def __repr__(self) -> str:
        """Name, split, size."""
        split = f":{self.split}" if self.split else ""
        return f"<Dataset {self.name}{split}, {len(self)} examples>"

    def __reduce__(self) -> tuple[Any, ...]:
        """A shipped dataset pickles as its name; any other with its examples."""
        shipped = _SHIPPED.get(self.name)
        if shipped and self.split in shipped.files and load_dataset(self.name, self.split) is self:
            return load_dataset, (self.name, self.split)
        return _rebuild, (self._examples, self.taxonomy, self.name, self.split, self.version)

    def index_of(self, example_id: str) -> int:
        """Position of an id.

        Raises:
            DataError: If the dataset has no such id.
        """
        try:
            return self._index[example_id]
        except KeyError:
            raise DataError(f"{self!r} has no example with id {example_id!r}") from None

    @cached_property
    def gold_masks(self) -> npt.NDArray[np.int64]:
        """Gold sets as masks, shape (N,), read-only."""
        mask = self.taxonomy.mask
        masks = np.array([mask(e.labels.categories) for e in self._examples], np.int64)
        masks.setflags(write=False)
        return masks

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Conversations as the environment shows them."""
        return tuple(e.conversation.to_text() for e in self._examples)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the examples' canonical JSON lines: depends on content and order alone."""
        digest = hashlib.sha256()
        for example in self._examples:
            digest.update(example.canonical_json().encode())
            digest.update(b"\n")
        return digest.hexdigest()


def _rebuild(
    examples: Sequence[Example], taxonomy: Taxonomy, name: str, split: str, version: str
) -> Dataset:
    return Dataset(examples, taxonomy, name=name, split=split, version=version, checked=True)


def shipped_datasets() -> dict[str, tuple[str, ...]]:
    """Names of the shipped datasets and their splits."""
    return {name: tuple(shipped.files) for name, shipped in _SHIPPED.items()}


def load_dataset(
    name_or_path: str | PathLike[str] = "marketing",
    split: str | None = None,
    taxonomy: str | PathLike[str] | Taxonomy | None = None,
) -> Dataset:
    """Load a shipped dataset by name, or a JSONL file (or a folder of split files) by path.

    Args:
        name_or_path: A shipped name (`marketing`, also `marketing:test`), the path of a `.jsonl` or
            `.jsonl.gz` file, or of a folder with `train.jsonl`, `validation.jsonl`, `test.jsonl`.
        split: Which split; for a shipped name the default is its first. A file has only one, and
            so has a benchmark: it comes whichever of the three usual splits is asked for here.
        taxonomy: A shipped taxonomy's name, a TOML path or an object; by default `marketing`.

    Returns:
        The dataset; shipped ones are loaded once per process.

    Raises:
        DataError: If there is no such dataset or split, or a line is invalid; the message names
            file, line, field and remedy.
    """
    # A shipped name wins over a file or folder called like it: that is ./marketing.
    if isinstance(name_or_path, str):
        name, _, suffix = name_or_path.partition(":")
        if name in _SHIPPED:
            if suffix and split and suffix != split:
                raise DataError(f"{name_or_path!r} and split={split!r} contradict each other")
            if suffix and suffix not in _SHIPPED[name].files:
                raise _no_split(name, suffix)
            return _load_shipped(name, split or suffix or None, taxonomy)
    path = Path(name_or_path)
    chosen = load_taxonomy(taxonomy or "marketing")
    if path.is_dir():
        wanted = split or "train"
        candidates = [path / f"{wanted}.jsonl", path / f"{wanted}.jsonl.gz"]
        found = next((c for c in candidates if c.is_file()), None)
        if found is None:
            raise DataError(
                f"{path}: is a directory without {wanted}.jsonl; give a JSONL file, or put the "
                "split's file there"
            )
        name = f"./{path}" if str(path) in _SHIPPED else str(path)
        return Dataset(_read_file(found, chosen), chosen, name=name, split=wanted, checked=True)
    if not path.exists():
        raise DataError(
            f"{name_or_path}: neither a shipped dataset ({', '.join(_SHIPPED)}) nor an existing "
            "file; check the name or path"
        )
    return Dataset(_read_file(path, chosen), chosen, name=path.name, checked=True)


def _read_file(path: Path, taxonomy: Taxonomy) -> list[Example]:
    examples = list(iter_examples(path, taxonomy))
    if not examples:
        raise DataError(f"{path}: holds no example; one JSON object a line is expected")
    return examples


def _no_split(name: str, split: str) -> DataError:
    held = ", ".join(_SHIPPED[name].files)
    return DataError(f"dataset {name!r} has no split {split!r}; it has {held}")


def _load_shipped(
    name: str, split: str | None, taxonomy: str | PathLike[str] | Taxonomy | None
) -> Dataset:
    shipped = _SHIPPED[name]
    split = split or shipped.default_split
    if split not in shipped.files:
        # A benchmark has one split; an environment asks every dataset for one of the usual three.
        if len(shipped.files) > 1 or split not in SPLITS:
            raise _no_split(name, split)
        split = shipped.default_split
    dataset = _read_shipped(name, split)
    if taxonomy is not None and load_taxonomy(taxonomy) != dataset.taxonomy:
        raise DataError(
            f"dataset {name!r} is labelled in the taxonomy {shipped.taxonomy!r}, not in "
            f"{load_taxonomy(taxonomy).name!r}; leave the taxonomy out or give your own data"
        )
    return dataset


@lru_cache(maxsize=16)
def _read_shipped(name: str, split: str) -> Dataset:
    shipped = _SHIPPED[name]
    taxonomy = load_taxonomy(shipped.taxonomy)
    with resources.as_file(resources.files("memroute_env") / "data" / shipped.files[split]) as path:
        examples = list(iter_examples(path, taxonomy))
    return Dataset(
        examples, taxonomy, name=name, split=split, version=shipped.version, checked=True
    )
