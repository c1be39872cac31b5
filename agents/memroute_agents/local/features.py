"""Hashed word and character n-grams of conversations, in vectorised numpy.

The hot path of the local policy. A batch of conversations becomes one byte array; prefix sums of a
polynomial hash then give the hash of any substring, so that the n-grams of the whole batch cost a
dozen array operations, whatever their number:

    P[i] = sum_{j<i} byte[j] * B**j  (mod 2**64),   hash(i, n) = (P[i+n] - P[i]) * B**-i

B is odd, hence has an inverse modulo 2**64, and equal substrings have equal hashes wherever they
stand (Rabin-Karp). Texts are lower-cased, runs of digits become one `0`, other marks become
spaces, except those that carry meaning here (`%`, `$`, `?`, `!`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from memroute_env.conversation import Conversation

__all__ = ["FeatureConfig", "Features", "count_ngrams", "extract", "sentences_of"]

UIntArray = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_BASE_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_MIX = np.uint64(0xD6E8FEB86659FD93)
_NEXT_WORD = np.uint64(0xA24BAED4963EE407)
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_MARKS = (
    ("’", "'"),
    ("€", "$"),
    ("£", "$"),
    ("%", " % "),
    ("$", " $ "),
    ("?", " ? "),
    ("!", " ! "),
)

_KEEP = np.zeros(256, np.uint8)
for _byte in range(256):
    _character = chr(_byte)
    if _byte >= 128 or _character.isalpha() or _character in "'%$?!":
        _KEEP[_byte] = _byte
    elif _character.isdigit():
        _KEEP[_byte] = ord("0")


@dataclass(frozen=True)
class FeatureConfig:
    """Which n-grams are taken, and into how many buckets they are hashed."""

    word_orders: tuple[int, ...] = (1,)
    stem_lengths: tuple[int, ...] = (5,)
    """Prefixes of words: `prior` for priority and prioritise; uni- and bigrams of them."""
    speaker_stem: int = 5
    """Prefixes of this length are also taken together with who speaks for whom in the sentence
    (I, we, both, neither) and whether it asks: "we only sign" is a company's rule, "I only sign" a
    person's. 0: not."""
    char_orders: tuple[int, ...] = (5,)
    replies: bool = False
    """A turn is read with what the assistant said after it as well as before it: worth it where the
    assistant repeats what it has heard, misleading where it does not."""
    bits: int = 18
    """Buckets of each view: 2**bits."""


class Features(NamedTuple):
    """The n-grams of a batch of N conversations.

    Columns are buckets, entries counts. The first S rows are sentences of the user's turns; then
    comes one for each of the user's T turns, which holds what the assistant said before it, since
    the user last spoke (and after it, with `FeatureConfig.replies`): one matrix, because the cost
    of a single conversation is that of the calls, not of the bytes.
    """

    counts: sparse.csr_matrix
    """(S + T, 2**bits) float32."""
    user_conversation: IntArray
    """(S,): the conversation of each row, ascending; every conversation has at least one row."""
    user_turn: IntArray
    """(S,): the turn of each row; -1 for the empty row of a conversation without user turns."""
    size: int
    """N."""

    @property
    def user(self) -> sparse.csr_matrix:
        """(S, 2**bits): the user's sentences."""
        return self.counts[: len(self.user_turn)]

    @property
    def turn_rows(self) -> IntArray:
        """(T + 1,): rows of turn t are `turn_rows[t]:turn_rows[t + 1]`."""
        first = np.ones(len(self.user_turn) + 1, np.bool_)
        first[1:-1] = np.diff(self.user_conversation) != 0
        first[1:-1] |= np.diff(self.user_turn) != 0
        return np.flatnonzero(first)

    @property
    def before(self) -> sparse.csr_matrix:
        """(T, 2**bits): what the assistant said before (and after) each of the user's turns."""
        return self.counts[len(self.user_turn) :]


def sentences_of(text: str) -> list[str]:
    """A turn's sentences; at least one."""
    found = [part for part in _SENTENCE_END.split(text) if part.strip()]
    return found or [text]


