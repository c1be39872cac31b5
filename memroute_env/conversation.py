"""Conversations, labelled examples, and their JSONL files.

The layout of a line is fixed by the project's data format::

    {"id": "…", "conversation": [{"role": "user", "content": "…"}, …],
     "labels": {"categories": ["company.brand_core"],
                "evidence": {"company.brand_core": [0]}, "rationale": "…"},
     "metadata": {"domain": "…", "difficulty": "easy|medium|hard", "source": "…",
                  "distractors": [2]}}

`id`, `conversation` and `labels.categories` are required. Horizon and scope follow from the
categories and are never stored.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from memroute_env.errors import DataError, MemrouteError
from memroute_env.taxonomy import Taxonomy

__all__ = [
    "MAX_LINE_BYTES",
    "Conversation",
    "Example",
    "Labels",
    "Metadata",
    "Turn",
    "conversation_from_text",
    "iter_examples",
    "iter_lines",
    "write_examples",
]

MAX_LINE_BYTES = 4 * 2**20
"""Longest line that is read (4 MiB); a longer one is an error, not a memory problem."""

Role = Literal["user", "assistant"]

_MESSAGE_ROLES: dict[str, Role | None] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "system": None,
    "developer": None,
    "tool": None,
    "function": None,
}
"""Roles of chat APIs, and what they are here; None: left out."""


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str = Field(min_length=1)

    @field_validator("content")
    @classmethod
    def _not_blank(cls, content: str) -> str:
        if not content.strip():
            raise ValueError("is blank; remove the turn or give it text")
        return content


class Conversation(BaseModel):
    """An ordered, non-empty sequence of turns; in JSON simply the list of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: tuple[Turn, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"turns": value} if isinstance(value, list | tuple) else value

    @model_serializer
    def _to_list(self) -> list[dict[str, str]]:
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    def to_text(self) -> str:
        """The conversation as plain text: a line `USER: …` or `ASSISTANT: …` a turn."""
        return "\n".join(f"{turn.role.upper()}: {turn.content}" for turn in self.turns)

    @classmethod
    def from_messages(cls, messages: Iterable[Mapping[str, Any]]) -> Conversation:
        """A conversation from messages as chat APIs hold them.

        Kept is the text of users and assistants, a turn for each message that has any (evidence
        counts these turns). Content may be a string or a list of parts; system and developer
        messages, tool calls and results, images and further keys are left out.

        Raises:
            DataError: If a message has no known role, or none has text of a user or assistant.
        """
        turns = []
        for number, message in enumerate(messages):
            found = message.get("role")
            if found not in _MESSAGE_ROLES:
                known = ", ".join(_MESSAGE_ROLES)
                raise DataError(
                    f"message {number}: field 'role': {found!r} is none of {known}; rename it"
                )
            role, content = _MESSAGE_ROLES[found], message.get("content")
            if isinstance(content, list):
                parts = [part.get("text") for part in content if isinstance(part, Mapping)]
                content = "\n".join(part for part in parts if isinstance(part, str))
            if role is not None and isinstance(content, str) and content.strip():
                turns.append(Turn(role=role, content=content))
        if not turns:
            raise DataError("no message of a user or an assistant has text; nothing can be routed")
        return cls(turns=tuple(turns))

    @property
    def user_texts(self) -> tuple[str, ...]:
        """What the user said, turn by turn."""
        return tuple(turn.content for turn in self.turns if turn.role == "user")


class Labels(BaseModel):
    """The gold answer to a conversation."""

    model_config = ConfigDict(frozen=True, extra="allow")

    categories: tuple[str, ...] = Field(min_length=1)
    evidence: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Category id to the indices (from 0) of the turns that show it; may be incomplete."""
    rationale: str = ""


class Metadata(BaseModel):
    """What is known about an example beside its gold answer; further keys are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    domain: str | None = None
    difficulty: Literal["easy", "medium", "hard"] | None = None
    source: str | None = None
    distractors: tuple[int, ...] = ()
    """Indices of turns that are beside the point."""


