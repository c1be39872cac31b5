"""The specification of the reward, as properties."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from gymnasium.error import InvalidAction
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_env import OptionError, Reward, RewardConfig, Taxonomy, TaxonomyError, load_taxonomy
from memroute_env.errors import UnknownCategoryError
from memroute_env.masks import pack_masks
from tests.properties.slow_reward import slow_score
from tests.properties.strategies import taxonomies, taxonomy_and_masks

MARKETING = load_taxonomy("marketing")
REWARD = Reward(MARKETING)


def properties_of(taxonomy: Taxonomy) -> tuple[dict[str, str], dict[str, str]]:
    return (
        {c.id: str(c.horizon) for c in taxonomy.categories},
        {c.id: c.scope for c in taxonomy.categories},
    )


def test_equals_the_obvious_implementation_on_every_pair() -> None:
    """All 4,096 predictions against all 299 gold sets of at most three, or none."""
    horizons, scopes = properties_of(MARKETING)
    gold = np.array(MARKETING.small_sets())
    predicted = np.arange(MARKETING.num_masks)
    scores = REWARD.score_masks(predicted[:, None], gold[None, :], components=True)
    sets = [set(MARKETING.ids(m)) for m in predicted.tolist()]
    gold_sets = [set(MARKETING.ids(m)) for m in gold.tolist()]
    slow = np.array([[slow_score(p, g, horizons, scopes) for g in gold_sets] for p in sets])
    for k, column in enumerate(scores):
        assert np.abs(column - slow[:, :, k]).max() <= 1e-15, k


@settings(max_examples=150, deadline=None)
@given(taxonomy_and_masks(2))
def test_equals_the_obvious_implementation_on_random_taxonomies(
    drawn: tuple[Taxonomy, list[int]],
) -> None:
    taxonomy, (predicted, gold) = drawn
    expected = slow_score(
        set(taxonomy.ids(predicted)), set(taxonomy.ids(gold)), *properties_of(taxonomy)
    )
    assert Reward(taxonomy).score(predicted, gold)[:5] == pytest.approx(expected, abs=1e-15)


@settings(max_examples=150, deadline=None)
@given(taxonomy_and_masks(2))
def test_scalar_batched_and_text_paths_agree_bit_for_bit(
    drawn: tuple[Taxonomy, list[int]],
) -> None:
    taxonomy, (predicted, gold) = drawn
    reward = Reward(taxonomy)
    one = reward.score(predicted, gold)
    batch = reward.score_masks([predicted] * 3, [gold] * 3, components=True)
    assert [float(column[1]) for column in batch] == list(one[:5])
    assert reward.score_masks(np.array([predicted]), np.array([gold]))[0] == one.total
    assert reward.score_text(", ".join(taxonomy.ids(predicted)), gold) == one
    assert reward.score(taxonomy.ids(predicted), taxonomy.ids(gold)) == one
    bits = np.array([[predicted >> i & 1 for i in range(taxonomy.num_storing)]])
    assert reward.score_actions(bits, [gold])[0] == one.total


@settings(max_examples=200, deadline=None)
@given(taxonomy_and_masks(2))
def test_bounded_and_symmetric(drawn: tuple[Taxonomy, list[int]]) -> None:
    taxonomy, (a, b) = drawn
    forth, back = Reward(taxonomy).score(a, b), Reward(taxonomy).score(b, a)
    assert all(0 <= value <= 1 for value in forth[:5])
    assert forth[1:4] == back[1:4]


@settings(max_examples=200, deadline=None)
@given(taxonomy_and_masks(1))
def test_a_perfect_answer_scores_one_exactly_if_it_has_at_most_three(
    drawn: tuple[Taxonomy, list[int]],
) -> None:
    taxonomy, (mask,) = drawn
    total = Reward(taxonomy).score(mask, mask).total
    assert (total == 1.0) == (mask.bit_count() <= 3)


@settings(max_examples=200, deadline=None)
@given(taxonomy_and_masks(2), st.data())
def test_adding_a_wrong_category_never_raises_f1(
    drawn: tuple[Taxonomy, list[int]], data: st.DataObject
) -> None:
    taxonomy, (predicted, gold) = drawn
    wrong = [
        1 << i for i in range(taxonomy.num_storing) if not (predicted | gold) >> i & 1 and predicted
    ]
    if wrong:
        extra = data.draw(st.sampled_from(wrong))
        reward = Reward(taxonomy)
        assert reward.score(predicted | extra, gold).f1 <= reward.score(predicted, gold).f1


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(0, 100)] * 4).filter(any),
    taxonomy_and_masks(2),
    st.floats(-5, 0),
)
def test_holds_for_other_weights(
    raw: tuple[int, int, int, int], drawn: tuple[Taxonomy, list[int]], malformed: float
) -> None:
    taxonomy, (predicted, gold) = drawn
    weights = [w / sum(raw) for w in raw]
    names = ("f1_weight", "temporal_weight", "parity_weight", "efficiency_weight")
    config = RewardConfig(**dict(zip(names, weights, strict=True)), malformed=malformed)
    reward = Reward(taxonomy, config)
    one = reward.score(predicted, gold)
    assert 0 <= one.total <= 1
    assert one.total == pytest.approx(sum(w * c for w, c in zip(weights, one[1:5], strict=True)))
    assert reward.score(0, 0).total == 1.0
    assert reward.score_text("gibberish here", gold).total == malformed


SCRIPT = """
from memroute_env import Reward, load_taxonomy
import numpy as np, hashlib
r = Reward(load_taxonomy("marketing"))
t = r.score_masks(np.arange(4096)[:, None], np.array(r.taxonomy.small_sets())[None, :])
print(hashlib.sha256(t.tobytes()).hexdigest())
"""


def test_same_values_under_every_hash_seed_and_in_another_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(digests) == 1


def test_ties_between_horizons_follow_the_specified_order() -> None:
    # One long, one medium: long. Published code breaks this tie by hash order.
    tie = ["company.brand_core", "company.tools_config"]
    assert MARKETING.horizon(tie) == "long"
    assert REWARD.score("user.interaction_preferences", "company.brand_core").temporal == 0.0
    assert REWARD.score("company.tools_config", "company.performance_context").temporal == 0.5


@pytest.mark.parametrize("size", range(1, 13))
def test_efficiency_schedule(size: int) -> None:
    mask = (1 << size) - 1
    expected = {1: 1.0, 2: 1.0, 3: 1.0, 4: 0.7, 5: 0.4}.get(size, 0.0)
    assert REWARD.score(mask, 1).efficiency == expected


def test_malformed_scores_exactly_minus_one_with_no_component() -> None:
    assert REWARD.score_text("banana", 1)[:5] == (-1.0, 0.0, 0.0, 0.0, 0.0)
    assert "banana" in REWARD.score_text("banana", 1).malformed


def test_degenerate_answers_stay_far_below_the_oracle() -> None:
    """On any data no constant nor spraying answer comes near 1, unless the data is constant."""
    gold = np.array(MARKETING.small_sets())
    best = REWARD.table(np.arange(MARKETING.num_masks), gold).mean(axis=1).max()
    assert best < 0.62
    everything = REWARD.score_masks(np.full(len(gold), 4095), gold).mean()
    assert everything < 0.5


def test_bad_input_is_named() -> None:
    with pytest.raises(UnknownCategoryError, match="did you mean 'company.brand_core'"):
        REWARD.score(["company.brand_cor"], 1)
    with pytest.raises(TaxonomyError, match="empty set"):
        REWARD.score([], 1)
    with pytest.raises(TaxonomyError, match="stands alone"):
        REWARD.score(["none", "company.brand_core"], 1)
    with pytest.raises(TaxonomyError, match="4096"):
        REWARD.score(4096, 1)
    with pytest.raises(OptionError, match=r"predicted_N: mask -1"):
        REWARD.score_masks([-1], [0])
    with pytest.raises(OptionError, match=r"gold_N: mask 4096"):
        REWARD.score_masks([0] * 5000, [0] * 4999 + [4096])
    with pytest.raises(OptionError, match="dtype float64"):
        REWARD.score_masks([0.5], [0])
    with pytest.raises(OptionError, match="sum to 1"):
        RewardConfig(f1_weight=0.9)
    with pytest.raises(OptionError, match="strict, lenient"):
        REWARD.score_text("none", 0, "loose")  # type: ignore[arg-type]


OUTSIDE = [-(2**63), -8193, -8192, -4097, -4096, -1, 4096, 8191, 8192, 2**62, 2**63 - 1]


@pytest.mark.parametrize("components", [False, True])
@pytest.mark.parametrize("count", [1, 20_000])
@pytest.mark.parametrize("bad", OUTSIDE)
def test_no_mask_outside_the_range_is_ever_looked_up(
    bad: int, count: int, components: bool
) -> None:
    for other in (0, 4095, *OUTSIDE):
        masks = np.zeros(count, np.int64)
        others = np.full(count, other)
        masks[-1] = bad
        with pytest.raises(OptionError, match=r"_N: mask -?\d+ is not in \[0, 4096\)"):
            REWARD.score_masks(masks, others, components=components)  # type: ignore[call-overload]
        with pytest.raises(OptionError, match=r"_N: mask -?\d+ is not in \[0, 4096\)"):
            REWARD.score_masks(others, masks, components=components)  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint64])
def test_masks_of_any_integer_type_are_read(dtype: type) -> None:
    masks = np.arange(128)
    expected = REWARD.score_masks(masks, masks[::-1])
    assert (REWARD.score_masks(masks.astype(dtype), masks[::-1].astype(dtype)) == expected).all()


def test_shapes_broadcast() -> None:
    assert REWARD.score_masks([], []).shape == (0,)
    assert REWARD.score_masks(5, [[5], [6]]).shape == (2, 1)
    assert float(REWARD.score_masks(5, 5)) == 1.0
    table = REWARD.table(range(4096), range(3))
    assert table.shape == (4096, 3)
    assert table[7, 2] == REWARD.score(7, 2).total
    with pytest.raises(ValueError, match="broadcast"):
        REWARD.score_masks([1, 2], [1, 2, 3])


def test_large_batches_equal_small_ones() -> None:
    rng = np.random.default_rng(0)
    predicted, gold = rng.integers(0, 4096, (2, 20_011))
    whole = REWARD.score_masks(predicted, gold)
    parts = [REWARD.score_masks(predicted[i : i + 7], gold[i : i + 7]) for i in range(0, 20_011, 7)]
    assert (whole == np.concatenate(parts)).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.bool_])
def test_large_batches_of_bits_equal_their_masks(dtype: type) -> None:
    rng = np.random.default_rng(1)
    masks, gold = rng.integers(0, 4096, (2, 20_011))
    bits = (masks[:, None] >> np.arange(12) & 1).astype(dtype)
    assert (pack_masks(bits) == masks).all()
    assert (REWARD.score_actions(bits, gold) == REWARD.score_masks(masks, gold)).all()
    with pytest.raises(InvalidAction, match=r"\(20011, 11\)"):
        REWARD.score_actions(bits[:, 1:], gold)
    if dtype is not np.bool_:
        bits[-1, 3] = -1
        with pytest.raises(InvalidAction, match="0 or 1"):
            REWARD.score_actions(bits, gold)


@settings(max_examples=50, deadline=None)
@given(taxonomies(62), st.data())
def test_packing_bits_inverts_unpacking(taxonomy: Taxonomy, data: st.DataObject) -> None:
    masks = data.draw(st.lists(st.integers(0, taxonomy.num_masks - 1), max_size=9))
    bits = np.array(masks, np.int64).reshape(-1, 1) >> np.arange(taxonomy.num_storing) & 1
    for dtype in (np.int64, np.int8, np.bool_, np.float32):
        assert pack_masks(bits.astype(dtype)).tolist() == masks


def test_pickles_and_repeats() -> None:
    again = pickle.loads(pickle.dumps(REWARD))
    pairs = list(combinations(range(0, 4096, 511), 2))
    assert [again.score(*p) for p in pairs] == [REWARD.score(*p) for p in pairs]
