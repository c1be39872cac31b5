"""From the text of an answer to a set of categories, or to the reason why there is none.

One parser with two readings. *Strict* is what the environment trains with: one unknown item, or
the exclusive category beside others, makes the answer malformed. *Lenient* scores published and
third-party outputs: unknown items are dropped, and so is the exclusive category beside others.

A parse never raises, whatever it is given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, NamedTuple, TypeAlias

from memroute_env.taxonomy import Taxonomy

__all__ = ["AnswerParser", "MalformedReason", "ParsedAnswer", "ParseMode", "parse_answer"]

ParseMode: TypeAlias = Literal["strict", "lenient"]
PARSE_MODES: tuple[ParseMode, ...] = ("strict", "lenient")


class MalformedReason(StrEnum):
    """Why an answer has no set of categories."""

    NOT_TEXT = "not_text"
    """The action is not a string."""
    EMPTY = "empty"
    """There is no item at all."""
    UNKNOWN_CATEGORY = "unknown_category"
    """An item is not a category of the taxonomy (lenient: no item is)."""
    EXCLUSIVE_NOT_ALONE = "exclusive_not_alone"
    """The exclusive category stands beside others."""


class ParsedAnswer(NamedTuple):
    """What a parse found: either `mask` or `reason` is set, never both."""

    mask: int | None
    """The set as a mask in `[0, num_masks)`, or None if the answer is malformed."""
    reason: MalformedReason | None = None
    """Why there is no set; None if there is one."""
    item: str = ""
    """The offending item as it was read (at most 80 characters)."""
    dropped: tuple[str, ...] = ()
    """Lenient only: items that were ignored."""

    @property
    def malformed(self) -> str:
        """Empty for a well-formed answer, else the reason and, where there is one, the item."""
        if self.reason is None:
            return ""
        return f"{self.reason}: {self.item!r}" if self.item else str(self.reason)


_LABEL = re.compile(r"\s*(?:categories|category|answer)\s*:", re.IGNORECASE)
_SEPARATOR = re.compile(r"[,\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")  # commas and all line breaks
_MARKER = re.compile(r"(?:[-*•]\s*|\d{1,3}[.)](?=[^\d])\s*)")
_WRAPPING = "\"'`[](){}<>“”‘’«»"
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060"))
_SHOWN = 80
_CACHE_ITEMS = 1 << 16
_CACHE_TEXT = 512


def _unwrap(item: str) -> str:
    """An item without white space, quotes, backticks and brackets around it, however mixed."""
    while (inner := item.strip().strip(_WRAPPING)) != item:
        item = inner
    return item


def _clean(item: str) -> str:
    """An item without marker, wrapping, one full stop, white space and case; "" if nothing."""
    item = item.strip()
    marker = _MARKER.match(item)
    if marker:
        item = item[marker.end() :]
    item = _unwrap(item)
    if item.endswith("."):
        item = _unwrap(item[:-1])
    return "".join(item.split()).lower()


class AnswerParser:
    """Parses answers for one taxonomy; remembers short answers it has seen.

    Safe to share between threads: the memory is a plain dictionary whose entries never change.

    Args:
        taxonomy: Whose categories an answer may name.
        mode: `"strict"` or `"lenient"`.
    """

    def __init__(self, taxonomy: Taxonomy, mode: ParseMode = "strict") -> None:
        """See the class."""
        if mode not in PARSE_MODES:
            raise ValueError(f"parse mode {mode!r} is not one of {', '.join(PARSE_MODES)}")
        self.taxonomy = taxonomy
        self.mode: ParseMode = mode
        self._bits = taxonomy.bits
        self._cache: dict[str, ParsedAnswer] = {}
        self.masks: dict[str, int] = {}
        """Masks of the well-formed answers that are remembered; read only."""

    def __call__(self, text: object, *, truncated: bool = False) -> ParsedAnswer:
        """Read an answer.

        Args:
            text: What the model said. Anything but a string is malformed.
            truncated: The token limit cut the answer off: its unfinished last item is dropped and
                the rest is read leniently.
        """
        if not isinstance(text, str):
            return ParsedAnswer(None, MalformedReason.NOT_TEXT, type(text).__name__)
        if truncated:
            return self._parse(text, lenient=True, drop_last=True)
        found = self._cache.get(text)
        if found is None:
            found = self._parse_plain(text) or self._parse(
                text, lenient=self.mode == "lenient", drop_last=False
            )
            if len(text) <= _CACHE_TEXT:
                if len(self._cache) >= _CACHE_ITEMS:
                    self._cache.clear()
                    self.masks.clear()
                self._cache[text] = found
                if found.mask is not None:
                    self.masks[text] = found.mask
        return found

    def many(self, texts: Sequence[object]) -> tuple[list[int], list[str] | None]:
        """Read a batch of answers.

        Returns:
            Masks (0 where malformed), and the reasons ("" where well-formed) if any is malformed.
        """
        try:
            masks = list(map(self.masks.get, texts))  # type: ignore[arg-type]
        except TypeError:  # an unhashable action is malformed, not an error
            masks = [None]
        if None not in masks:
            return masks, None  # type: ignore[return-value]
        answers = [self(text) for text in texts]
        known = [answer.mask or 0 for answer in answers]
        if any(answer.reason for answer in answers):
            return known, [answer.malformed for answer in answers]
        return known, None

    def _parse_plain(self, text: str) -> ParsedAnswer | None:
        """The common answer, bare storing ids and commas, or None if it is another."""
        mask = 0
        for item in text.lower().split(","):
            bit = self._bits.get(item.strip())
            if not bit:
                return None
            mask |= bit
        return ParsedAnswer(mask)

    def _parse(self, text: str, *, lenient: bool, drop_last: bool) -> ParsedAnswer:
        bits = self._bits
        text = text.translate(_INVISIBLE) if not text.isascii() else text
        body = text.lstrip().lstrip(_WRAPPING)
        label = _LABEL.match(body)
        items = _SEPARATOR.split(body[label.end() :] if label else body)
        if drop_last:
            items.pop()
        mask, exclusive, known = 0, False, False
        unknown: list[str] = []
        for raw in items:
            bit = bits.get(raw)
            if bit is None:
                item = "".join(raw.split()).lower()
                bit = bits.get(item)
            if bit is None:
                item = _clean(raw)
                if not item:
                    continue
                bit = bits.get(item)
                if bit is None:
                    shown = " ".join(raw.split())[:_SHOWN]
                    if not lenient:
                        return ParsedAnswer(None, MalformedReason.UNKNOWN_CATEGORY, shown)
                    unknown.append(shown)
                    continue
            known = True
            if bit:
                mask |= bit
            else:
                exclusive = True
        if not known:
            if unknown:
                return ParsedAnswer(
                    None, MalformedReason.UNKNOWN_CATEGORY, unknown[0], tuple(unknown)
                )
            return ParsedAnswer(None, MalformedReason.EMPTY)
        if exclusive and mask:
            name = self.taxonomy.exclusive.id
            if not lenient:
                return ParsedAnswer(None, MalformedReason.EXCLUSIVE_NOT_ALONE, name)
            unknown.append(name)
        return ParsedAnswer(mask, dropped=tuple(unknown))

    def __reduce__(self) -> tuple[type[AnswerParser], tuple[Taxonomy, ParseMode]]:
        """Pickle without the memory."""
        return AnswerParser, (self.taxonomy, self.mode)


def parse_answer(
    text: object, taxonomy: Taxonomy, mode: ParseMode = "strict", *, truncated: bool = False
) -> ParsedAnswer:
    """Read one answer; for many, keep an `AnswerParser`."""
    return AnswerParser(taxonomy, mode)(text, truncated=truncated)


def format_answer(categories: tuple[str, ...]) -> str:
    """The canonical text of an answer: ids in the taxonomy's order, separated by `, `."""
    return ", ".join(categories)
