"""What only the OpenAI protocol has: refusals, content filters, servers without a key, quotas."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openai")
from memroute_agents.agent import AgentContext, create_agent
from memroute_env.errors import AgentError
from memroute_env.parsing import parse_answer
from tests.hosted.helpers import TAXONOMY, Setup, played
from tests.servers.base import Response
from tests.servers.openai import OpenAIServer


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Setup:
    return Setup("chat", monkeypatch, tmp_path / "cache")


QUESTION = [played()[0].conversation]


def test_a_refusal_in_words_is_an_answer_that_names_no_category(chat: Setup) -> None:
    message = {"content": None, "refusal": "I can't help with that."}
    with OpenAIServer(message=message) as server:
        agent = chat.agent(server)
        (decision,) = agent.route(QUESTION)
        agent.close()
    assert not decision.error and decision.text == "I can't help with that."
    assert parse_answer(decision.text, TAXONOMY).malformed


def test_an_answer_kept_back_by_a_content_filter_is_a_failed_call(chat: Setup) -> None:
    with OpenAIServer(finish="content_filter") as server:
        agent = chat.agent(server)
        (decision,) = agent.route(QUESTION)
        agent.close()
        assert server.calls == 1
    assert "content filter" in decision.error


def test_a_used_up_quota_stops_the_run(chat: Setup) -> None:
    body = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with OpenAIServer(answers=lambda call: Response.of(body, 429)) as server:
        agent = chat.agent(server)
        with pytest.raises(AgentError, match="quota"):
            agent.route(QUESTION)
        agent.close()
        assert server.calls == 1


def test_endpoint_from_the_environment_needs_no_option(
    chat: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        agent = create_agent(
            f"chat:{chat.model}", AgentContext(TAXONOMY, options={"cache_dir": "off"})
        )
        assert agent.route(QUESTION)[0].text == "none"
        agent.close()  # type: ignore[attr-defined]


def test_a_server_of_ones_own_needs_no_key(chat: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with OpenAIServer() as server:
        agent = chat.agent(server)
        with pytest.raises(AgentError, match="401"):  # this one wants a key; none was sent
            agent.route(QUESTION)
        agent.close()
        assert server.requests[0].headers["authorization"] == "Bearer none"
