"""A conversation as a chat for a language model, written from the taxonomy."""

from __future__ import annotations

from typing import TypedDict

from memroute_env.conversation import Conversation, Example
from memroute_env.parsing import format_answer
from memroute_env.taxonomy import Horizon, Taxonomy

__all__ = ["Message", "answer_text", "build_messages", "system_prompt"]

_HORIZON_WORDS = {
    Horizon.LONG: "long-lived",
    Horizon.MEDIUM: "medium-lived",
    Horizon.ROLLING: "renewed by newer figures",
    Horizon.EVOLVING: "the newest wins",
    Horizon.SHORT: "short-lived",
}


class Message(TypedDict):
    """One message of a chat, in the layout that chat APIs and renderers take."""

    role: str
    content: str


def system_prompt(taxonomy: Taxonomy) -> str:
    """Instructions that describe the task, every category and the form of the answer."""
    lines = [
        f"- {c.id}: {c.description} ({c.scope}, {_HORIZON_WORDS[c.horizon]})"
        for c in taxonomy.storing
    ]
    exclusive = taxonomy.exclusive
    return "\n".join(
        [
            "You route conversations to the long-term memory of an assistant.",
            "Read the conversation and name the memory categories it should be stored under:",
            "every category for which it holds something worth keeping, and no other.",
            "",
            "Categories:",
            *lines,
            f"- {exclusive.id}: {exclusive.description} (alone, never beside others)",
            "",
            "Answer with the category ids only, separated by commas: no other word.",
        ]
    )


def build_messages(conversation: Conversation, taxonomy: Taxonomy) -> list[Message]:
    """The chat (system, user) that asks for the categories of a conversation.

    It depends on the conversation's turns and the taxonomy alone: labels cannot leak into it.
    """
    if isinstance(conversation, Example):
        conversation = conversation.conversation
    return [
        {"role": "system", "content": system_prompt(taxonomy)},
        {
            "role": "user",
            "content": f"Conversation:\n\n{conversation.to_text()}\n\nMemory categories:",
        },
    ]


def answer_text(mask: int, taxonomy: Taxonomy) -> str:
    """The canonical answer for a set: what supervised training teaches a model to say."""
    return format_answer(taxonomy.ids(mask))
