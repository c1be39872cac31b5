"""The two text spaces, and Gymnasium's vector utilities over them."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector.utils import (
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    iterate,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_env import Taxonomy, load_taxonomy, parse_answer
from memroute_env.spaces import AnswerSpace, ConversationSpace
from tests.properties.strategies import taxonomies

MARKETING = load_taxonomy("marketing")
SPACES = [ConversationSpace(), ConversationSpace(7), AnswerSpace(MARKETING)]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT)
def test_every_string_that_is_not_too_long_is_contained(text: str) -> None:
    assert text in ConversationSpace()
    assert text in AnswerSpace(MARKETING)
    assert (text in ConversationSpace(10)) == (len(text) <= 10)


@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize("value", [None, 3, b"none", ["a"], ("a",), np.array("a")])
def test_nothing_but_a_string_is_contained(space: gym.Space[Any], value: Any) -> None:
    assert value not in space


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_samples_are_members_and_follow_the_seed(space: gym.Space[Any]) -> None:
    space.seed(4)
    first = [space.sample() for _ in range(20)]
    space.seed(4)
    assert [space.sample() for _ in range(20)] == first
    assert all(text in space for text in first)
    assert len(set(first)) > 1


@settings(max_examples=40, deadline=None)
@given(taxonomies(max_storing=8), st.integers(0, 2**31 - 1))
def test_a_sampled_answer_is_well_formed(taxonomy: Taxonomy, seed: int) -> None:
    space = AnswerSpace(taxonomy, seed)
    for _ in range(10):
        answer = parse_answer(space.sample(), taxonomy)
        assert answer.mask is not None
        assert answer.mask.bit_count() <= 3


def test_every_small_set_is_sampled() -> None:
    space = AnswerSpace(MARKETING, seed=0)
    assert len({space.sample() for _ in range(5_000)}) == 299


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_masks_are_refused(space: gym.Space[Any]) -> None:
    with pytest.raises(ValueError, match="mask"):
        space.sample(mask=np.ones(3))


@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_equal_and_goes_on_alike(space: gym.Space[Any], clone: Any) -> None:
    space.seed(9)
    space.sample()
    again = clone(space)
    assert again == space
    assert hash(again) == hash(space)
    assert again.sample() == space.sample()


def test_equality_looks_at_limits_and_taxonomy(support: Taxonomy) -> None:
    assert ConversationSpace(5) == ConversationSpace(5, seed=3)
    assert ConversationSpace(5) != ConversationSpace(6)
    assert AnswerSpace(MARKETING) == AnswerSpace(MARKETING, seed=1)
    assert AnswerSpace(MARKETING) != AnswerSpace(support)
    assert ConversationSpace(4_096) != AnswerSpace(MARKETING)
    assert AnswerSpace(MARKETING) != ConversationSpace(4_096)
    with pytest.raises(ValueError, match="at least 1"):
        ConversationSpace(0)


def test_the_spaces_nest_in_gymnasiums_own() -> None:
    nested = gym.spaces.Dict({"text": ConversationSpace(), "n": gym.spaces.Discrete(3)})
    nested.seed(0)
    assert nested.sample() in nested
    assert not ConversationSpace().is_np_flattenable


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_a_batch_is_a_tuple_of_strings(space: gym.Space[Any]) -> None:
    batch = batch_space(space, 3)
    batch.seed(1)
    texts = batch.sample()
    assert isinstance(texts, tuple)
    assert texts in batch
    assert texts[:2] not in batch
    assert list(iterate(batch, texts)) == list(texts)
    assert concatenate(space, texts, create_empty_array(space, 3)) == texts
    assert create_empty_array(space, 3) in batch
    assert pickle.loads(pickle.dumps(batch)) == batch
    assert copy.deepcopy(batch) == batch
    assert batch == batch_space(space, 3)
    assert batch != batch_space(space, 2)


def test_a_batch_of_a_seeded_space_is_reproducible() -> None:
    one, two = (batch_space(AnswerSpace(MARKETING, seed=5), 3) for _ in range(2))
    texts = one.sample()
    assert texts == two.sample()
    assert len(set(texts)) > 1


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_TEXT, min_size=3, max_size=3))
def test_shared_memory_returns_what_was_written(texts: list[str]) -> None:
    space = ConversationSpace(60)
    memory = create_shared_memory(space, 3, multiprocessing.get_context())
    assert read_from_shared_memory(space, memory, 3) == ("", "", "")
    for i, text in enumerate(texts):
        write_to_shared_memory(space, i, text, memory)
    assert read_from_shared_memory(space, memory, 3) == tuple(texts)
    # A shorter text leaves nothing of the longer one behind.
    write_to_shared_memory(space, 1, "é", memory)
    assert read_from_shared_memory(space, memory, 3) == (texts[0], "é", texts[2])


@pytest.mark.parametrize("text", ["\ud800 lone", "\U0001f9e0" * 60, "\x00\x00", ""])
def test_shared_memory_holds_the_longest_and_oddest(text: str) -> None:
    space = ConversationSpace(60)
    memory = create_shared_memory(space, 1, multiprocessing.get_context())
    write_to_shared_memory(space, 0, text, memory)
    assert read_from_shared_memory(space, memory, 1) == (text,)
