"""What the teacher is told, and the JSON schemas of its answers.

Cohere's structured output knows no limits on numbers or lengths in a schema; those are stated in
the prompt and checked in `answers`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from memroute_agents.calls import ChatRequest
from memroute_data_gen.teacher.plan import Brief
from memroute_env.conversation import Conversation
from memroute_env.prompt import build_messages
from memroute_env.taxonomy import Taxonomy

__all__ = ["STAGES", "blind_request", "conversation_request", "scenario_request"]

STAGES = ("scenario", "conversation", "blind")
"""The calls of one draw, in order; the last is optional."""

MAX_TOKENS: Mapping[str, int] = {"scenario": 700, "conversation": 2500, "blind": 100}


def _seed(seed: int, index: int, draw: int, stage: str) -> int:
    """A seed of its own for every call, below 2**31."""
    digest = hashlib.sha256(f"{seed}/{index}/{draw}/{stage}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _categories(taxonomy: Taxonomy) -> str:
    return "\n".join(f"- {c.id} ({c.scope}): {c.description}" for c in taxonomy.categories)


def _system(taxonomy: Taxonomy) -> str:
    none = taxonomy.exclusive.id
    return "\n".join(
        (
            "You write training data for a model that decides which long-term memories an",
            "assistant should keep after a conversation. The kinds of memory:",
            "",
            _categories(taxonomy),
            "",
            "A conversation belongs under every kind for which it holds something worth keeping;",
            f"under {none} alone if it holds nothing. Company means the organisation, and would",
            "stay true if this person left; user means this person, in any company.",
            "Write as people type. Never use the name of a kind of memory, nor say that something",
            "should be remembered or noted.",
        )
    )


def _target(brief: Brief, taxonomy: Taxonomy) -> list[str]:
    """The lines that both stages share: the gold set and its setting."""
    nothing = brief.item.categories == (taxonomy.exclusive.id,)
    lines = [
        f"Target categories: {', '.join(brief.item.categories)}",
        f"Business: {brief.industry}. Speaker: {brief.speaker}. Tone: {brief.tone}.",
        f"Occasion: {brief.occasion}. Domain: {brief.domain}.",
    ]
    if nothing:
        lines.append(f"Nothing in it is worth keeping: it is about {brief.nothing}.")
    elif brief.implied:
        lines.append("What is worth keeping shows in passing; it is not announced.")
    else:
        lines.append("What is worth keeping is said outright.")
    if brief.item.distractor:
        lines.append("At least one user message is beside the point and holds nothing to keep.")
    return lines


_SCENARIO_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "situation": {"type": "string"},
        "company": {"type": "string"},
        "facts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"category": {"type": "string"}, "fact": {"type": "string"}},
                "required": ["category", "fact"],
            },
        },
    },
    "required": ["situation", "company", "facts"],
}


def _conversation_schema(taxonomy: Taxonomy) -> dict[str, Any]:
    category = {"type": "string", "enum": list(taxonomy.all_ids)}
    turns = {"type": "array", "items": {"type": "integer"}}
    return {
        "type": "object",
        "properties": {
            "turns": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "role": {"type": "string", "enum": ["user", "assistant"]},
                        "content": {"type": "string"},
                    },
                    "required": ["role", "content"],
                },
            },
            "categories": {"type": "array", "items": category},
            "evidence": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"category": category, "turns": turns},
                    "required": ["category", "turns"],
                },
            },
            "distractors": turns,
            "rationale": {"type": "string"},
        },
        "required": ["turns", "categories", "evidence", "distractors", "rationale"],
    }


def scenario_request(
    brief: Brief, taxonomy: Taxonomy, model: str, *, seed: int, draw: int
) -> ChatRequest:
    """Stage 1: who speaks, what about, and one fact for each target category."""
    lines = [
        "Invent a scenario for one conversation between a user and an assistant.",
        *_target(brief, taxonomy),
        "",
        "Answer with JSON: situation (two or three sentences), company (an invented name), facts",
        "(one entry for each target category, with the concrete fact that belongs under it; empty",
        f"for {taxonomy.exclusive.id}). No fact may belong under any other category.",
    ]
    return ChatRequest(
        model=model,
        messages=(
            {"role": "system", "content": _system(taxonomy)},
            {"role": "user", "content": "\n".join(lines)},
        ),
        temperature=0.9,
        seed=_seed(seed, brief.item.index, draw, "scenario"),
        max_tokens=MAX_TOKENS["scenario"],
        json_schema=_SCENARIO_SCHEMA,
    )


def conversation_request(
    brief: Brief,
    scenario: Mapping[str, Any],
    taxonomy: Taxonomy,
    model: str,
    *,
    seed: int,
    draw: int,
) -> ChatRequest:
    """Stage 2: the conversation of a scenario, with labels and evidence."""
    lines = [
        "Write the conversation of this scenario:",
        json.dumps(scenario, ensure_ascii=False),
        *_target(brief, taxonomy),
        f"Number of messages: {brief.turns}, user and assistant in turn, the user first.",
        "The assistant's replies help with the matter and do not name what is worth keeping.",
        "",
        "Answer with JSON: turns (role, content), categories (what a careful reader would store",
        "this conversation under), evidence (for each category the indices, from 0, of the",
        "messages that show it), distractors (indices of the user messages beside the point),",
        "rationale (one sentence).",
    ]
    return ChatRequest(
        model=model,
        messages=(
            {"role": "system", "content": _system(taxonomy)},
            {"role": "user", "content": "\n".join(lines)},
        ),
        temperature=0.7,
        seed=_seed(seed, brief.item.index, draw, "conversation"),
        max_tokens=MAX_TOKENS["conversation"],
        json_schema=_conversation_schema(taxonomy),
    )


def blind_request(
    conversation: Conversation, taxonomy: Taxonomy, model: str, *, seed: int, index: int, draw: int
) -> ChatRequest:
    """Stage 3: label the conversation without having seen its target."""
    return ChatRequest(
        model=model,
        messages=tuple(build_messages(conversation, taxonomy)),
        temperature=0.0,
        seed=_seed(seed, index, draw, "blind"),
        max_tokens=MAX_TOKENS["blind"],
    )
