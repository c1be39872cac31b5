"""Agents to compare with: random, constant, keyword, oracle, and a majority vote."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import log

import numpy as np

from memroute_agents.agent import (
    Agent,
    AgentContext,
    RoutingDecision,
    checked_route,
    close_agent,
    create_agent,
    register_agent,
)
from memroute_env.conversation import Conversation
from memroute_env.datasets import Dataset
from memroute_env.errors import AgentError
from memroute_env.reward import Reward
from memroute_env.taxonomy import Taxonomy

__all__ = [
    "ConstantAgent",
    "KeywordAgent",
    "MajorityAgent",
    "OracleAgent",
    "RandomAgent",
    "best_constant",
]


class RandomAgent:
    """Draws a set from the training split's label marginal, or uniformly from the small sets.

    The draw for a conversation depends on the seed and its text alone: batching changes nothing.
    """

    version = "1"

    def __init__(self, taxonomy: Taxonomy, masks: Sequence[int], seed: int = 0) -> None:
        """Draw from `masks`, with repetitions as weights."""
        self.taxonomy, self.seed, self._masks = taxonomy, seed, tuple(masks)

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """One draw for each conversation."""
        decisions = []
        for conversation in conversations:
            digest = hashlib.sha256(f"{self.seed}\n{conversation.to_text()}".encode()).digest()
            place = int.from_bytes(digest[:8], "big") * len(self._masks) >> 64
            decisions.append(RoutingDecision(self.taxonomy.ids(self._masks[place])))
        return decisions


class ConstantAgent:
    """Gives the same answer to everything."""

    version = "1"

    def __init__(self, categories: tuple[str, ...]) -> None:
        """Answer `categories`."""
        self.categories = categories

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """The constant answer, once a conversation."""
        return [RoutingDecision(self.categories)] * len(conversations)


def best_constant(dataset: Dataset) -> tuple[int, float]:
    """The single answer with the highest mean reward on a dataset, over all small sets.

    Returns:
        Its mask and the mean reward.
    """
    masks, counts = np.unique(dataset.gold_masks, return_counts=True)
    candidates = np.array(dataset.taxonomy.small_sets())
    mean = Reward(dataset.taxonomy).table(candidates, masks) @ counts / counts.sum()
    best = int(mean.argmax())
    return int(candidates[best]), float(mean[best])


_WORD = re.compile(r"[a-z][a-z'-]+")


class KeywordAgent:
    """Word lists read off the training data: the rule-based router that teams write first.

    A word speaks for a category if it is at least `lift` times as frequent in conversations of the
    category as elsewhere; a category is answered when the summed log-lifts of the words in the
    user's turns reach a threshold that was chosen on the training data.
    """

    version = "1"

    def __init__(self, dataset: Dataset, words_per_category: int = 40) -> None:
        """Read the word lists off `dataset`."""
        self.taxonomy = dataset.taxonomy
        documents = [_words(example.conversation) for example in dataset]
        frequency = Counter(word for words in documents for word in words)
        masks = dataset.gold_masks
        self._weights: list[dict[str, float]] = []
        for bit in range(self.taxonomy.num_storing):
            inside = [
                words for words, mask in zip(documents, masks, strict=True) if mask >> bit & 1
            ]
            counts = Counter(word for words in inside for word in words)
            lifts = {}
            for word, count in counts.items():
                rest = (frequency[word] - count + 1) / (len(documents) - len(inside) + 2)
                lift = (count + 1) / (len(inside) + 2) / rest
                if count >= 5 and lift > 2:
                    lifts[word] = log(lift) * (1 - 1 / count)
            best = sorted(lifts, key=lambda w: (-lifts[w] * log(1 + counts[w]), w))
            self._weights.append({word: lifts[word] for word in best[:words_per_category]})
        scores = np.array([self._score(words) for words in documents])
        thresholds = np.linspace(0.5, 6, 23)
        rewards = [
            Reward(self.taxonomy).score_masks(self._masks(scores, t), masks).mean()
            for t in thresholds
        ]
        self._threshold = float(thresholds[int(np.argmax(rewards))])

    def _score(self, words: frozenset[str]) -> list[float]:
        return [sum(lists.get(word, 0.0) for word in words) for lists in self._weights]

    def _masks(self, scores_NC: np.ndarray, threshold: float) -> np.ndarray:
        """At most the three best categories above the threshold."""
        rank = (-scores_NC).argsort(axis=1, kind="stable").argsort(axis=1)
        chosen = (scores_NC >= threshold) & (rank < 3)
        return (chosen << np.arange(chosen.shape[1])).sum(axis=1)

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """Match every conversation against the word lists."""
        if not conversations:
            return []
        scores = np.array([self._score(_words(c)) for c in conversations])
        return [
            RoutingDecision(self.taxonomy.ids(int(mask)))
            for mask in self._masks(scores, self._threshold)
        ]


def _words(conversation: Conversation) -> frozenset[str]:
    return frozenset(_WORD.findall(" ".join(conversation.user_texts).lower()))


class OracleAgent:
    """Answers with the gold set: the ceiling of every table."""

    version = "1"

    def __init__(self, dataset: Dataset) -> None:
        """Remember the gold answers of `dataset`, by conversation."""
        self._answers: Mapping[str, tuple[str, ...]] = {
            example.conversation.to_text(): dataset.taxonomy.ids(int(mask))
            for example, mask in zip(dataset, dataset.gold_masks, strict=True)
        }

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """Look the gold answers up.

        Raises:
            AgentError: For a conversation that is not of the dataset.
        """
        try:
            return [RoutingDecision(self._answers[c.to_text()]) for c in conversations]
        except KeyError:
            raise AgentError("the oracle knows only the conversations of its dataset") from None


class MajorityAgent:
    """A vote: every category that more than half of the agents name; otherwise store nothing.

    An agent whose call failed has no vote; where more than half of them failed, so does the whole.
    """

    version = "1"

    def __init__(self, taxonomy: Taxonomy, agents: Mapping[str, Agent]) -> None:
        """Vote among `agents`."""
        if len(agents) < 2:
            raise AgentError("majority needs at least two agents: majority:local+keyword+constant")
        self.taxonomy, self._agents = taxonomy, dict(agents)
        self._parser = Reward(taxonomy).parser("lenient")

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """Ask everyone, count."""
        answers = [
            checked_route(agent, conversations, name) for name, agent in self._agents.items()
        ]
        return [self._count(votes) for votes in zip(*answers, strict=True)]

    def _count(self, votes: Sequence[RoutingDecision]) -> RoutingDecision:
        """One decision from those of all agents on one conversation."""
        failed = [vote.error for vote in votes if vote.error]
        if 2 * len(failed) > len(votes):
            said = f"{len(failed)} of {len(votes)} agents failed; the first: {failed[0]}"
            return RoutingDecision(error=said)
        masks = [
            self._parser(vote.action, truncated=vote.truncated).mask or 0
            for vote in votes
            if not vote.error
        ]
        mask = sum(
            1 << bit
            for bit in range(self.taxonomy.num_storing)
            if 2 * sum(m >> bit & 1 for m in masks) > len(masks)
        )
        return RoutingDecision(self.taxonomy.ids(mask))

    def close(self) -> None:
        """Close every agent that can be closed."""
        with ExitStack() as stack:
            for agent in self._agents.values():
                stack.callback(close_agent, agent)


def _make_random(argument: str, context: AgentContext) -> Agent:
    if argument not in ("", "uniform"):
        raise AgentError(f"random takes no argument but 'uniform', got {argument!r}")
    if argument == "uniform" or context.load_train is None:
        masks: Sequence[int] = context.taxonomy.small_sets()
    else:
        masks = context.train().gold_masks.tolist()
    return RandomAgent(context.taxonomy, masks, context.seed)


def _make_constant(argument: str, context: AgentContext) -> Agent:
    if argument:
        return ConstantAgent(context.taxonomy.ids(context.taxonomy.mask(argument.split("+"))))
    return ConstantAgent(context.taxonomy.ids(best_constant(context.train())[0]))


def _make_keyword(argument: str, context: AgentContext) -> Agent:
    return KeywordAgent(context.train())


def _make_oracle(argument: str, context: AgentContext) -> Agent:
    if context.dataset is None:
        raise AgentError("the oracle needs the dataset that it is to answer")
    return OracleAgent(context.dataset)


def _make_majority(argument: str, context: AgentContext) -> Agent:
    names = [name for name in argument.split("+") if name]
    for name, times in Counter(names).items():
        if times > 1:
            raise AgentError(
                f"majority names {name!r} {times} times; at least two different agents are needed, "
                "each with one vote"
            )
    return MajorityAgent(context.taxonomy, {name: create_agent(name, context) for name in names})


register_agent("random", _make_random)
register_agent("constant", _make_constant)
register_agent("keyword", _make_keyword)
register_agent("oracle", _make_oracle)
register_agent("majority", _make_majority)
