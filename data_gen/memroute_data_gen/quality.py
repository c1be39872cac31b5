"""Quality of a corpus: gates, distributions, leaks, duplicates, secrets, suspected noise.

The gates are the constants below. Everything is measured, nothing is assumed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from memroute_data_gen.splits import (
    SHORT,
    near_duplicates_across,
    normalise,
    redundant,
)
from memroute_env.conversation import Example
from memroute_env.taxonomy import Taxonomy

__all__ = ["Gate", "QualityReport", "check_corpus"]

_SECRETS = {
    "e-mail address": re.compile(r"\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b", re.I),
    "phone number": re.compile(
        r"(?<![\w.])\+?\d{1,3}[ -.]?\(?\d{2,4}\)?[ -.]\d{3,4}[ -.]\d{3,4}\b"
    ),
    "API key": re.compile(r"\b(?:sk|pk|rk|ghp|xox[abp]|AKIA|AIza)[-_]?[A-Za-z0-9_-]{16,}\b"),
    "card number": re.compile(r"\b(?:\d[ -]?){15,16}\b"),
}
_MIN_PER_CATEGORY = 20


@dataclass(frozen=True)
class Gate:
    """One requirement on a training corpus."""

    name: str
    wanted: str
    found: str
    passed: bool


@dataclass
class QualityReport:
    """What was measured on a corpus."""

    n: int
    gates: list[Gate]
    distributions: dict[str, dict[str, int]]
    near_duplicates: list[tuple[str, str, float]]
    """(id, id of an earlier example, similarity): what a deduplication would remove, and what of
    it would stay."""
    across: list[tuple[str, str, float]] | None
    """Pairs of ids (this corpus, the other split); None where there was no other split."""
    secrets: list[tuple[str, str, str]]
    """(id, kind, the text that was found)."""
    assistant_leak: dict[str, float] = field(default_factory=dict)
    """Cross-validated reward of a classifier that sees the assistant's turns only."""
    suspected_noise: list[dict[str, Any]] = field(default_factory=list)
    """Examples whose label a cross-validated policy contradicts with confidence."""

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "passed": self.passed}


def check_corpus(
    examples: Sequence[Example],
    taxonomy: Taxonomy,
    *,
    other: Sequence[Example] = (),
    deep: bool = True,
) -> QualityReport:
    """Measure a corpus.

    Args:
        examples: The corpus; at least one example.
        taxonomy: Of its labels.
        other: Another split that must share nothing with it.
        deep: Also train the two classifiers (assistant-only leak, label noise); needs scipy.

    Returns:
        The report; `report.passed` says whether all gates hold.
    """
    masks = [taxonomy.mask(example.labels.categories) for example in examples]
    texts = [" ".join(example.conversation.user_texts) for example in examples]
    across = _across(examples, other) if other else None
    report = QualityReport(
        n=len(examples),
        gates=_gates(examples, masks, taxonomy, texts, across),
        distributions=_distributions(examples, masks, taxonomy),
        near_duplicates=[(examples[j].id, examples[i].id, s) for j, i, s in redundant(texts)],
        across=across,
        secrets=_secrets(examples),
    )
    if deep and len(examples) >= 200:
        from memroute_data_gen.diagnostics import assistant_only_leak, suspected_noise

        report.assistant_leak = assistant_only_leak(examples, taxonomy)
        report.suspected_noise = suspected_noise(examples, taxonomy)
    return report


def _across(examples: Sequence[Example], other: Sequence[Example]) -> list[tuple[str, str, float]]:
    """Near-duplicate user utterances between two splits, by example id."""
    ours, theirs = (
        [(e.id, t) for e in side for t in e.conversation.user_texts if len(t.split()) > SHORT]
        for side in (examples, other)
    )
    unique: dict[str, str] = {}
    for identifier, text in ours:
        unique.setdefault(normalise(text), identifier)
    foreign: dict[str, str] = {}
    for identifier, text in theirs:
        foreign.setdefault(normalise(text), identifier)
    exact = [(unique[text], foreign[text], 1.0) for text in unique.keys() & foreign.keys()]
    mine = [text for text in unique if text not in foreign]
    yours = [text for text in foreign if text not in unique]
    close = [
        (unique[mine[i]], foreign[yours[j]], similarity)
        for i, j, similarity in near_duplicates_across(mine, yours)
    ]
    return sorted(exact) + close


