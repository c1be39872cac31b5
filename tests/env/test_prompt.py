"""Prompts: written from the taxonomy, and never a trace of the gold set."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from memroute_env import Dataset, Taxonomy, build_messages, load_dataset, parse_answer
from memroute_env.prompt import answer_text, system_prompt
from tests.properties.strategies import taxonomies, taxonomy_and_masks


def test_a_prompt_is_the_instructions_and_the_conversation(small: Dataset) -> None:
    system, user = build_messages(small[0].conversation, small.taxonomy)
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"] == system_prompt(small.taxonomy)
    assert small[0].conversation.to_text() in user["content"]


def test_the_labels_change_nothing(small: Dataset, marketing: Taxonomy) -> None:
    for mask in (0, 1, 7, 4095):
        example = small[0]
        other = example.model_copy(
            update={
                "labels": example.labels.model_copy(
                    update={
                        "categories": marketing.ids(mask),
                        "evidence": {"user.role_context": (0,)},
                        "rationale": "a telling rationale",
                    }
                )
            }
        )
        expected = build_messages(example.conversation, marketing)
        assert build_messages(other.conversation, marketing) == expected
        assert build_messages(other, marketing) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shipped_conversations_prompts_name_no_gold_and_no_rationale(split: str) -> None:
    dataset = load_dataset("marketing", split)
    for example in dataset[:500]:
        _, user = build_messages(example.conversation, dataset.taxonomy)
        asked = user["content"]
        assert not any(category_id in asked for category_id in dataset.taxonomy.all_ids[:-1])
        assert example.id not in asked
        rationale = example.labels.rationale.strip()
        assert not rationale or rationale not in asked


@settings(max_examples=40, deadline=None)
@given(taxonomies())
def test_the_instructions_describe_every_category(taxonomy: Taxonomy) -> None:
    prompt = system_prompt(taxonomy)
    for category in taxonomy.categories:
        assert f"- {category.id}: {category.description}" in prompt


@settings(max_examples=60, deadline=None)
@given(taxonomy_and_masks(1))
def test_the_taught_answer_reads_back(drawn: tuple[Taxonomy, list[int]]) -> None:
    taxonomy, (mask,) = drawn
    assert parse_answer(answer_text(mask, taxonomy), taxonomy).mask == mask
