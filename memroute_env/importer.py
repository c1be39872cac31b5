"""Reading the older layout of conversation files, without losing a line.

The older layout has `scenario_id`, redundant `labels.persistence_horizon` and
`labels.memory_scope`, turns that are sometimes bare strings, and other role names. Every line
becomes either an `Example` (with a list of what was repaired) or a `SetAside` (with the reason and
the line itself).
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
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["Imported", "ImportSummary", "SetAside", "import_older_layout", "iter_imported"]

_ROLES = {
    "user": "user",
    "human": "user",
    "person": "user",
    "customer": "user",
    "client": "user",
    "analyst": "user",
    "manager": "user",
    "marketer": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "ai assistant": "assistant",
    "bot": "assistant",
    "agent": "assistant",
    "model": "assistant",
    "system assistant": "assistant",
}
_KNOWN_LABELS = {"categories", "rationale", "evidence", "persistence_horizon", "memory_scope"}


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
        except _Unusable as problem:
            yield SetAside(number, str(problem), line.decode("utf-8", "replace"))
        else:
            used[example.id] += 1
            yield Imported(number, example, tuple(repairs))


class _Unusable(Exception):
    """Why a line cannot become an example."""


def _convert(
    line: bytes, number: int, stem: str, used: Counter[str], taxonomy: Taxonomy
) -> tuple[Example, list[str]]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _Unusable(f"not UTF-8: byte {error.start}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise _Unusable(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise _Unusable("not an object: one JSON object a line is expected")
    repairs: list[str] = []
    turns = _turns(record.get("conversation"), repairs)
    labels = record.get("labels")
    if not isinstance(labels, dict):
        raise _Unusable("no labels: an object with 'categories' is needed")
    categories = _categories(labels.get("categories"), taxonomy, repairs)
    kept = {key: value for key, value in labels.items() if key not in _KNOWN_LABELS}
    metadata = record.get("metadata")
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    metadata.setdefault("source", stem)
    redundant = {
        key: labels[key] for key in ("persistence_horizon", "memory_scope") if key in labels
    }
    if redundant:
        # Derived from the categories here; the published values stay readable beside them.
        metadata["published"] = redundant
        expected = {
            "persistence_horizon": str(taxonomy.horizon(categories)),
            "memory_scope": taxonomy.scope(categories),
        }
        for key, value in redundant.items():
            if value != expected[key]:
                repairs.append(f"{key} contradicts the category: {value!r}, not {expected[key]!r}")
    for key in record.keys() - {"id", "scenario_id", "conversation", "labels", "metadata"}:
        metadata[key] = record[key]
    try:
        example = Example.model_validate(
            {
                "id": _identifier(record, number, stem, used, repairs),
                "conversation": turns,
                "labels": {
                    **kept,
                    "categories": categories,
                    "evidence": labels.get("evidence") or {},
                    "rationale": str(labels.get("rationale") or ""),
                },
                "metadata": metadata,
            }
        )
        check_categories(example, f"line {number}", taxonomy)
        example.to_json().encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unusable(f"not text: half a character (position {error.start})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _Unusable(f"invalid field: {place}: {first['msg']}") from None
    except DataError as error:
        raise _Unusable(f"invalid labels: {error}") from None
    return example, repairs


def _identifier(
    record: dict[str, Any], number: int, stem: str, used: Counter[str], repairs: list[str]
) -> str:
    given = record.get("id") or record.get("scenario_id")
    name = str(given).strip() if given else ""
    if not name:
        repairs.append("no id: numbered by line")
        name = f"{stem}-{number}"
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
        raise _Unusable("no categories: labels.categories must name at least one")
    names = []
    for item in value:
        name = str(item).strip().lower()
        if name not in taxonomy.bits:
            raise _Unusable(f"unknown category: {item!r}")
        if name != item:
            repairs.append(f"category spelt otherwise: {item!r} became {name!r}")
        if name in names:
            repairs.append(f"category named twice: {name!r}")
            continue
        names.append(name)
    if taxonomy.exclusive.id in names and len(names) > 1:
        raise _Unusable(f"exclusive category beside others: {', '.join(names)}")
    return names


def _turns(value: Any, repairs: list[str]) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _Unusable("no turns: conversation must be a non-empty list")
    turns: list[dict[str, str]] = []
    pending_role: str | None = None
    for position, item in enumerate(value):
        item = _unpack_string(item, position, repairs)
        if isinstance(item, dict):
            fields = {str(key).strip().lower(): text for key, text in item.items()}
            if set(fields) != set(item):
                repairs.append(f"odd key in a turn: turn {position}")
            role, content = fields.get("role"), fields.get("content", fields.get("text"))
            if role is not None and content is None:
                pending_role = _role(role, position, repairs)
                continue
            if role is None:
                role = pending_role or _other_role(turns)
        else:
            role, content = pending_role or _other_role(turns), item
            if pending_role is None:
                repairs.append(f"turn without a role: turn {position} taken as {role}")
        pending_role = None
        if not isinstance(content, str) or not content.strip():
            repairs.append(f"blank turn removed: turn {position}")
            continue
        turns.append({"role": _role(role, position, repairs), "content": content.strip()})
    if not turns:
        raise _Unusable("no turns: every turn is blank")
    return turns


def _unpack_string(item: Any, position: int, repairs: list[str]) -> Any:
    """A turn that is a bare string may hold JSON, `role: text`, or the two fields one by one."""
    if not isinstance(item, str):
        if not isinstance(item, dict):
            raise _Unusable(f"odd turn: turn {position} is {type(item).__name__}")
        return item
    text = item.strip()
    if text.startswith("{"):
        try:
            inner = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            inner = None
        if isinstance(inner, dict):
            repairs.append(f"turn as JSON in a string: turn {position}")
            return inner
    name, colon, rest = text.partition(":")
    key = name.strip().lower()
    if colon and key in ("role", "content"):
        repairs.append(f"turn's fields as strings: turn {position}")
        return {key: rest.strip()}
    if colon and key in _ROLES:
        repairs.append(f"role as a prefix: turn {position}")
        return {"role": key, "content": rest.strip()}
    return text


def _role(role: Any, position: int, repairs: list[str]) -> str:
    name = str(role).strip().lower()
    if name not in _ROLES:
        raise _Unusable(f"unknown role: {role!r} in turn {position}")
    if _ROLES[name] != role:
        repairs.append(f"role renamed: {role!r} became {_ROLES[name]!r}")
    return _ROLES[name]


def _other_role(turns: list[dict[str, str]]) -> str:
    """Who speaks next when people take turns."""
    return "assistant" if turns and turns[-1]["role"] == "user" else "user"