@lru_cache(maxsize=4)
def _powers(length: int) -> tuple[UIntArray, UIntArray]:
    """`B**i` and `B**-i` for i below a length, modulo 2**64."""
    ones = np.ones(length, np.uint64)
    with np.errstate(over="ignore"):
        ahead, back = ones.copy(), ones.copy()
        ahead[1:], back[1:] = _BASE, _BASE_INVERSE
        return np.multiply.accumulate(ahead), np.multiply.accumulate(back)


def _prefix_sums(data: npt.NDArray[np.uint8]) -> tuple[UIntArray, UIntArray]:
    """P and the inverse powers for a byte array, as the module describes them."""
    length = 1 << max(12, int(len(data)).bit_length())
    ahead, back = _powers(length)
    sums = np.zeros(len(data) + 1, np.uint64)
    # +1 keeps runs of zero bytes apart; every kept byte is positive anyway.
    np.cumsum(data.astype(np.uint64) * ahead[: len(data)], out=sums[1:])
    return sums, back


_SPEAKERS = (
    "i my me mine myself i'm i've i'd i'll",
    "we our us ours we're we've we'd we'll",
    "?",
)
"""Words that tell for whom a sentence speaks, and that it asks: a bit each."""


@lru_cache(maxsize=1)
def _speakers() -> tuple[UIntArray, ...]:
    """Hashes of the words of each group."""
    return tuple(
        np.array(
            [_prefix_sums(np.frombuffer(word.encode(), np.uint8))[0][-1] for word in group.split()],
            np.uint64,
        )
        for group in _SPEAKERS
    )