class Example(BaseModel):
    """A conversation with its gold answer: one line of a data file."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str = Field(min_length=1)
    conversation: Conversation
    labels: Labels
    metadata: Metadata = Field(default_factory=Metadata)

    @model_validator(mode="after")
    def _indices_in_range(self) -> Example:
        n = len(self.conversation.turns)
        for category_id, indices in self.labels.evidence.items():
            for index in indices:
                if not 0 <= index < n:
                    raise ValueError(
                        f"labels.evidence.{category_id}: turn {index} does not exist; "
                        f"the conversation has turns 0 to {n - 1}"
                    )
        for index in self.metadata.distractors:
            if not 0 <= index < n:
                raise ValueError(
                    f"metadata.distractors: turn {index} does not exist; "
                    f"the conversation has turns 0 to {n - 1}"
                )
        return self

    def to_json(self) -> str:
        """One line of JSON without the line feed; unset optional fields are left out."""
        return json.dumps(self.model_dump(exclude_defaults=True, mode="json"), ensure_ascii=False)

    def canonical_json(self) -> str:
        """The line that content hashes are made of: all fields, sorted keys, ASCII."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def iter_lines(path: str | PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Yield `(line number from 1, line without its end)` of a file, skipping blank lines.

    Reads gzip when the name ends in `.gz`; a byte order mark in front is passed over. Memory stays
    at one line whatever the file's size.

    Raises:
        DataError: If the file cannot be opened (absent, a directory, no permission, not gzip) or a
            line is longer than `MAX_LINE_BYTES`.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a directory; give a JSONL file")
    try:
        # Closed by the generator's own `with`; gzip.open has the same interface.
        stream = cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb"))
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}); check the path") from None
    number = 0
    with stream:
        while True:
            try:
                line = stream.readline(MAX_LINE_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(
                    f"{path}:{number + 1}: cannot be read ({error}); the file may be damaged"
                ) from None
            if not line:
                return
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{path}:{number}: the line is longer than {MAX_LINE_BYTES // 2**20} MiB; "
                    "one JSON object a line is expected, split the file at its line feeds"
                )
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            line = line.strip()
            if line:
                yield number, line


def iter_examples(path: str | PathLike[str], taxonomy: Taxonomy) -> Iterator[Example]:
    """Stream the examples of a JSONL file (or `.jsonl.gz`), checked against a taxonomy.

    Raises:
        DataError: With `file:line`, the field and the remedy: invalid JSON or UTF-8, a missing or
            wrong field, a category that the taxonomy does not have, a repeated id.
    """
    first_seen: dict[str, int] = {}
    for number, line in iter_lines(path):
        where = f"{path}:{number}"
        example = parse_example(line, where, taxonomy)
        if example.id in first_seen:
            raise DataError(
                f"{where}: field 'id': {example.id!r} is already the id of line "
                f"{first_seen[example.id]}; ids must be unique, rename one or remove the line"
            )
        first_seen[example.id] = number
        yield example


def parse_example(line: bytes, where: str, taxonomy: Taxonomy) -> Example:
    """One line of a data file as an `Example`; `where` (`file:line`) opens every error."""
    try:
        example = Example.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{where}: {_explain(error, line)}") from None
    check_categories(example, where, taxonomy)
    return example


def parse_conversation(turns: object, where: str) -> Conversation:
    """A list of turns, as it comes from JSON; `where` (`file:line`) opens every error.

    Raises:
        DataError: With the field and the remedy.
    """
    try:
        return Conversation.model_validate(turns)
    except ValidationError as error:
        raise DataError(f"{where}: {_explain(error)}") from None


def check_categories(example: Example, where: str, taxonomy: Taxonomy) -> None:
    """Raise DataError unless the example's labels are a valid answer in this taxonomy."""
    try:
        taxonomy.mask(example.labels.categories)
    except MemrouteError as error:
        raise DataError(
            f"{where}: field 'labels.categories': {error} (taxonomy {taxonomy.name!r})"
        ) from None
    for category_id in example.labels.evidence:
        if category_id not in example.labels.categories:
            raise DataError(
                f"{where}: field 'labels.evidence': {category_id!r} is not among the example's "
                "categories; remove the entry or add the category"
            )


def _explain(error: ValidationError, line: bytes = b"") -> str:
    """A validation error of pydantic as one sentence with the field and, where known, a remedy."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as problem:
            return f"not UTF-8 text (byte {problem.start} of the line); save the file as UTF-8"
        return f"not valid JSON: {first.get('ctx', {}).get('error')}; one object a line is expected"
    field = ".".join(str(part) for part in first["loc"])
    field = field.replace("conversation.turns", "conversation")
    if error.title == Conversation.__name__:
        field = f"conversation{field.removeprefix('turns')}"
    message = first["msg"].removeprefix("Value error, ")
    got = first.get("input")
    shown = "" if isinstance(got, dict | list | tuple) else f", got {str(got)[:60]!r}"
    remedy = ""
    if b'"scenario_id"' in line or b'"persistence_horizon"' in line:
        remedy = "; this looks like the older layout: convert it with 'memroute data import'"
    elif field.endswith(".role"):
        remedy = "; rename it, or let 'memroute data import' map it"
    elif first["type"] == "too_short" and field.endswith("conversation"):
        message = "a conversation needs at least one turn"
    prefix = f"field {field!r}: " if field else ""
    return f"{prefix}{message}{shown}{remedy}"


def write_examples(path: str | PathLike[str], examples: Iterable[Example]) -> int:
    """Write examples as JSONL (gzip when the name ends in `.gz`), atomically; returns how many.

    The bytes depend on the examples alone (the gzip header carries no time and no name).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    try:
        with partial.open("wb") as raw:
            # mtime=0 and no file name keep the header constant.
            zipped = gzip.GzipFile("", "wb", 9, raw, mtime=0) if path.suffix == ".gz" else None
            stream = zipped or raw
            for example in examples:
                stream.write(example.to_json().encode() + b"\n")
                count += 1
            if zipped is not None:
                zipped.close()
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
    return count


_SPEAKER = re.compile(r"^\s*(user|human|customer|assistant|ai|bot)\s*:[ \t]*", re.I | re.M)
_ASSISTANT_NAMES = {"assistant", "ai", "bot"}


def conversation_from_text(text: str, source: str = "text") -> Conversation:
    """Read `USER: …` / `ASSISTANT: …` lines; a turn goes on until the next such line.

    Raises:
        DataError: If no line opens with a speaker, or there is text before the first one.
    """
    openings = list(_SPEAKER.finditer(text))
    if not openings:
        raise DataError(
            f"{source}: no line begins with 'USER:' or 'ASSISTANT:'; mark who speaks, "
            "or give one JSON conversation a line"
        )
    if text[: openings[0].start()].strip():
        raise DataError(f"{source}: text before the first 'USER:' or 'ASSISTANT:' line; move it")
    turns = []
    ends = [o.start() for o in openings[1:]] + [len(text)]
    for opening, end in zip(openings, ends, strict=True):
        content = text[opening.end() : end].strip()
        if not content:
            line = text.count("\n", 0, opening.start()) + 1
            raise DataError(f"{source}:{line}: the turn is empty; remove it or give it text")
        role: Role = "assistant" if opening[1].lower() in _ASSISTANT_NAMES else "user"
        turns.append(Turn(role=role, content=content))
    return Conversation(turns=tuple(turns))
