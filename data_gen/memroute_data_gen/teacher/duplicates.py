"""Refusing what the corpus already has, one candidate at a time.

The measure is that of `memroute_data_gen.splits`; only the index is incremental.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from memroute_data_gen.splits import NEAR_DUPLICATE, normalise, shingles
from memroute_data_gen.teacher.answers import Rejected, RejectReason
from memroute_env.conversation import Example

__all__ = ["DuplicateIndex"]

_LONG_ENOUGH = 5
"""Words from which a user message may not be repeated; `thanks, bye` may."""

_COMMON = 200
"""Trigrams that more texts than this share say nothing about likeness."""


class DuplicateIndex:
    """What was accepted so far, and what new examples must not resemble."""

    def __init__(self) -> None:
        """Start empty."""
        self._ids: list[str] = []
        self._sets: list[frozenset[int]] = []
        self._holders: dict[int, list[int]] = defaultdict(list)
        self._messages: dict[str, str] = {}

    def add(self, example: Example) -> None:
        """Remember an example; the caller has checked it, or does not mind."""
        grams = shingles("\n".join(example.conversation.user_texts))
        for gram in grams:
            self._holders[gram].append(len(self._ids))
        self._ids.append(example.id)
        self._sets.append(grams)
        for message in _messages(example):
            self._messages.setdefault(message, example.id)

    def check(self, example: Example) -> None:
        """Pass an example that resembles no other.

        Raises:
            Rejected: If one of its user messages stands in another example, or the user messages
                together share too many trigrams with another's.
        """
        for message in _messages(example):
            if message in self._messages:
                detail = f"{message[:80]!r} also stands in {self._messages[message]}"
                raise Rejected(RejectReason.REPEATED_UTTERANCE, detail)
        grams = shingles("\n".join(example.conversation.user_texts))
        shared: Counter[int] = Counter()
        for gram in grams:
            holders = self._holders.get(gram, ())
            if len(holders) <= _COMMON:
                shared.update(holders)
        for other in shared:
            common = len(grams & self._sets[other])
            similarity = common / (len(grams) + len(self._sets[other]) - common)
            if similarity >= NEAR_DUPLICATE:
                detail = f"similarity {similarity:.2f} to {self._ids[other]}"
                raise Rejected(RejectReason.NEAR_DUPLICATE, detail)


def _messages(example: Example) -> list[str]:
    """The user's longer messages, normalised."""
    messages = [normalise(text) for text in example.conversation.user_texts]
    return [message for message in messages if message.count(" ") + 1 >= _LONG_ENOUGH]
