"""From the teacher's words to an example, or to the reason why they are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from memroute_agents.calls import Completion
from memroute_data_gen.teacher.plan import Brief
from memroute_env.conversation import Conversation, Example, Labels, Metadata
from memroute_env.errors import MemrouteError
from memroute_env.parsing import parse_answer
from memroute_env.taxonomy import Taxonomy

__all__ = ["RejectReason", "Rejected", "check_blind", "read_conversation", "read_scenario"]

MIN_TURNS, MAX_TURNS = 3, 12


class RejectReason(StrEnum):
    """Why an answer is not used."""

    CALL_FAILED = "call_failed"
    """There was no answer, for good."""
    NOT_JSON = "not_json"
    TRUNCATED = "truncated"
    """The token limit cut it off."""
    SCHEMA = "schema"
    """JSON, but not of the schema that was asked for."""
    REFUSAL = "refusal"
    """The model declines in words."""
    SHAPE = "shape"
    """Wrong number or order of messages, or no message beside the point where one was planned."""
    LABEL_MISMATCH = "label_mismatch"
    """The teacher labels its own conversation otherwise than planned."""
    NAMES_CATEGORY = "names_category"
    """The conversation speaks of a category by its id."""
    NEAR_DUPLICATE = "near_duplicate"
    REPEATED_UTTERANCE = "repeated_utterance"
    """A user message that another example has word for word."""
    BLIND_DISAGREEMENT = "blind_disagreement"


FORMAL = frozenset(
    (RejectReason.CALL_FAILED, RejectReason.NOT_JSON, RejectReason.TRUNCATED, RejectReason.SCHEMA)
)
"""Reasons that say nothing against the scenario: it is used again."""


class Rejected(Exception):
    """An answer that is not used; the reason and what exactly was wrong."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        """Keep both."""
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


_REFUSAL = re.compile(
    r"\s*(i('| a)?m (very )?sorry|sorry[,.]|i (can('|no)?t|cannot|won't|am (not able|unable))|"
    r"i'm (not able|unable)|as an ai\b|unfortunately,? i)",
    re.IGNORECASE,
)


def _object(completion: Completion) -> dict[str, Any]:
    """The JSON object that an answer is."""
    text = completion.text.replace("’", "'")
    if _REFUSAL.match(text):
        raise Rejected(RejectReason.REFUSAL, text[:200])
    if completion.truncated:
        raise Rejected(RejectReason.TRUNCATED, f"cut off after {completion.output_tokens} tokens")
    try:
        value = json.loads(completion.text)
        json.dumps(value, ensure_ascii=False).encode()  # half an emoji cannot be stored
    except (ValueError, RecursionError) as error:
        raise Rejected(RejectReason.NOT_JSON, str(error)) from None
    if not isinstance(value, dict):
        raise Rejected(RejectReason.SCHEMA, f"an object is needed, got {type(value).__name__}")
    return value


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not text.strip():
        raise Rejected(RejectReason.SCHEMA, f"{name}: text is needed, got {text!r:.60}")
    return text.strip()


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    items = value.get(name)
    if not isinstance(items, list):
        raise Rejected(RejectReason.SCHEMA, f"{name}: a list is needed, got {items!r:.60}")
    return items


def _indices(value: Mapping[str, Any], name: str, turns: int) -> tuple[int, ...]:
    indices = _list(value, name)
    for index in indices:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < turns:
            raise Rejected(RejectReason.SCHEMA, f"{name}: {index!r:.60} is not one of the messages")
    return tuple(sorted(set(indices)))


def read_scenario(completion: Completion, brief: Brief, taxonomy: Taxonomy) -> dict[str, Any]:
    """The scenario of an answer.

    Raises:
        Rejected: If it is none, or its facts are not those of the target.
    """
    value = _object(completion)
    facts = []
    for entry in _list(value, "facts"):
        if not isinstance(entry, dict):
            raise Rejected(RejectReason.SCHEMA, f"facts: an object is needed, got {entry!r:.60}")
        facts.append({"category": _text(entry, "category"), "fact": _text(entry, "fact")})
    facts = [fact for fact in facts if fact["category"] != taxonomy.exclusive.id]
    planned = set(brief.item.categories) - {taxonomy.exclusive.id}
    found = {fact["category"] for fact in facts}
    if found != planned:
        raise Rejected(RejectReason.LABEL_MISMATCH, _difference(found, planned))
    return {
        "situation": _text(value, "situation"),
        "company": _text(value, "company"),
        "facts": facts,
    }


def _difference(found: set[str], planned: set[str]) -> str:
    said = ", ".join(sorted(found)) or "nothing"
    return f"planned {', '.join(sorted(planned)) or 'nothing'}, found {said}"


def read_conversation(
    completion: Completion,
    brief: Brief,
    taxonomy: Taxonomy,
    *,
    example_id: str,
    model: str,
    draw: int,
) -> Example:
    """The example of an answer.

    Raises:
        Rejected: If it is none, or not the one that was planned.
    """
    value = _object(completion)
    try:
        conversation = Conversation.model_validate(_list(value, "turns"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Rejected(RejectReason.SCHEMA, f"{where}: {first['msg']}") from None
    _check_shape(conversation)
    _check_names(conversation, taxonomy)
    turns = len(conversation.turns)
    evidence: dict[str, tuple[int, ...]] = {}
    for entry in _list(value, "evidence"):
        if not isinstance(entry, dict):
            raise Rejected(RejectReason.SCHEMA, f"evidence: an object is needed, got {entry!r:.60}")
        evidence[_text(entry, "category")] = _indices(entry, "turns", turns)
    categories = _list(value, "categories")
    try:
        mask = taxonomy.mask([str(category) for category in categories])
    except MemrouteError as error:
        raise Rejected(RejectReason.SCHEMA, f"categories: {error}") from None
    found = set(taxonomy.ids(mask))
    if found != set(brief.item.categories):
        raise Rejected(RejectReason.LABEL_MISMATCH, _difference(found, set(brief.item.categories)))
    distractors = _indices(value, "distractors", turns)
    if brief.item.distractor and not distractors:
        raise Rejected(RejectReason.SHAPE, "no message is beside the point; one was planned")
    return Example(
        id=example_id,
        conversation=conversation,
        labels=Labels(
            categories=brief.item.categories,
            evidence={c: evidence[c] for c in brief.item.categories if evidence.get(c)},
            rationale=_text(value, "rationale"),
        ),
        metadata=Metadata.model_validate(
            {
                "domain": brief.domain,
                "difficulty": brief.difficulty,
                "source": "teacher",
                "distractors": distractors,
                "model": model,
                "draw": draw,
            }
        ),
    )


def _check_shape(conversation: Conversation) -> None:
    roles = [turn.role for turn in conversation.turns]
    if not MIN_TURNS <= len(roles) <= MAX_TURNS:
        detail = f"{len(roles)} messages; {MIN_TURNS} to {MAX_TURNS} are allowed"
        raise Rejected(RejectReason.SHAPE, detail)
    if roles != [("user", "assistant")[place % 2] for place in range(len(roles))]:
        raise Rejected(RejectReason.SHAPE, "user and assistant do not take turns, the user first")


def _check_names(conversation: Conversation, taxonomy: Taxonomy) -> None:
    said = conversation.to_text().lower()
    for category in taxonomy.storing:
        if "." in category.id and category.id in said:
            raise Rejected(RejectReason.NAMES_CATEGORY, category.id)


def check_blind(completion: Completion, example: Example, taxonomy: Taxonomy) -> None:
    """Hold a blind labelling against the example's.

    Raises:
        Rejected: If it differs or cannot be read.
    """
    answer = parse_answer(completion.text, taxonomy, truncated=completion.truncated)
    if answer.mask is None:
        raise Rejected(RejectReason.BLIND_DISAGREEMENT, f"unreadable: {answer.malformed}")
    if answer.mask != taxonomy.mask(example.labels.categories):
        found = set(taxonomy.ids(answer.mask))
        planned = set(example.labels.categories)
        raise Rejected(RejectReason.BLIND_DISAGREEMENT, _difference(found, planned))
