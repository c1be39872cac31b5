"""The agents to compare with: what each of them guarantees."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memroute_agents import Agent, RoutingDecision, create_agent
from memroute_agents.agent import AgentContext
from memroute_agents.baselines import (
    KeywordAgent,
    MajorityAgent,
    OracleAgent,
    RandomAgent,
    best_constant,
)
from memroute_env import (
    AgentError,
    Conversation,
    Dataset,
    Reward,
    Taxonomy,
    UnknownCategoryError,
    load_dataset,
    load_taxonomy,
)
from tests.conftest import make_example

MARKETING = load_taxonomy("marketing")
TEST = load_dataset("marketing", "test")
CONVERSATIONS = [example.conversation for example in TEST[:60]]


def context(dataset: Dataset = TEST, seed: int = 0) -> AgentContext:
    return AgentContext(dataset.taxonomy, dataset, seed, load_train=lambda: dataset)


def reward_of(agent: Agent, dataset: Dataset) -> float:
    decisions = agent.route([example.conversation for example in dataset])
    masks = [dataset.taxonomy.mask(d.categories) for d in decisions]
    return float(Reward(dataset.taxonomy).score_masks(masks, dataset.gold_masks).mean())


@pytest.mark.parametrize("name", ["random", "random:uniform", "constant", "keyword", "oracle"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_batching_changes_nothing(name: str, data: st.DataObject) -> None:
    agent = create_agent(name, context())
    whole = agent.route(CONVERSATIONS)
    order = data.draw(st.permutations(range(len(CONVERSATIONS))))
    size = data.draw(st.integers(1, 30))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        assert agent.route([CONVERSATIONS[i] for i in rows]) == [whole[i] for i in rows]
    assert agent.route([]) == []


def test_random_depends_on_the_seed_and_follows_the_training_labels() -> None:
    train = load_dataset("marketing", "train")
    one, two = (create_agent("random", context(train, seed)) for seed in (0, 1))
    conversations = [example.conversation for example in train[:3_000]]
    answers = [d.categories for d in one.route(conversations)]
    assert answers != [d.categories for d in two.route(conversations)]
    found, wanted = Counter(answers), Counter(e.labels.categories for e in train)
    for categories, count in wanted.most_common(5):
        assert found[categories] / 3_000 == pytest.approx(count / len(train), abs=0.03)


def test_uniform_random_reaches_every_small_set() -> None:
    agent = RandomAgent(MARKETING, MARKETING.small_sets())
    turns = [[{"role": "user", "content": f"message {i}"}] for i in range(4_000)]
    answers = {
        d.categories for d in agent.route([Conversation.model_validate(turn) for turn in turns])
    }
    assert len(answers) == 299


def test_the_constant_is_the_best_of_all_single_answers() -> None:
    mask, mean = best_constant(TEST)
    reward = Reward(MARKETING)
    means = {
        m: float(reward.score_masks([m] * len(TEST), TEST.gold_masks).mean())
        for m in MARKETING.small_sets()
    }
    assert mean == pytest.approx(max(means.values()))
    assert means[mask] == pytest.approx(mean)
    agent = create_agent("constant", context())
    assert {d.categories for d in agent.route(CONVERSATIONS)} == {MARKETING.ids(mask)}


def test_a_constant_can_be_named() -> None:
    agent = create_agent("constant:user.role_context+company.brand_core", context())
    expected = ("company.brand_core", "user.role_context")
    assert agent.route(CONVERSATIONS[:2]) == [RoutingDecision(expected)] * 2
    with pytest.raises(UnknownCategoryError, match="vibes"):
        create_agent("constant:vibes", context())


def test_the_oracle_is_the_ceiling(support: Taxonomy) -> None:
    assert reward_of(create_agent("oracle", context()), TEST) == 1.0
    shop = Dataset([make_example("a", ["shop.policy", "customer.tone"])], support)
    assert reward_of(OracleAgent(shop), shop) == 1.0
    with pytest.raises(AgentError, match="only the conversations of its dataset"):
        OracleAgent(shop).route(CONVERSATIONS[:1])
    with pytest.raises(AgentError, match="needs the dataset"):
        create_agent("oracle", AgentContext(MARKETING))


def test_keyword_beats_the_constant_and_is_far_from_the_oracle() -> None:
    train = load_dataset("marketing", "train")
    agent = KeywordAgent(train)
    assert best_constant(TEST)[1] + 0.1 < reward_of(agent, TEST) < 0.9
    sizes = [len(d.categories) for d in agent.route(CONVERSATIONS)]
    assert 1 <= min(sizes) <= max(sizes) <= 3


def test_keyword_reads_the_user_only() -> None:
    agent = KeywordAgent(load_dataset("marketing", "train"))
    said = CONVERSATIONS[0].user_texts[0]
    mute = Conversation.model_validate([{"role": "assistant", "content": said}])
    assert agent.route([mute])[0].categories == ("none",)


def test_agents_that_fit_need_training_data() -> None:
    bare = AgentContext(MARKETING, TEST)
    for name in ("constant", "keyword"):
        with pytest.raises(AgentError, match="--train-data"):
            create_agent(name, bare)
    # Random falls back to the uniform draw.
    assert len(create_agent("random", bare).route(CONVERSATIONS)) == 60


# Majority -----------------------------------------------------------------------------------------


class Says:
    def __init__(self, *categories: str, text: str | None = None) -> None:
        self.decision = RoutingDecision(categories, text=text)

    def route(self, conversations: list[Conversation]) -> list[RoutingDecision]:  # type: ignore[override]
        return [self.decision] * len(conversations)


A, B, C = "company.brand_core", "user.role_context", "user.session_history"


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([(A,), (A, B), (B, C)], (A, B)),
        ([(A,), (B,)], ("none",)),  # a tie stores nothing
        ([(A,), (B,), (C,)], ("none",)),
        ([("none",), (A,), (A,)], (A,)),
        ([("none",), ("none",), (A,)], ("none",)),
        ([(A, B), (A, B)], (A, B)),
    ],
)
def test_majority(votes: list[tuple[str, ...]], expected: tuple[str, ...]) -> None:
    agents = {str(i): Says(*vote) for i, vote in enumerate(votes)}
    agent = MajorityAgent(MARKETING, agents)  # type: ignore[arg-type]
    assert agent.route(CONVERSATIONS[:2]) == [RoutingDecision(expected)] * 2


def test_majority_reads_words_too() -> None:
    agents = {"a": Says(text=f"I'd say,\n{A}"), "b": Says(A), "c": Says(text="bananas")}
    agent = MajorityAgent(MARKETING, agents)  # type: ignore[arg-type]
    assert agent.route(CONVERSATIONS[:1])[0].categories == (A,)


FAILED = "the endpoint is down"


class Fails:
    def __init__(self) -> None:
        self.closed = 0

    def route(self, conversations: list[Conversation]) -> list[RoutingDecision]:
        return [RoutingDecision(error=FAILED)] * len(conversations)

    def close(self) -> None:
        self.closed += 1
        raise OSError("cannot be closed")


@pytest.mark.parametrize(
    ("agents", "expected"),
    [
        ([Says(A), Fails()], RoutingDecision((A,))),
        ([Says(A), Says(A, B), Fails()], RoutingDecision((A,))),
        ([Says(A), Says(A), Says(B), Fails()], RoutingDecision((A,))),
        (
            [Says(A), Fails(), Fails()],
            RoutingDecision(error=f"2 of 3 agents failed; the first: {FAILED}"),
        ),
    ],
)
def test_a_failed_call_is_no_vote_and_a_majority_of_them_a_failure(
    agents: list[Agent], expected: RoutingDecision
) -> None:
    agent = MajorityAgent(MARKETING, {str(i): a for i, a in enumerate(agents)})
    assert agent.route(CONVERSATIONS[:2]) == [expected] * 2


def test_majority_closes_everyone_even_if_one_cannot_be() -> None:
    first, second = Fails(), Fails()
    agent = MajorityAgent(MARKETING, {"a": first, "b": Says(A), "c": second})  # type: ignore[dict-item]
    with pytest.raises(OSError, match="cannot be closed"):
        agent.close()
    assert (first.closed, second.closed) == (1, 1)


def test_majority_gives_nobody_two_votes() -> None:
    with pytest.raises(AgentError, match="majority names 'oracle' 2 times"):
        create_agent("majority:oracle+oracle+constant", context())


def test_majority_by_name_needs_two_and_names_the_one_that_fails() -> None:
    agent = create_agent("majority:oracle+constant+keyword", context())
    assert len(agent.route(CONVERSATIONS)) == 60
    for name in ("majority", "majority:oracle", "majority:oracle+oracle"):
        with pytest.raises(AgentError, match="at least two"):
            create_agent(name, context())

    class Broken:
        def route(self, conversations: list[Conversation]) -> list[RoutingDecision]:
            raise OSError("gone")

    broken = MajorityAgent(MARKETING, {"x": Says(A), "y": Broken()})  # type: ignore[dict-item]
    with pytest.raises(AgentError, match="'y' raised OSError: gone"):
        broken.route(CONVERSATIONS[:1])


def test_every_baseline_answers_in_its_own_taxonomy(support: Taxonomy) -> None:
    shop = Dataset(
        [make_example(f"e{m}", list(support.ids(m)), f"number {m}") for m in range(32)], support
    )
    for name in ("random", "random:uniform", "constant", "keyword", "oracle",
                 "majority:constant+random"):  # fmt: skip
        agent = create_agent(name, context(shop))
        for decision in agent.route([e.conversation for e in shop]):
            assert 0 <= support.mask(decision.categories) < 32
    assert np.isfinite(best_constant(shop)[1])
