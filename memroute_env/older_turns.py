"""Reading the turns of the older layout, which come in many shapes.

A turn is an object with role and text, in this project's keys or ShareGPT's (`from`, `value`), or a
string: bare text, `role: text`, JSON, or one of the two fields at a time. What cannot be read
with certainty makes the line unusable, and what has no place in a turn is kept beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OlderTurns", "Unusable", "read_turns"]

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
    "gpt": "assistant",
    "agent": "assistant",
    "model": "assistant",
    "system assistant": "assistant",
}
_TEXT_KEYS = ("content", "text", "value")
_KNOWN_KEYS = {"role", "from", *_TEXT_KEYS}


class Unusable(Exception):
    """Why a line cannot become an example."""


@dataclass
class OlderTurns:
    """The turns of one line, and what became of each."""

    turns: list[dict[str, str]] = field(default_factory=list)
    """`role` and `content`, as `Turn` wants them."""
    places: list[int | None] = field(default_factory=list)
    """For each turn of the source its index in `turns`; None if it was blank and is removed."""
    further: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Index in the source (as a key of JSON) to what the turn had beside role and text."""

    def moved(self, indices: Any, where: str, repairs: list[str]) -> Any:
        """Indices of turns of the source as indices of `turns`, without those of removed turns.

        Raises:
            Unusable: If a turn was removed and an index is no number.
        """
        if None not in self.places or not isinstance(indices, list):
            return indices
        kept = []
        for index in indices:
            if type(index) is not int:
                raise Unusable(f"invalid field: {where}: {index!r} is not the number of a turn")
            # One beyond the end stays beyond the end, where it is refused.
            place = self.places[index] if 0 <= index < len(self.places) else index
            if place is None:
                repairs.append(f"index of a removed turn dropped: {where}: turn {index}")
            else:
                kept.append(place)
        return kept


def read_turns(value: Any, repairs: list[str]) -> OlderTurns:
    """The turns that `conversation` of the older layout holds; repairs are added to the list.

    Raises:
        Unusable: If there is no turn, or one of them cannot be read without losing something.
    """
    if not isinstance(value, list) or not value:
        raise Unusable("no turns: conversation must be a non-empty list")
    read = OlderTurns()
    pending_role: str | None = None
    for item in value:
        fields = _fields(item, len(read.places), repairs)
        if pending_role is not None and "role" in fields:
            _remove_blank(read, repairs)
            pending_role = None
        number = len(read.places)
        if set(fields) == {"role"}:
            pending_role = _role(fields["role"], number, repairs)
            continue
        content = _take_content(fields, number, repairs)
        role = fields.pop("role", pending_role)
        pending_role = None
        if fields:
            repairs.append(f"further keys of a turn kept in metadata.source_turns: turn {number}")
            read.further[str(number)] = fields
        if not content:
            _remove_blank(read, repairs)
            continue
        if role is None:
            role = _other_role(read.turns)
            repairs.append(f"turn without a role: turn {number} taken as {role}")
        read.places.append(len(read.turns))
        read.turns.append({"role": _role(role, number, repairs), "content": content})
    if pending_role is not None:
        _remove_blank(read, repairs)
    if not read.turns:
        raise Unusable("no turns: every turn is blank")
    return read


def _remove_blank(read: OlderTurns, repairs: list[str]) -> None:
    repairs.append(f"blank turn removed: turn {len(read.places)}")
    read.places.append(None)


def _fields(item: Any, number: int, repairs: list[str]) -> dict[str, Any]:
    """The fields of a turn under this project's keys; a `role` of null is left out."""
    item = _unpack_string(item, number, repairs)
    fields: dict[str, Any] = {}
    for name, value in item.items():
        key = name.strip().lower()
        if key not in _KNOWN_KEYS:
            key = name
        elif key != name:
            repairs.append(f"odd key in a turn: turn {number}")
        if key in fields:
            raise Unusable(f"odd turn: turn {number} has {key!r} twice")
        fields[key] = value
    if fields.get("role", "") is None:
        del fields["role"]
    if "from" in fields and "role" not in fields:
        repairs.append(f"ShareGPT's keys: 'from' of turn {number} taken as its role")
        fields["role"] = fields.pop("from")
    return fields


def _take_content(fields: dict[str, Any], number: int, repairs: list[str]) -> str:
    """Remove the text from `fields`; empty if it is blank. What else they hold stays there.

    Raises:
        Unusable: If what stands there is neither text nor blank, or no key is known to hold text.
    """
    present = [key for key in _TEXT_KEYS if key in fields]
    filled = [key for key in present if not _is_blank(fields[key])]
    for key in present:
        if key not in filled:
            del fields[key]
    if not filled:
        others = ", ".join(key for key in fields if key != "role")
        if others and not present:
            raise Unusable(f"odd content: turn {number} has no 'content' but {others}")
        return ""
    if filled[0] == "value":
        repairs.append(f"ShareGPT's keys: 'value' of turn {number} taken as its content")
    content = fields.pop(filled[0])
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, list) else []
    texts = [text for text in map(_part_text, parts) if text is not None]
    if not texts:
        raise Unusable(f"odd content: turn {number} holds no text but {type(content).__name__}")
    repairs.append(f"content in parts: those of turn {number} joined")
    if not all(map(_is_plain, parts)):
        fields["content"] = content
    return "\n".join(texts).strip()


def _is_blank(content: Any) -> bool:
    return content is None or content == [] or (isinstance(content, str) and not content.strip())


def _part_text(part: Any) -> str | None:
    """The text of one part of a content that is a list (OpenAI's layout); None if it has none."""
    text = part.get("text") if isinstance(part, Mapping) else part
    return text if isinstance(text, str) else None


def _is_plain(part: Any) -> bool:
    """Whether a part is text and nothing else."""
    return isinstance(part, str) or part == {"type": "text", "text": _part_text(part)}


def _unpack_string(item: Any, number: int, repairs: list[str]) -> dict[str, Any]:
    """A turn that is a bare string may hold JSON, `role: text`, or the two fields one by one."""
    if not isinstance(item, str):
        if not isinstance(item, dict):
            raise Unusable(f"odd turn: turn {number} is {type(item).__name__}")
        return item
    text = item.strip()
    if text.startswith("{"):
        try:
            inner = json.loads(text)
        except (ValueError, RecursionError):
            inner = None
        if isinstance(inner, dict):
            repairs.append(f"turn as JSON in a string: turn {number}")
            return inner
    name, colon, rest = text.partition(":")
    key = name.strip().lower()
    if colon and key in ("role", "content"):
        repairs.append(f"turn's fields as strings: turn {number}")
        return {key: rest.strip()}
    if colon and key in _ROLES:
        repairs.append(f"role as a prefix: turn {number}")
        return {"role": key, "content": rest.strip()}
    return {"content": text}


def _role(role: Any, number: int, repairs: list[str]) -> str:
    name = str(role).strip().lower()
    if name not in _ROLES:
        raise Unusable(f"unknown role: {role!r} in turn {number}")
    if _ROLES[name] != role:
        repairs.append(f"role renamed: {role!r} became {_ROLES[name]!r}")
    return _ROLES[name]


def _other_role(turns: list[dict[str, str]]) -> str:
    """Who speaks next when people take turns."""
    return "assistant" if turns and turns[-1]["role"] == "user" else "user"
