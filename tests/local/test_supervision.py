"""What the supervised stage learns from, and pairs of conversations read as one."""

from __future__ import annotations

import numpy as np
import pytest

from memroute_agents.local.encoding import Encoded, Grouped
from memroute_agents.local.policy import LocalPolicy
from memroute_agents.local.sets import SetFamily
from memroute_agents.local.supervision import Supervision
from memroute_env import Conversation, Dataset, Example
from tests.conftest import make_example
from tests.local.conftest import MARKETING

FAMILY = SetFamily(MARKETING)
BRAND, TOOLS = "company.brand_core", "company.tools_config"
ROLE, STYLE = "user.role_context", "user.communication_style"


def whole(identifier: str, categories: list[str], *texts: str) -> Example:
    """All categories shown in the first turn."""
    example = make_example(identifier, categories, *texts)
    shown = {c: (0,) for c in categories if c != "none"}
    labels = example.labels.model_copy(update={"evidence": shown})
    return example.model_copy(update={"labels": labels})


WHOLE = [
    whole("a", [BRAND], "We sound calm and dry.", "Noted.", "Thanks. And now to lunch."),
    whole("b", [TOOLS, ROLE], "We use Braze, and I run the team.", "Understood."),
    whole("c", ["none"], "What time is it?", "Noon.", "Already!"),
    whole("d", [STYLE, BRAND], "Be brief with me. We never shout."),
]


def supervision(policy: LocalPolicy, examples: list[Example]) -> Supervision:
    dataset = Dataset(examples, MARKETING, name="few")
    batch = policy.encoder([e.conversation for e in examples])
    return Supervision.of(batch, examples, dataset.gold_masks, FAMILY)


def concatenated(first: Example, second: Example) -> Conversation:
    return Conversation(turns=(*first.conversation.turns, *second.conversation.turns))


def test_a_pair_is_encoded_like_the_conversation_of_both(trained: LocalPolicy) -> None:
    batch = trained.encoder([e.conversation for e in WHOLE])
    first, second = np.array([0, 3, 2]), np.array([1, 2, 0])
    data = Grouped.alone(batch).and_pairs(first, second)
    pairs = data.take(np.array([4, 5, 6]))
    both = trained.encoder(
        [concatenated(WHOLE[i], WHOLE[j]) for i, j in zip(first, second, strict=True)]
    )
    assert np.allclose(pairs.user.toarray(), both.user.toarray(), atol=1e-6)
    for name in ("starts", "turn_rows", "turn_starts", "row_norm", "turn_norm", "whole_norm"):
        assert np.allclose(getattr(pairs, name), getattr(both, name), atol=1e-6), name
    # Positions count on from the first one's last user turn; where a user ended it, they agree.
    assert pairs.turns.tolist() == [0, 2, 3, 0, 1, 3, 0, 2, 3, 5]
    # A turn keeps what it answered; the second one's first turn answers nothing.
    opening = np.concatenate([pairs.turn_starts[:-1], [2, 4, 8]])
    assert pairs.before[opening].nnz == 0
    others = np.setdiff1d(np.arange(len(pairs.turns)), opening)
    assert np.allclose(pairs.before[others].toarray(), both.before[others].toarray(), atol=1e-6)
    assert pairs.before[others].nnz


def test_pairs_and_conversations_alone_can_be_taken_together(trained: LocalPolicy) -> None:
    batch = trained.encoder([e.conversation for e in WHOLE])
    data = Grouped.alone(batch).and_pairs(np.array([0, 3]), np.array([1, 2]))
    mixed = data.take(np.array([5, 2, 4, 0]))
    apart = [data.take(np.array([i])) for i in (5, 2, 4, 0)]
    joined = Encoded.joined(apart)
    for name, value in mixed._asdict().items():
        one, two = (
            v.toarray() if name in ("user", "before") else v for v in (value, getattr(joined, name))
        )
        assert np.array_equal(one, two), name
    alone = data.take(np.array([2]))
    assert np.array_equal(alone.whole_norm, batch.take(np.array([2])).whole_norm)


def test_pairs_show_what_either_shows(trained: LocalPolicy) -> None:
    known = supervision(trained, WHOLE)
    more = known.with_pairs(10.0, seed=0)
    pairs = more.gold[len(WHOLE) :]
    assert len(pairs) == 40
    assert more.data.size == len(more.gold) == len(more.whole) == 44
    assert not more.whole[len(WHOLE) :].any()
    union = {int(a | b) for a in known.gold for b in known.gold if int(a | b).bit_count() <= 3}
    assert set(pairs.tolist()) <= union
    assert len(set(pairs.tolist())) > 3
    for n, mask in enumerate(pairs.tolist(), start=len(WHOLE)):
        shown = more.evidence[more.data.turns_of(np.array([n]))].any(axis=0)
        named = [c for c in MARKETING.ids(mask) if c != "none"]
        assert [MARKETING.all_ids[c] for c in np.flatnonzero(shown)] == named


def test_pairs_are_drawn_by_the_seed(trained: LocalPolicy) -> None:
    known = supervision(trained, WHOLE)
    first, again, other = (known.with_pairs(5.0, seed).gold.tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_composed_conversations_make_no_pairs(
    trained: LocalPolicy, train: Dataset, share: float
) -> None:
    known = supervision(trained, list(train[:50]))
    assert known.with_pairs(share, 0) is known


def test_conversations_with_too_much_in_them_make_no_pairs(trained: LocalPolicy) -> None:
    full = [
        make_example("a", [BRAND, TOOLS, ROLE], "One."),
        make_example("b", [STYLE, BRAND, ROLE], "Two."),
    ]
    known = supervision(trained, full)
    assert known.with_pairs(3.0, 0) is known


def test_whole_and_rare_conversations_weigh_more(trained: LocalPolicy, train: Dataset) -> None:
    known = supervision(trained, [*WHOLE, *train[:60]])
    even = known.weights(FAMILY, 0.0, 3.0)
    assert even.mean() == pytest.approx(1)
    assert even[:4] == pytest.approx(np.full(4, 3 * even[10]))
    balanced = known.weights(FAMILY, 1.0, 1.0)
    masks, counts = np.unique(known.gold, return_counts=True)
    single = {int(m): c for m, c in zip(masks, counts, strict=True) if int(m).bit_count() < 2}
    by_mask = {m: balanced[known.gold == m] for m in single}
    assert all(np.ptp(w) < 1e-5 for w in by_mask.values())
    frequency = FAMILY.indicator_of(FAMILY.closest(known.gold)).mean(axis=0)
    bit = {m: 12 if m == 0 else m.bit_length() - 1 for m in single}
    ratio = [by_mask[m][0] * frequency[bit[m]] for m in single]
    assert np.allclose(ratio, ratio[0], rtol=1e-4)