def _clean(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """All texts as normalised bytes, each between line feeds, one space between words."""
    # Sentences hold no line feed; anything else that is passed in must not add rows.
    joined = "\n".join(text.replace("\n", " ") for text in texts).lower()
    for mark, spaced in _MARKS:
        joined = joined.replace(mark, spaced)
    raw = np.frombuffer(f"\n{joined}\n".encode("utf-8", "surrogatepass"), np.uint8)
    data = _KEEP[raw]
    line = raw == 10
    digit = data == 48
    repeated = np.zeros(len(data), np.bool_)
    repeated[1:] = digit[1:] & digit[:-1]
    empty = data == 0
    after_empty = np.zeros(len(data), np.bool_)
    after_empty[1:] = empty[:-1]
    data = np.where(line, np.uint8(10), np.where(empty, np.uint8(32), data))
    # A line feed always stays; of several spaces in a row (or one beside a line feed) one goes.
    data = data[line | ~(repeated | (empty & after_empty))]
    trailing = np.zeros(len(data), np.bool_)
    trailing[:-1] = (data[:-1] == 32) & (data[1:] == 10)
    return data[~trailing]


def extract(conversations: Sequence[Conversation], config: FeatureConfig) -> Features:
    """The n-grams of a batch of conversations."""
    texts: list[str] = []
    owners: list[int] = []
    turns: list[int] = []
    spoken: list[str] = []
    turn_of_spoken: list[int] = []
    num_turns = 0
    for n, conversation in enumerate(conversations):
        first = len(texts)
        between: list[list[str]] = [[]]  # what the assistant said before, between, after the turns
        for t, turn in enumerate(conversation.turns):
            parts = sentences_of(turn.content)
            if turn.role != "user":
                between[-1] += parts
                continue
            texts += parts
            owners += [n] * len(parts)
            turns += [t] * len(parts)
            between.append([])
        if len(texts) == first:
            texts.append("")
            owners.append(n)
            turns.append(-1)
            between.append([])
        for before, after in pairwise(between):
            said = before + after if config.replies else before
            spoken += said
            turn_of_spoken += [num_turns] * len(said)
            num_turns += 1
    rows = np.arange(len(texts) + len(spoken))
    rows[len(texts) :] = turn_of_spoken
    rows[len(texts) :] += len(texts)
    return Features(
        count_ngrams(texts + spoken, config, rows=rows, size=len(texts) + num_turns),
        np.array(owners, np.int64),
        np.array(turns, np.int64),
        len(conversations),
    )


def count_ngrams(
    texts: Sequence[str],
    config: FeatureConfig,
    *,
    rows: IntArray | None = None,
    size: int | None = None,
) -> sparse.csr_matrix:
    """How often each bucket occurs in each text.

    Args:
        texts: S texts.
        config: Orders and buckets.
        rows: (S,) ascending: texts with equal numbers are counted together in that row.
        size: Number of rows, with `rows`.

    Returns:
        float32 of shape (S or size, 2**bits); entries are not merged: a bucket may stand in a row
        more than once, which sums treat alike.
    """
    height = len(texts) if size is None else size
    kinds = _hashed(texts, config)
    if rows is not None:
        kinds = [(buckets, rows[of]) for buckets, of in kinds]
    lengths = [np.bincount(of, minlength=height) for _, of in kinds]
    starts = np.zeros(height + 1, np.int64)
    if lengths:
        np.cumsum(sum(lengths), out=starts[1:])
    # Kind by kind, each row's buckets go to the next free places of that row: nothing is sorted.
    indices = np.empty(int(starts[-1]), np.int32)
    free = starts[:-1].copy()
    for (buckets, of), length in zip(kinds, lengths, strict=True):
        first = np.cumsum(length) - length
        indices[np.arange(len(of)) + (free - first)[of]] = buckets
        free += length
    ones = np.ones(len(indices), np.float32)
    return sparse.csr_matrix((ones, indices, starts), shape=(height, 1 << config.bits))


def _hashed(texts: Sequence[str], config: FeatureConfig) -> list[tuple[UIntArray, IntArray]]:
    """Buckets and rows (ascending) of the n-grams of every text, kind by kind."""
    if not texts:
        return []
    data = _clean(texts)
    sums, back = _prefix_sums(data)
    line = data == 10
    row = np.cumsum(line) - 1  # the row of each byte: the line feed before it opens the row
    kinds: list[tuple[UIntArray, IntArray]] = []

    def add(hashes: UIntArray, of: IntArray, kind: int) -> None:
        salted = (hashes + np.uint64(kind)) * _MIX
        salted ^= salted >> np.uint64(29)
        kinds.append(((salted * _NEXT_WORD) >> np.uint64(64 - config.bits), of))

    edge = np.flatnonzero(np.diff(~(line | (data == 32)), prepend=False, append=False))
    starts, ends = edge[::2], edge[1::2]
    words = (sums[ends] - sums[starts]) * back[starts]
    word_rows = row[starts]
    gram = words
    for order in range(1, max(config.word_orders, default=0) + 1):
        if order > 1:
            gram = gram[:-1] * _NEXT_WORD + words[order - 1 :]
        if order in config.word_orders and len(gram):
            same = word_rows[: len(gram)] == word_rows[order - 1 :]
            add(gram[same], word_rows[: len(gram)][same], order)
    if config.speaker_stem:
        manner = np.zeros(int(line.sum()), np.uint64)
        for bit, known in enumerate(_speakers()):
            manner[word_rows[np.isin(words, known)]] |= np.uint64(1 << bit)
        stems = (sums[np.minimum(ends, starts + config.speaker_stem)] - sums[starts]) * back[starts]
        add(stems * _NEXT_WORD + manner[word_rows] * _MIX, word_rows, 400)
    for length in config.stem_lengths:
        stems = (sums[np.minimum(ends, starts + length)] - sums[starts]) * back[starts]
        add(stems, word_rows, 200 + length)
        if len(stems) > 1:
            same = word_rows[:-1] == word_rows[1:]
            add((stems[:-1] * _NEXT_WORD + stems[1:])[same], word_rows[:-1][same], 300 + length)
    for order in config.char_orders:
        if len(data) >= order:
            gram = (sums[order:] - sums[:-order]) * back[: len(data) - order + 1]
            # Within one line; the line feed that opens it serves as a boundary mark.
            same = row[: len(gram)] == row[order - 1 :]
            add(gram[same], row[: len(gram)][same], 100 + order)
    return kinds
