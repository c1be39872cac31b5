"""The policy over sets: a distribution, its exact gradients, and its decisions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from memroute_agents.agent import AgentContext, create_agent
from memroute_agents.local.encoding import Encoded
from memroute_agents.local.objectives import CrossEntropy, ExactReward, SampledReward
from memroute_agents.local.policy import Evidence, LocalPolicy
from memroute_agents.local.router import LocalAgent
from memroute_agents.local.sets import SetFamily, softmax
from memroute_env import AgentError, Conversation, Dataset, Reward, Taxonomy, load_taxonomy

MARKETING = load_taxonomy("marketing")


def listed(policy: LocalPolicy) -> SetFamily:
    assert isinstance(policy.family, SetFamily)
    return policy.family


def batch_of(policy: LocalPolicy, dataset: Dataset, n: int = 6) -> Encoded:
    return policy.encoder([example.conversation for example in dataset[:n]])


# The distribution ---------------------------------------------------------------------------------


def test_candidates_are_the_discrete_actions() -> None:
    family = SetFamily(MARKETING)
    assert family.masks.tolist() == list(MARKETING.small_sets())
    assert len(family) == 299
    for mask, row, size in zip(family.masks, family.indicator_KC, family.sizes_KZ, strict=True):
        named = {c for c, has in zip(MARKETING.all_ids, row, strict=True) if has}
        assert named == set(MARKETING.ids(int(mask)))
        assert size.argmax() == int(mask).bit_count()
    expected = Reward(MARKETING).table(family.masks, family.masks)
    assert np.allclose(family.payoff_KK, expected, atol=1e-6)


def test_a_gold_set_outside_the_family_maps_to_the_best_paid_candidate() -> None:
    family, reward = SetFamily(MARKETING), Reward(MARKETING)
    for mask in (15, 4095, 0b111100000000):
        position = family.closest(np.array([mask]))[0]
        paid = reward.score_masks(family.masks, np.full(299, mask))
        assert paid[position] == paid.max()
    assert family.closest(family.masks).tolist() == list(range(299))


def test_an_untrained_policy_is_uniform(random_policy: LocalPolicy, train: Dataset) -> None:
    policy = LocalPolicy.untrained(random_policy.family, random_policy.encoder)
    assert np.allclose(softmax(policy.logits(batch_of(policy, train))), 1 / 299)


def test_probabilities_are_a_distribution(trained: LocalPolicy, held_out: Dataset) -> None:
    probabilities = softmax(trained.logits(batch_of(trained, held_out, 100)))
    assert probabilities.shape == (100, 299)
    assert (probabilities >= 0).all()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_decisions_maximise_what_they_are_asked_to(trained: LocalPolicy, held_out: Dataset) -> None:
    batch, family = batch_of(trained, held_out, 40), listed(trained)
    probabilities = softmax(trained.logits(batch))
    masks, reward = family.masks, family.reward
    scores = reward.score_masks(masks[:, None], masks[None, :], components=True)
    for objective, value in (
        ("reward", scores.total),
        ("f1", scores.f1),
        ("exact", np.eye(299)),
    ):
        decided = trained.decide(batch, objective)  # type: ignore[arg-type]
        expected = value @ probabilities.T.astype(float)
        for n, mask in enumerate(decided):
            k = int(np.flatnonzero(masks == mask)[0])
            assert expected[k, n] == pytest.approx(expected[:, n].max(), abs=1e-5)


def test_attention_is_a_distribution_over_sentences_and_turns(
    trained: LocalPolicy, held_out: Dataset
) -> None:
    batch = batch_of(trained, held_out, 30)
    forward = trained.forward(batch)
    assert forward.sentences.shape == (len(batch.row_norm), 13)
    assert forward.turns.shape == (len(batch.turns), 13)
    attention = forward.attention(batch)
    assert (attention >= forward.turns).all()
    sums = np.add.reduceat(attention, batch.turn_starts[:-1], axis=0)
    assert np.allclose(sums, 1, atol=1e-5)


def test_rows_turns_and_conversations_fit_together(trained: LocalPolicy, held_out: Dataset) -> None:
    batch = batch_of(trained, held_out, 30)
    for n, example in enumerate(held_out[:30]):
        mine = slice(batch.turn_starts[n], batch.turn_starts[n + 1])
        said = [t for t, turn in enumerate(example.conversation.turns) if turn.role == "user"]
        assert batch.turns[mine].tolist() == said
        assert batch.turn_rows[batch.turn_starts[n]] == batch.starts[n]
    assert batch.turn_rows[-1] == batch.starts[-1] == len(batch.row_norm)
    chosen = np.array([7, 0, 29])
    taken, alone = batch.take(chosen), trained.encoder([held_out[7].conversation])
    assert taken.turns[: len(alone.turns)].tolist() == alone.turns.tolist()
    assert taken.turn_rows[: len(alone.turn_rows)].tolist() == alone.turn_rows.tolist()
    assert np.allclose(trained.logits(taken), trained.logits(batch)[chosen], atol=1e-5)


# Gradients ----------------------------------------------------------------------------------------


def double(policy: LocalPolicy) -> LocalPolicy:
    """The same policy in float64, for differences."""
    copied = replace(policy, parameters=policy.parameters.copy())
    for name, array in copied.parameters.arrays().items():
        setattr(copied.parameters, name, array.astype(np.float64))
    return copied


def numeric(loss: Callable[[], float], array: np.ndarray, places: list[tuple[int, ...]]) -> list:
    step, found = 1e-3, []
    for place in places:
        kept = array[place]
        array[place] = kept + step
        above = loss()
        array[place] = kept - step
        below = loss()
        array[place] = kept
        found.append((above - below) / (2 * step))
    return found


@pytest.mark.parametrize("objective", ["cross-entropy", "smoothed", "exact reward", "regularised"])
def test_the_gradient_is_that_of_the_loss(
    objective: str, random_policy: LocalPolicy, train: Dataset
) -> None:
    policy = double(random_policy)
    batch = batch_of(policy, train)
    family, chosen = listed(policy), np.arange(6)
    targets = family.closest(train.gold_masks)
    payoff = family.payoff_KK.astype(np.float64)
    reference = np.log(
        softmax(np.random.default_rng(3).normal(size=(len(train), 299)).astype(np.float32))
    )
    weights = np.linspace(0.5, 1.5, len(train))
    made = {
        "cross-entropy": CrossEntropy(targets, weights, payoff),  # type: ignore[arg-type]
        "smoothed": CrossEntropy(targets, weights, payoff, 0.2),  # type: ignore[arg-type]
        "exact reward": ExactReward(targets, payoff),  # type: ignore[arg-type]
        "regularised": ExactReward(targets, payoff, reference, 0.3, 0.1),  # type: ignore[arg-type]
    }[objective]

    def loss() -> float:
        return made(chosen, policy.forward(batch).logits.astype(np.float64)).value  # type: ignore[arg-type]

    forward = policy.forward(batch)
    gradient = policy.gradient(batch, forward, made(chosen, forward.logits).gradient)
    rng = np.random.default_rng(1)
    for name, array in policy.parameters.arrays().items():
        found = gradient.arrays()[name]
        assert found.shape == array.shape
        # The largest entries and some others.
        order = np.abs(found).ravel().argsort()[::-1]
        flat = [*order[:6], *rng.choice(found.size, min(6, found.size), replace=False)]
        places = [tuple(int(i) for i in np.unravel_index(f, found.shape)) for f in flat]
        expected = numeric(loss, array, places)
        for place, value in zip(places, expected, strict=True):
            assert found[place] == pytest.approx(value, rel=0.05, abs=3e-4), (name, place)


def test_the_gradient_of_the_evidence_is_that_of_its_loss(
    random_policy: LocalPolicy, train: Dataset
) -> None:
    policy = double(random_policy)
    batch = batch_of(policy, train)
    evidence = Evidence(np.random.default_rng(2).random((len(batch.turns), 13)) < 0.3, 2.0)
    first = batch.turn_starts[:-1]
    has = np.logical_or.reduceat(evidence.turns, first, axis=0)
    assert 0 < has.mean() < 1

    def loss() -> float:
        attention = policy.forward(batch).attention(batch)
        on_evidence = np.add.reduceat(np.where(evidence.turns, attention, 0), first, axis=0)
        # Scores are over tau: the step of a weight is 1 / tau of that of a score.
        return policy.pooling * -2.0 * float(np.log(on_evidence[has]).sum()) / batch.size

    forward = policy.forward(batch)
    gradient = policy.gradient(batch, forward, np.zeros_like(forward.logits), evidence).linear
    assert not gradient[:, :13].any()
    largest = np.abs(gradient).ravel().argsort()[::-1][:12]
    places = [tuple(int(i) for i in np.unravel_index(f, gradient.shape)) for f in largest]
    expected = numeric(loss, policy.parameters.linear, places)
    for place, value in zip(places, expected, strict=True):
        assert gradient[place] == pytest.approx(value, rel=0.05, abs=3e-4), place


def test_the_sampled_gradient_converges_to_the_exact_one(
    random_policy: LocalPolicy, train: Dataset
) -> None:
    batch = batch_of(random_policy, train, 3)
    logits = random_policy.forward(batch).logits
    family = listed(random_policy)
    targets = family.closest(train.gold_masks)
    exact = ExactReward(targets, family.payoff_KK)(np.arange(3), logits)

    def play(chosen: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return family.payoff_KK[answers, targets[chosen]].astype(np.float64)

    def error(groups: int) -> float:
        sampled = SampledReward(play, 64, (5,))
        mean = np.mean([sampled(np.arange(3), logits).gradient for _ in range(groups)], axis=0)
        return float(np.linalg.norm(mean - exact.gradient) / np.linalg.norm(exact.gradient))

    few, many = error(10), error(1_000)
    assert many < 0.12
    # A hundred times the samples: about a tenth of the error, unless the estimate is biased.
    assert many < few / 4


def test_importance_weights_correct_for_another_behaviour(
    random_policy: LocalPolicy, train: Dataset
) -> None:
    batch = batch_of(random_policy, train, 2)
    logits = random_policy.forward(batch).logits
    family = listed(random_policy)
    targets = family.closest(train.gold_masks)
    exact = ExactReward(targets, family.payoff_KK)(np.arange(2), logits).gradient
    behaviour = 0.8 * logits

    def play(chosen: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return family.payoff_KK[answers, targets[chosen]].astype(np.float64)

    sampled = SampledReward(play, 512, (6,))
    total = np.zeros_like(exact)
    for _ in range(150):
        drawn = sampled.draw(np.arange(2), behaviour)
        total += sampled.surrogate(np.arange(2), logits, behaviour, *drawn).gradient
    assert np.linalg.norm(total / 150 - exact) < 0.2 * np.linalg.norm(exact)


# Routing ------------------------------------------------------------------------------------------


def test_a_batch_answers_like_its_items(trained: LocalPolicy, held_out: Dataset) -> None:
    agent = LocalAgent(trained)
    conversations = [example.conversation for example in held_out[:60]]
    whole = agent.route(conversations)
    for one, expected in zip(conversations, whole, strict=True):
        (alone,) = agent.route([one])
        assert alone.categories == expected.categories
        assert alone.evidence == expected.evidence
        assert alone.scores is not None
        assert expected.scores is not None
        for name, score in alone.scores.items():
            assert score == pytest.approx(expected.scores[name], abs=1e-4)
    assert agent.route([]) == []


def test_scores_are_marginals_and_evidence_is_of_the_users_turns(
    trained: LocalPolicy, held_out: Dataset
) -> None:
    conversations = [example.conversation for example in held_out]
    for conversation, decision in zip(
        conversations, LocalAgent(trained).route(conversations), strict=True
    ):
        assert decision.scores is not None
        assert list(decision.scores) == list(MARKETING.all_ids)
        assert all(-1e-6 <= score <= 1 + 1e-5 for score in decision.scores.values())
        assert 1 - 1e-4 <= sum(decision.scores.values()) <= 3 + 1e-4
        stored = [c for c in decision.categories if c != "none"]
        assert list(decision.evidence) == stored
        for turns in decision.evidence.values():
            assert turns
            assert all(conversation.turns[t].role == "user" for t in turns)
        assert decision.latency_s is not None


def test_odd_conversations_are_routed(trained: LocalPolicy) -> None:
    odd = [
        [{"role": "assistant", "content": "only me"}],
        [{"role": "user", "content": "?"}],
        [{"role": "user", "content": "\u3000\x00 東京 \U0001f9e0"}],
        [{"role": "user", "content": "word " * 20_000}],
        [{"role": "user", "content": "x" * 100_000}],
        [{"role": "user", "content": "hi.\n" * 3_000}],
    ]
    conversations = [Conversation.model_validate(turns) for turns in odd]
    for decision in LocalAgent(trained).route(conversations):
        assert 0 <= MARKETING.mask(decision.categories) < 4096
        assert decision.scores is not None
        assert np.isfinite(list(decision.scores.values())).all()


def test_the_assistants_words_are_not_the_users(trained: LocalPolicy, held_out: Dataset) -> None:
    """Swapping the speakers changes the answer for most conversations."""
    agent, changed = LocalAgent(trained), 0
    for example in held_out[:60]:
        turns = [
            {"role": "assistant" if t.role == "user" else "user", "content": t.content}
            for t in example.conversation.turns
        ]
        swapped = Conversation.model_validate(turns)
        one, two = agent.route([example.conversation, swapped])
        changed += one.scores != two.scores
    assert changed > 50


def test_routing_from_many_threads_gives_the_same_answers(
    checkpoint: object, held_out: Dataset
) -> None:
    from memroute_agents.local.checkpoint import load_policy

    conversations = [example.conversation for example in held_out]
    agent = LocalAgent(load_policy(checkpoint))  # type: ignore[arg-type]
    batches = [conversations[i : i + 5] for i in range(0, len(conversations), 5)] * 4
    # Nothing has been computed yet: the threads race for the caches as well.
    with ThreadPoolExecutor(8) as pool:
        found = [[d.categories for d in ds] for ds in pool.map(agent.route, batches)]
    expected = [[d.categories for d in agent.route(batch)] for batch in batches]
    assert found == expected


def test_options_of_the_agent(trained: LocalPolicy, checkpoint: object, support: Taxonomy) -> None:
    with pytest.raises(AgentError, match="objective 'speed' is not one of reward, f1, exact"):
        LocalAgent(trained, "speed")  # type: ignore[arg-type]
    name = f"local:{checkpoint}"
    agent = create_agent(name, AgentContext(MARKETING, options={"objective": "exact"}))
    assert isinstance(agent, LocalAgent)
    assert agent.objective == "exact"
    with pytest.raises(AgentError, match="'marketing', the one in use is 'support'"):
        create_agent(name, AgentContext(support))
    with pytest.raises(AgentError, match="knows the taxonomy 'marketing', not 'support'"):
        create_agent("local", AgentContext(support))