def _gates(
    examples: Sequence[Example],
    masks: Sequence[int],
    taxonomy: Taxonomy,
    texts: Sequence[str],
    across: list[tuple[str, str, float]] | None,
) -> list[Gate]:
    n = len(examples)
    counts = Counter(c for e in examples for c in e.labels.categories)
    rarest = min(taxonomy.all_ids, key=lambda c: counts[c])
    sizes = [mask.bit_count() for mask in masks if mask]
    multi = sum(size > 1 for size in sizes) / n
    nothing = sum(mask == 0 for mask in masks) / n
    distracted = sum(bool(e.metadata.distractors) for e in examples) / n
    average = float(np.mean(sizes)) if sizes else 0.0
    turns = [len(e.conversation.turns) for e in examples]
    exact = n - len({normalise(text) for text in texts})
    users = Counter(
        key for e in examples for key in {normalise(t) for t in e.conversation.user_texts}
    )
    phrase, most = users.most_common(1)[0] if users else ("", 0)
    gates = [
        Gate(
            "examples per category",
            f">= {_MIN_PER_CATEGORY}",
            f"{counts[rarest]} ({rarest})",
            counts[rarest] >= _MIN_PER_CATEGORY,
        ),
        Gate("multi-label share", ">= 20%", f"{multi:.1%}", multi >= 0.20),
        Gate(f"{taxonomy.exclusive.id} share", ">= 10%", f"{nothing:.1%}", nothing >= 0.10),
        Gate("share with distractor turns", ">= 30%", f"{distracted:.1%}", distracted >= 0.30),
        Gate("labels per stored example", "1 to 2", f"{average:.2f}", 1 <= average <= 2),
        Gate(
            "turns",
            "3 to 12",
            f"{min(turns)} to {max(turns)}",
            min(turns) >= 3 and max(turns) <= 12,
        ),
        Gate("exact duplicates", "0", str(exact), exact == 0),
        Gate(
            "most frequent user utterance",
            "<= 1% of the examples",
            f"{most / n:.2%} ({phrase[:40]!r})",
            # A corpus of fewer than 200 examples cannot repeat anything twice within 1%.
            most / n <= 0.01 or most <= 1,
        ),
    ]
    if across is not None:
        gates.append(Gate("near duplicates across splits", "0", str(len(across)), not across))
    return gates


def _distributions(
    examples: Sequence[Example], masks: Sequence[int], taxonomy: Taxonomy
) -> dict[str, dict[str, int]]:
    labels = Counter(c for e in examples for c in e.labels.categories)
    pairs = Counter(
        " + ".join(sorted(pair))
        for mask in masks
        if mask.bit_count() > 1
        for ids in [taxonomy.ids(mask)]
        for k, a in enumerate(ids)
        for b in ids[k + 1 :]
        for pair in [(a, b)]
    )
    words = [sum(len(t.split()) for t in e.conversation.user_texts) for e in examples]
    return {
        "category": {c: labels[c] for c in taxonomy.all_ids},
        "labels": _sorted(Counter(str(mask.bit_count()) for mask in masks)),
        "pair": dict(pairs.most_common(20)),
        "domain": _sorted(Counter(e.metadata.domain or "unknown" for e in examples)),
        "difficulty": _sorted(Counter(e.metadata.difficulty or "unknown" for e in examples)),
        "turns": _sorted(Counter(f"{len(e.conversation.turns):2d}" for e in examples)),
        "user words": _sorted(Counter(f"{50 * (w // 50):3d}+" for w in words)),
        "distractor turns": _sorted(Counter(str(len(e.metadata.distractors)) for e in examples)),
        "source": _sorted(Counter(e.metadata.source or "unknown" for e in examples)),
    }


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def _secrets(examples: Sequence[Example]) -> list[tuple[str, str, str]]:
    found = []
    for example in examples:
        text = example.conversation.to_text()
        for kind, pattern in _SECRETS.items():
            for match in pattern.finditer(text):
                found.append((example.id, kind, match[0]))
    return found
