"""Two questions put to a corpus by cross-validated classifiers: does it leak, and is it noisy?

scikit-learn does the work: n-gram TF-IDF and one logistic regression a category. Nothing here is
the project's policy; a second opinion should not share its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memroute_env.conversation import Example
from memroute_env.errors import MissingDependencyError
from memroute_env.reward import Reward
from memroute_env.taxonomy import Taxonomy

__all__ = ["assistant_only_leak", "suspected_noise"]

_FOLDS = 5
_MOST = 4_000
"""Examples that are looked at: a sample tells, and time stays bounded."""


def assistant_only_leak(examples: Sequence[Example], taxonomy: Taxonomy) -> dict[str, float]:
    """How much the assistant's turns alone say about the label.

    Returns:
        Mean reward (in [0, 1]) of a cross-validated classifier that sees the assistant's turns
        only (`assistant_only`), of one that sees the user's (`user_only`), and of the best
        constant answer (`constant`). Without a leak the first is close to the last.
    """
    sample = _sample(examples)
    masks = _masks(sample, taxonomy)
    reward = Reward(taxonomy)
    sets = np.array(taxonomy.small_sets())
    gold, counts = np.unique(masks, return_counts=True)
    constant = (reward.table(sets, gold) @ counts / counts.sum()).max()
    result = {"constant": float(constant)}
    for name, role in (("assistant_only", "assistant"), ("user_only", "user")):
        texts = [
            " ".join(t.content for t in e.conversation.turns if t.role == role) for e in sample
        ]
        probabilities = _cross_validated(texts, masks, taxonomy)
        result[name] = float(reward.score_masks(_decode(probabilities), masks).mean())
    return result


def suspected_noise(
    examples: Sequence[Example],
    taxonomy: Taxonomy,
    *,
    doubt: float = 0.15,
    confidence: float = 0.5,
) -> list[dict[str, Any]]:
    """Examples whose label a cross-validated classifier contradicts with confidence.

    Args:
        examples: The corpus.
        taxonomy: Of its labels.
        doubt: Every gold category must have at most this probability.
        confidence: Some other category must have at least this one.

    Returns:
        `id`, `gold`, `suggested` and `probability` of each, the most confident first.
    """
    sample = _sample(examples)
    masks = _masks(sample, taxonomy)
    texts = [e.conversation.to_text() for e in sample]
    probabilities = _cross_validated(texts, masks, taxonomy)
    found = []
    for example, mask, row in zip(sample, masks, probabilities, strict=True):
        bits = [i for i in range(taxonomy.num_storing) if mask >> i & 1] or [-1]
        best = int(row.argmax())
        if row[bits].max() <= doubt and row[best] >= confidence:
            found.append(
                {
                    "id": example.id,
                    "gold": list(example.labels.categories),
                    "suggested": taxonomy.all_ids[best],
                    "probability": round(float(row[best]), 3),
                }
            )
    return sorted(found, key=lambda item: -item["probability"])


def _sample(examples: Sequence[Example]) -> Sequence[Example]:
    if len(examples) <= _MOST:
        return examples
    chosen = np.random.default_rng(0).choice(len(examples), _MOST, replace=False)
    return [examples[i] for i in sorted(chosen)]


def _masks(examples: Sequence[Example], taxonomy: Taxonomy) -> npt.NDArray[np.int64]:
    return np.array([taxonomy.mask(e.labels.categories) for e in examples], np.int64)


def _cross_validated(
    texts: Sequence[str], masks: npt.NDArray[np.int64], taxonomy: Taxonomy
) -> npt.NDArray[np.float64]:
    """Held-out probabilities of every category (the exclusive one last): shape (N, categories)."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import KFold
    except ImportError:
        raise MissingDependencyError("scikit-learn", "local") from None
    targets = np.concatenate(
        [masks[:, None] >> np.arange(taxonomy.num_storing) & 1, (masks == 0)[:, None]], axis=1
    )
    result = np.zeros(targets.shape)
    for train, test in KFold(_FOLDS, shuffle=True, random_state=0).split(texts):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        x = vectorizer.fit_transform([texts[i] or "empty" for i in train])
        held_out = vectorizer.transform([texts[i] for i in test])
        for column in range(targets.shape[1]):
            y = targets[train, column]
            if y.min() == y.max():
                result[test, column] = y[0]
                continue
            model = LogisticRegression(C=10.0, class_weight="balanced", solver="liblinear")
            result[test, column] = model.fit(x, y).predict_proba(held_out)[:, 1]
    return result


def _decode(probabilities_NC: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The exclusive answer where it is likeliest, else every category above a half, or the best."""
    storing = probabilities_NC[:, :-1]
    best = storing.argmax(axis=1)
    chosen = (storing >= 0.5) | (np.arange(storing.shape[1]) == best[:, None])
    masks = (chosen << np.arange(storing.shape[1])).sum(axis=1)
    return np.where(probabilities_NC[:, -1] > storing.max(axis=1), 0, masks)
