"""Reading the older layout of conversation files, without losing a line.

The older layout has `scenario_id`, redundant `labels.persistence_horizon` and
`labels.memory_scope`, and turns of many shapes (`memroute_env.older_turns`). Every line becomes
either an `Example` (with a list of what was repaired) or a `SetAside` (with the reason and the line
itself). What has no place in the present layout is kept in the example's metadata.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memroute_env.conversation import Example, check_categories, iter_lines
from memroute_env.errors import DataError
from memroute_env.older_turns import OlderTurns, Unusable, read_turns
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["Imported", "ImportSummary", "SetAside", "import_older_layout", "iter_imported"]

_KNOWN_KEYS = {"id", "scenario_id", "conversation", "labels", "metadata"}
_REDUNDANT = ("persistence_horizon", "memory_scope")
"""Labels that follow from the categories."""
_KNOWN_LABELS = {"categories", "rationale", "evidence", *_REDUNDANT}


@dataclass(frozen=True, slots=True)
class Imported:
    """A line that could be read."""

    line: int
    example: Example
    repairs: tuple[str, ...]
    """What had to be changed, each a short phrase; empty if nothing."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A line that could not be read."""

    line: int
    reason: str
    raw: str
    """The line as it stood (invalid UTF-8 replaced)."""

    def to_json(self) -> str:
        """A line for the side file."""
        return json.dumps(
            {"line": self.line, "reason": self.reason, "raw": self.raw}, ensure_ascii=False
        )


@dataclass
class ImportSummary:
    """What an import did: every line of the source is in exactly one of the two lists."""

    source: str
    imported: list[Imported] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)

    @property
    def lines(self) -> int:
        """How many non-blank lines the source had."""
        return len(self.imported) + len(self.set_aside)

    @property
    def examples(self) -> list[Example]:
        """The examples in the order of the source."""
        return [item.example for item in self.imported]

    def repairs(self) -> Counter[str]:
        """How many lines needed each kind of repair."""
        return Counter(kind for item in self.imported for kind in {*map(_kind, item.repairs)})

    def reasons(self) -> Counter[str]:
        """How many lines were set aside for each reason."""
        return Counter(_kind(item.reason) for item in self.set_aside)


def _kind(phrase: str) -> str:
    return phrase.partition(":")[0]


def import_older_layout(
    path: str | PathLike[str], taxonomy: Taxonomy | None = None
) -> ImportSummary:
    """Read a whole file of the older layout.

    Raises:
        DataError: If the file cannot be opened or holds no line.
    """
    summary = ImportSummary(str(path))
    for item in iter_imported(path, taxonomy or load_taxonomy("marketing")):
        if isinstance(item, Imported):
            summary.imported.append(item)
        else:
            summary.set_aside.append(item)
    if not summary.lines:
        raise DataError(f"{path}: is empty; one JSON object a line is expected")
    return summary


def iter_imported(path: str | PathLike[str], taxonomy: Taxonomy) -> Iterator[Imported | SetAside]:
    """Stream a file line by line: each yields an `Imported` or a `SetAside`."""
    used: Counter[str] = Counter()
    stem = Path(path).name.partition(".")[0]
    for number, line in iter_lines(path):
        try:
            example, repairs = _convert(line, number, stem, used, taxonomy)
        except Unusable as problem:
            yield SetAside(number, str(problem), line.decode("utf-8", "replace"))
        else:
            used[example.id] += 1
            yield Imported(number, example, tuple(repairs))


