"""The evaluator: a sampling client plays the training environment on held-out conversations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tinker
from tinker_cookbook.completers import TinkerTokenCompleter, TokenCompleter
from tinker_cookbook.eval.evaluators import SamplingClientEvaluator
from tinker_cookbook.rl.rollouts import do_single_rollout

from memroute_agents.tinker.envs import RoutingEnv, make_renderer
from memroute_env.conversation import Example
from memroute_env.reward import Reward
from memroute_env.taxonomy import Taxonomy

__all__ = ["Played", "RoutingEvaluator", "play"]

MEANS = (
    "reward",
    "f1",
    "temporal",
    "parity",
    "efficiency",
    "exact",
    "malformed",
    "truncated",
    "categories",
)
"""Metrics that are means over examples."""


@dataclass(frozen=True)
class Played:
    """What a policy answered on N held-out conversations."""

    columns: dict[str, npt.NDArray[np.float64]]
    """Metric to its value on each example, shape (N,); the metrics of `MEANS`."""
    predicted_none: npt.NDArray[np.bool_]
    gold_none: npt.NDArray[np.bool_]
    tokens: int
    """Read and sampled."""

    def metrics(self, rows: npt.NDArray[np.intp] | None = None) -> dict[str, float]:
        """Means, and precision and recall of the exclusive category (0 where undefined).

        Args:
            rows: Only these examples (with repetition, for a bootstrap); by default all.
        """
        chosen = slice(None) if rows is None else rows
        result = {name: float(column[chosen].mean()) for name, column in self.columns.items()}
        predicted, gold = self.predicted_none[chosen], self.gold_none[chosen]
        hits = float((predicted & gold).sum())
        result["none_precision"] = hits / max(1, int(predicted.sum()))
        result["none_recall"] = hits / max(1, int(gold.sum()))
        return result

    def intervals(self, resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """A 95% percentile-bootstrap interval of each metric."""
        rng = np.random.default_rng(seed)
        size = len(self.gold_none)
        draws = [self.metrics(rng.integers(0, size, size)) for _ in range(resamples)]
        return {
            name: (
                float(np.quantile([d[name] for d in draws], 0.025)),
                float(np.quantile([d[name] for d in draws], 0.975)),
            )
            for name in self.metrics()
        }


async def play(policy: TokenCompleter, envs: Sequence[RoutingEnv]) -> Played:
    """Play one episode in each environment, all at once."""
    trajectories = await asyncio.gather(*[do_single_rollout(policy, env) for env in envs])
    steps = [trajectory.transitions[0] for trajectory in trajectories]
    columns = {name: np.array([s.metrics[name] for s in steps]) for name in MEANS[1:]}
    return Played(
        {"reward": np.array([s.reward for s in steps]), **columns},
        np.array([env.predicted == 0 for env in envs]),
        np.array([env.gold == 0 for env in envs]),
        sum(s.ob.length + len(s.ac.tokens) for s in steps),
    )


class RoutingEvaluator(SamplingClientEvaluator):
    """Held-out reward, F1, exact match, precision and recall of `none`, malformed share, ….

    Args:
        examples: Held-out conversations.
        taxonomy: Their taxonomy.
        renderer: Name of the chat renderer.
        model: Whose tokenizer is used.
        max_tokens: New tokens an answer may have.
        temperature: 0 takes the likeliest answer.
        name: Prefix of the metrics' names.
        on_played: Told of every evaluation.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        renderer: str,
        model: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        name: str = "test",
        on_played: Callable[[Played], Any] | None = None,
    ) -> None:
        """See the class."""
        self.examples, self.name = examples, name
        self.reward = Reward(taxonomy)
        self.renderer, self.model = renderer, model
        self.max_tokens, self.temperature = max_tokens, temperature
        self.on_played = on_played
        self.last: Played | None = None
        """The latest evaluation, example by example."""

    async def __call__(self, sampling_client: tinker.SamplingClient, **_: Any) -> dict[str, float]:
        """Play every conversation once with the client's weights."""
        policy = TinkerTokenCompleter(
            sampling_client, max_tokens=self.max_tokens, temperature=self.temperature
        )
        renderer = make_renderer(self.renderer, self.model)
        envs = [RoutingEnv(example, self.reward, renderer) for example in self.examples]
        self.last = await play(policy, envs)
        if self.on_played is not None:
            self.on_played(self.last)
        return {f"{self.name}/{k}": v for k, v in self.last.metrics().items()}
