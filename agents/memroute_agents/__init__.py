"""Everything that answers: the Agent protocol, baselines, and the policies."""

from __future__ import annotations

from memroute_agents.agent import (
    Agent,
    AgentContext,
    RoutingDecision,
    TokenUsage,
    agent_names,
    create_agent,
    register_agent,
)
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = [
    "Agent",
    "AgentContext",
    "RoutingDecision",
    "TokenUsage",
    "agent_names",
    "create_agent",
    "load",
    "register_agent",
]


def load(name: str = "local", *, taxonomy: Taxonomy | str | None = None, seed: int = 0) -> Agent:
    """The agent of that name, ready to route.

    Args:
        name: As on the command line: `local`, `local:DIR`, `keyword`, `package.module:Class`, ...
        taxonomy: `marketing` unless said otherwise.
        seed: For agents that draw.

    Returns:
        An agent; `agent.route([conversation])[0].categories` is its answer.

    Raises:
        AgentError: If there is no such agent or it cannot be built.
    """
    chosen = load_taxonomy(taxonomy or "marketing")

    def train() -> Dataset:
        return load_dataset("marketing", "train", chosen)

    return create_agent(name, AgentContext(chosen, seed=seed, load_train=train))