def _convert(
    line: bytes, number: int, stem: str, used: Counter[str], taxonomy: Taxonomy
) -> tuple[Example, list[str]]:
    record = _read(line)
    repairs: list[str] = []
    read = read_turns(record.get("conversation"), repairs)
    labels = record.get("labels")
    if not isinstance(labels, dict):
        raise Unusable("no labels: an object with 'categories' is needed")
    categories = _categories(labels.get("categories"), taxonomy, repairs)
    metadata = _metadata(record, labels, read, repairs)
    metadata.setdefault("source", stem)
    expected = (str(taxonomy.horizon(categories)), taxonomy.scope(categories))
    for key, value in zip(_REDUNDANT, expected, strict=True):
        if key in labels and labels[key] != value:
            repairs.append(f"{key} contradicts the category: {labels[key]!r}, not {value!r}")
    try:
        example = Example.model_validate(
            {
                "id": _identifier(record, number, stem, used, repairs),
                "conversation": read.turns,
                "labels": {
                    **{key: value for key, value in labels.items() if key not in _KNOWN_LABELS},
                    "categories": categories,
                    "evidence": _evidence(labels.get("evidence"), read, repairs),
                    "rationale": _rationale(labels.get("rationale"), repairs),
                },
                "metadata": metadata,
            }
        )
        check_categories(example, f"line {number}", taxonomy)
        example.to_json().encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable(f"not text: half a character (position {error.start})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Unusable(f"invalid field: {place}: {first['msg']}") from None
    except DataError as error:
        raise Unusable(f"invalid labels: {error}") from None
    return example, repairs


def _read(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Unusable(f"not UTF-8: byte {error.start}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits included
        raise Unusable(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise Unusable("not an object: one JSON object a line is expected")
    return record


def _metadata(
    record: dict[str, Any], labels: dict[str, Any], read: OlderTurns, repairs: list[str]
) -> dict[str, Any]:
    """The line's metadata, with everything that has no other place in the present layout."""
    given = record.get("metadata")
    metadata: dict[str, Any] = dict(given) if isinstance(given, dict) else {}

    def keep(key: str, value: Any) -> None:
        name = key
        if metadata.get(key) not in (None, value):
            name = next(n for n in (f"{key}-{i}" for i in count(2)) if n not in metadata)
            repairs.append(f"key twice: {key!r} became metadata.{name}")
        metadata[name] = value

    if given is not None and not isinstance(given, dict):
        repairs.append("metadata not an object: kept as metadata.metadata")
        keep("metadata", given)
    for key in record:
        if key not in _KNOWN_KEYS:
            keep(key, record[key])
    if len(_names(record)) == 2:
        keep("scenario_id", record["scenario_id"])
    if read.further:
        keep("source_turns", read.further)
    # Derived from the categories here; the published values stay readable beside them.
    published = {key: labels[key] for key in _REDUNDANT if key in labels}
    if published:
        keep("published", published)
    if "distractors" in metadata:
        where = "metadata.distractors"
        metadata["distractors"] = read.moved(metadata["distractors"], where, repairs)
    return metadata


def _evidence(given: Any, read: OlderTurns, repairs: list[str]) -> Any:
    """The evidence by the turns' new indices; what is no evidence is left to be refused."""
    if not isinstance(given, dict):
        return given or {}
    return {
        category_id: read.moved(indices, f"labels.evidence.{category_id}", repairs)
        for category_id, indices in given.items()
    }


def _rationale(given: Any, repairs: list[str]) -> str:
    if given is None or isinstance(given, str):
        return given or ""
    repairs.append("rationale not text: written as JSON")
    return json.dumps(given, ensure_ascii=False)


def _names(record: dict[str, Any]) -> list[str]:
    """The different names that a line gives itself, the one that counts first."""
    given = [record[key] for key in ("id", "scenario_id") if record.get(key) is not None]
    return [name for name in dict.fromkeys(str(value).strip() for value in given) if name]


def _identifier(
    record: dict[str, Any], number: int, stem: str, used: Counter[str], repairs: list[str]
) -> str:
    names = _names(record)
    if not names:
        repairs.append("no id: numbered by line")
    name = names[0] if names else f"{stem}-{number}"
    if name in used:
        unique = next(u for u in _numbered(name, number) if u not in used)
        repairs.append(f"repeated id: {name!r} became {unique!r}")
        name = unique
    return name


def _numbered(name: str, number: int) -> Iterator[str]:
    """Names with the line's number, then with more numbers."""
    yield f"{name}-{number}"
    yield from (f"{name}-{number}-{again}" for again in count(2))


def _categories(value: Any, taxonomy: Taxonomy, repairs: list[str]) -> list[str]:
    if isinstance(value, str):
        repairs.append("categories not in a list: wrapped")
        value = [value]
    if not isinstance(value, list) or not value:
        raise Unusable("no categories: labels.categories must name at least one")
    names = []
    for item in value:
        name = str(item).strip().lower()
        if name not in taxonomy.bits:
            raise Unusable(f"unknown category: {item!r}")
        if name != item:
            repairs.append(f"category spelt otherwise: {item!r} became {name!r}")
        if name in names:
            repairs.append(f"category named twice: {name!r}")
            continue
        names.append(name)
    if taxonomy.exclusive.id in names and len(names) > 1:
        raise Unusable(f"exclusive category beside others: {', '.join(names)}")
    return names
