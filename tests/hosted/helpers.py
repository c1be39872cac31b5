"""Agents against local servers of both protocols."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from memroute_agents.agent import AgentContext, create_agent
from memroute_agents.hosted import HostedAgent
from memroute_data_gen.compose import compose
from memroute_env.datasets import Dataset
from memroute_env.taxonomy import load_taxonomy
from tests.servers import cohere, openai
from tests.servers.base import Response

TAXONOMY = load_taxonomy("marketing")


@lru_cache
def played() -> Dataset:
    return Dataset(list(compose(40, seed=3, split="test")), TAXONOMY, name="played")


@lru_cache
def train() -> Dataset:
    """The training split; some of the played examples stand in it too, as in a careless setup."""
    examples = list(compose(80, seed=4)) + list(played())[:20]
    return Dataset(examples, TAXONOMY, name="train")


def gold_answers(call: dict[str, Any]) -> str:
    """The labels of the conversation that a call asks about."""
    question = call["messages"][-1]["content"]
    text = question.removeprefix("Conversation:\n\n").removesuffix("\n\nMemory categories:")
    place = played().texts.index(text)
    return ", ".join(played()[place].labels.categories)


class Setup:
    """One protocol: its server, and the agent that talks to it.

    Args:
        name: `cohere` or `chat`.
        monkeypatch: Sets the key.
        cache: Folder of the response cache.
    """

    def __init__(self, name: str, monkeypatch: Any, cache: Path) -> None:
        self.name, self.cache, self._monkeypatch = name, cache, monkeypatch
        self.key_name = "COHERE_API_KEY" if name == "cohere" else "OPENAI_API_KEY"
        self.key = cohere.KEY if name == "cohere" else openai.KEY
        self.model = cohere.MODEL if name == "cohere" else openai.MODEL
        self.cut_off = "MAX_TOKENS" if name == "cohere" else "length"
        self.use_key(self.key)
        for other in ("CO_API_URL", "OPENAI_BASE_URL"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.chdir(cache.parent)

    def use_key(self, key: str) -> None:
        self._monkeypatch.setenv(self.key_name, key)

    def server(self, **options: Any) -> cohere.CohereServer | openai.OpenAIServer:
        options = {"answers": gold_answers, **options}
        if self.name == "cohere":
            return cohere.CohereServer(**options)
        return openai.OpenAIServer(**options)

    def url(self, server: Any) -> str:
        return server.url if self.name == "cohere" else server.base_url

    def options(self, server: Any, **options: Any) -> dict[str, Any]:
        return {
            "base_url": self.url(server),
            "cache_dir": str(self.cache),
            "timeout": 2.0,
            **options,
        }

    def agent(self, server: Any, model: str = "", seed: int = 0, **options: Any) -> HostedAgent:
        context = AgentContext(
            TAXONOMY, played(), seed, self.options(server, **options), load_train=train
        )
        agent = create_agent(f"{self.name}:{model or self.model}", context)
        assert isinstance(agent, HostedAgent)
        return agent

    def refused(self, text: str) -> Response:
        """A 400 that says `text`."""
        body: Mapping[str, Any] = {"message": text}
        return Response.of(body if self.name == "cohere" else {"error": body}, 400)
