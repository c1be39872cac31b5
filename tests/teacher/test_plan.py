"""Balance is planned, and item i depends on the seed and i alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_data_gen.teacher.answers import Rejected
from memroute_data_gen.teacher.duplicates import DuplicateIndex
from memroute_data_gen.teacher.plan import make_brief, plan_item
from memroute_env.conversation import Example
from memroute_env.taxonomy import Taxonomy, load_taxonomy

MARKETING = load_taxonomy("marketing")


def counts_of(seed: int, num: int, taxonomy: Taxonomy = MARKETING) -> Counter[str]:
    return Counter(c for i in range(num) for c in plan_item(seed, i, taxonomy).categories)


@pytest.mark.parametrize("seed", [0, 7])
def test_a_plan_of_500_passes_the_gates_on_labels(seed: int) -> None:
    items = [plan_item(seed, index, MARKETING) for index in range(500)]
    storing = [item for item in items if item.categories != ("none",)]
    sizes = [len(item.categories) for item in storing]
    counts = counts_of(seed, 500)
    assert min(counts.values()) >= 20 and len(counts) == 13
    assert sum(size > 1 for size in sizes) >= 0.2 * len(items)
    assert counts["none"] >= 0.1 * len(items)
    assert sum(item.distractor for item in items) >= 0.3 * len(items)
    assert 1 <= sum(sizes) / len(sizes) <= 2
    turns = {make_brief(seed, item, 0).turns for item in items}
    assert min(turns) >= 3 and max(turns) <= 12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), blocks=st.integers(2, 8))
def test_no_category_is_planned_much_more_often_than_another(seed: int, blocks: int) -> None:
    counts = counts_of(seed, 100 * blocks)
    counts.pop("none")
    assert max(counts.values()) - min(counts.values()) <= 1 + 12 + 12
    assert max(counts.values()) <= 2 * min(counts.values())


@given(seed=st.integers(0, 2**31 - 1), index=st.integers(0, 10**6), draw=st.integers(0, 20))
def test_an_item_can_be_rebuilt_by_itself(seed: int, index: int, draw: int) -> None:
    item = plan_item(seed, index, MARKETING)
    assert item == plan_item(seed, index, MARKETING)
    assert make_brief(seed, item, draw) == make_brief(seed, item, draw)
    assert MARKETING.ids(MARKETING.mask(item.categories)) == item.categories
    assert make_brief(seed, item, draw).item == item


def test_a_taxonomy_of_two_storing_categories_can_be_planned_for() -> None:
    small = Taxonomy.from_dict(
        {
            "name": "small",
            "category": [
                {
                    "id": name,
                    "description": name,
                    "scope": "user",
                    "horizon": "long",
                    "lifetime_days": "never",
                }
                for name in ("likes", "plans")
            ]
            + [{"id": "nothing", "description": "nothing", "exclusive": True}],
        }
    )
    assert set(counts_of(0, 100, small)) == {"likes", "plans", "nothing"}


def example(name: str, *messages: str) -> Example:
    turns = [{"role": "user", "content": message} for message in messages]
    labels = {"categories": ["none"]}
    return Example.model_validate({"id": name, "conversation": turns, "labels": labels})


def test_likeness_is_refused_with_the_name_of_the_other_and_short_remarks_may_return() -> None:
    index = DuplicateIndex()
    index.add(
        example("a", "The board wants the churn figures by Thursday at noon.", "Thanks, bye!")
    )
    index.check(example("b", "Could you shorten this paragraph about our new oven?", "thanks bye"))
    with pytest.raises(Rejected, match="repeated_utterance.*'a'|stands in a"):
        index.check(example("c", "the BOARD wants the churn figures by thursday, at noon"))
    with pytest.raises(Rejected, match="to a"):
        index.check(example("d", "So the board wants the churn figures by Thursday at noon, ok"))
