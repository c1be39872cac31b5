"""Leak-free splits: what is alike stays together.

Texts are grouped when they share so many word trigrams that one paraphrases the other; whole
groups then go to one split, by a hash of the group's smallest id, so that adding texts never moves
others.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import ceil

from memroute_env.conversation import Example

__all__ = [
    "NEAR_DUPLICATE",
    "SHORT",
    "assign_splits",
    "near_duplicates",
    "near_duplicates_across",
    "normalise",
    "place",
    "redundant",
    "shingles",
    "split_examples",
]

NEAR_DUPLICATE = 0.5
"""Jaccard similarity of word trigrams from which two texts count as near duplicates."""

_TOKEN = re.compile(r"(?:[^\W_]|')+|\{[a-z0-9]+\}")
_DIGITS = re.compile(r"\d+")
SHORT = 3
"""Words up to which an utterance ("ok thanks") may stand in several splits."""


def normalise(text: str) -> str:
    """Lower case, words only, every number as 0: what exact duplicates are compared by."""
    return " ".join(_TOKEN.findall(_DIGITS.sub("0", text.lower())))


def shingles(text: str, n: int = 3) -> frozenset[int]:
    """Hashes of the word n-grams of a text (of the whole text if it is shorter).

    Equal within a process only: Python's string hash is seeded. Nothing that is stored depends on
    the values.
    """
    words = normalise(text).split()
    if len(words) <= n:
        return frozenset((hash(" ".join(words)),))
    return frozenset(hash(" ".join(words[i : i + n])) for i in range(len(words) - n + 1))


class _Index:
    """Texts by their rarest trigrams: finds every set that is alike, and looks at few others.

    Prefix filtering (Chaudhuri, Ganti & Kaushik 2006; Bayardo, Ma & Srikant 2007): a set of n
    trigrams shares at least ceil(t n) of them with any set whose Jaccard similarity to it is t or
    more. Hence, with all sets sorted in one and the same order, two such sets have a trigram in
    common among the first n - ceil(t n) + 1 of each. The rarest come first, so that few others do.

    Args:
        times: How often each trigram that may be shared occurs; one that is missing is shared by no
            two texts and counts as rarer than all others.
        threshold: In (0, 1].
    """

    def __init__(self, times: Mapping[int, int], threshold: float) -> None:
        self._rank = {gram: rank for rank, gram in enumerate(sorted(times, key=times.__getitem__))}
        self._threshold = threshold
        self._sets: list[frozenset[int]] = []
        self._holders: dict[int, list[int]] = defaultdict(list)

    def _telling(self, grams: frozenset[int]) -> list[int]:
        """Ranks of those among the first n - ceil(t n) + 1 trigrams that may be shared."""
        ranks = sorted(self._rank[gram] for gram in grams if gram in self._rank)
        # A product a hair above a whole number is that number: one trigram too many does no harm.
        needed = ceil(self._threshold * len(grams) - 1e-9)
        return ranks[: max(0, len(ranks) - needed + 1)]

    def add(self, grams: frozenset[int]) -> None:
        """Index the next text, which is number 0, 1, 2 and so on."""
        for rank in self._telling(grams):
            self._holders[rank].append(len(self._sets))
        self._sets.append(grams)

    def alike(self, grams: frozenset[int]) -> Iterator[tuple[int, float]]:
        """Yield (number, similarity) of every indexed text that is alike."""
        holders = (self._holders.get(rank, ()) for rank in self._telling(grams))
        for number in set(chain.from_iterable(holders)):
            other = self._sets[number]
            common = len(grams & other)
            similarity = common / (len(grams) + len(other) - common)
            if similarity >= self._threshold:
                yield number, similarity


def near_duplicates(
    texts: Sequence[str], threshold: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """Pairs of texts whose trigram sets have a Jaccard similarity of at least `threshold`: all.

    Args:
        texts: N texts.
        threshold: In (0, 1].

    Returns:
        `(i, j, similarity)` with i < j, sorted.
    """
    return sorted(_near_duplicates(texts, threshold))


def redundant(
    texts: Sequence[str], threshold: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """Texts that a deduplication would remove: one of each group of near duplicates stays.

    From first to last, a text stays unless it resembles one that stays. Of n texts of one template
    n - 1 are redundant (and n (n - 1) / 2 pairs are near duplicates).

    Args:
        texts: N texts.
        threshold: See `near_duplicates`.

    Returns:
        `(j, i, similarity)`, j ascending: text j is redundant, i < j is the nearest that stays.
    """
    index, sets = _indexed(texts, threshold)
    kept: list[int] = []
    found = []
    for j, grams in enumerate(sets):
        similarity, number = max(((s, -n) for n, s in index.alike(grams)), default=(0.0, 0))
        if similarity:
            found.append((j, kept[-number], similarity))
        else:
            kept.append(j)
            index.add(grams)
    return found


def _indexed(texts: Sequence[str], threshold: float) -> tuple[_Index, list[frozenset[int]]]:
    """An empty index for some texts, and their trigrams."""
    sets = [shingles(text) for text in texts]
    times = Counter(chain.from_iterable(sets))
    return _Index({gram: n for gram, n in times.items() if n > 1}, threshold), sets


def _near_duplicates(
    texts: Sequence[str], threshold: float = NEAR_DUPLICATE
) -> Iterator[tuple[int, int, float]]:
    """`near_duplicates` as they are found: of n texts of one template there are n squared."""
    index, sets = _indexed(texts, threshold)
    for j, grams in enumerate(sets):
        for i, similarity in index.alike(grams):
            yield i, j, similarity
        index.add(grams)


def near_duplicates_across(
    ours: Sequence[str], theirs: Sequence[str], threshold: float = NEAR_DUPLICATE
) -> list[tuple[int, int, float]]:
    """All pairs of one of ours and one of theirs that are as alike as `near_duplicates` asks.

    Only the smaller side is indexed, so time grows with the larger side's length alone.

    Args:
        ours: N texts.
        theirs: M texts.
        threshold: In (0, 1].

    Returns:
        `(i, j, similarity)`, sorted: `ours[i]` resembles `theirs[j]`.
    """
    if len(ours) < len(theirs):
        return sorted((i, j, s) for j, i, s in near_duplicates_across(theirs, ours, threshold))
    sets = [shingles(text) for text in theirs]
    index = _Index(Counter(chain.from_iterable(sets)), threshold)
    for grams in sets:
        index.add(grams)
    return sorted(
        (i, j, similarity)
        for i, text in enumerate(ours)
        for j, similarity in index.alike(shingles(text))
    )


def assign_splits(
    ids: Sequence[str],
    texts: Sequence[str],
    shares: Mapping[str, float],
    *,
    together: Iterable[Sequence[int]] = (),
    seed: int = 0,
    threshold: float = NEAR_DUPLICATE,
) -> list[str]:
    """A split for each text, such that no two near duplicates fall into different splits.

    Args:
        ids: N ids; a group is placed by the smallest of its ids, so placement is stable.
        texts: N texts.
        shares: Split name to its share of the groups; the shares sum to 1.
        together: Further groups of positions that must stay together.
        seed: Another seed places the groups anew.
        threshold: See `near_duplicates`.

    Returns:
        N split names.

    Raises:
        ValueError: If the shares do not sum to 1.
    """
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) < 0:
        raise ValueError(f"shares must be non-negative and sum to 1, got {dict(shares)}")
    parent = list(range(len(ids)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j, _ in _near_duplicates(texts, threshold):
        parent[root(j)] = root(i)
    for group in together:
        for i in group[1:]:
            parent[root(i)] = root(group[0])
    smallest: dict[int, str] = {}
    for i, identifier in enumerate(ids):
        r = root(i)
        smallest[r] = min(smallest.get(r, identifier), identifier)
    return [place(smallest[root(i)], shares, seed) for i in range(len(ids))]


def place(identifier: str, shares: Mapping[str, float], seed: int = 0) -> str:
    """The split of an identifier by hash: stable, and independent of all others."""
    digest = hashlib.sha256(f"{seed}:{identifier}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in shares.items():
        position -= share
        if position < 0:
            return name
    return list(shares)[-1]  # rounding left a sliver beyond the last share


def split_examples(
    examples: Sequence[Example], shares: Mapping[str, float], *, seed: int = 0
) -> dict[str, list[Example]]:
    """Examples by split; two that share a longer user utterance, or nearly, stay together.

    Args:
        examples: N examples.
        shares: Split name to share, summing to 1.
        seed: Another seed places them anew.
    """
    owners: dict[str, list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        for text in example.conversation.user_texts:
            if len(text.split()) > SHORT:
                owners[normalise(text)].append(i)
    utterances = list(owners)
    together = [owners[text] for text in utterances if len(owners[text]) > 1]
    nearly = (
        [owners[utterances[i]][0], owners[utterances[j]][0]]
        for i, j, _ in _near_duplicates(utterances)
    )
    names = assign_splits(
        [e.id for e in examples],
        [" ".join(e.conversation.user_texts) for e in examples],
        shares,
        together=chain(together, nearly),
        seed=seed,
    )
    parts: dict[str, list[Example]] = {name: [] for name in shares}
    for example, name in zip(examples, names, strict=True):
        parts[name].append(example)
    return parts
