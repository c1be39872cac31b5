"""Hosted agents answer in order, within limits, once, and never pass a failure off as an answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from typing import Any

import pytest

from memroute_agents.agent import AgentContext, create_agent
from memroute_env.errors import AgentError, MissingDependencyError, OptionError
from memroute_env.prompt import build_messages
from memroute_eval.evaluate import AgentSpec, evaluate
from tests.hosted.helpers import TAXONOMY, Setup, gold_answers, played, train
from tests.servers.base import FOREIGN

CONVERSATIONS = [example.conversation for example in played()]
GOLD = [", ".join(example.labels.categories) for example in played()]


def texts_of(setup: Setup, server, **options) -> list[str | None]:
    agent = setup.agent(server, **options)
    try:
        return [decision.text for decision in agent.route(CONVERSATIONS)]
    finally:
        agent.close()


def test_answers_come_in_order_with_tokens_and_time(setup: Setup) -> None:
    with setup.server(latency_s=0.01) as server:
        agent = setup.agent(server, concurrency=6, input_price=2.0, output_price=4.0)
        decisions = agent.route(CONVERSATIONS)
        agent.close()
        assert 1 < server.most_in_flight <= 6
        sent = [request.json() for request in server.requests]
    assert [decision.text for decision in decisions] == GOLD
    for decision in decisions:
        usage = decision.usage
        assert usage is not None and usage.cost_usd is not None
        assert usage.input_tokens > 0 and usage.output_tokens > 0
        cost = (2.0 * usage.input_tokens + 4.0 * usage.output_tokens) / 1e6
        assert usage.cost_usd == pytest.approx(cost)
        assert decision.latency_s is not None and 0.01 <= decision.latency_s < 5
    assert agent.spending.paid_calls == 40 and agent.spending.cost_usd
    assert {call["temperature"] for call in sent} == {0.0}
    assert {call["seed"] for call in sent} == {0}
    prompts = [build_messages(conversation, TAXONOMY) for conversation in CONVERSATIONS]
    assert sorted(json.dumps(call["messages"]) for call in sent) == sorted(map(json.dumps, prompts))


def test_a_second_run_costs_nothing_and_says_the_same(setup: Setup) -> None:
    with setup.server() as server:
        results = []
        for _ in range(2):
            agent = setup.agent(server)
            results.append((agent.route(CONVERSATIONS), agent.spending))
            agent.close()
        assert server.calls == 40
    assert results[0][0] == results[1][0]
    assert (results[0][1].paid_calls, results[0][1].cached) == (40, 0)
    assert (results[1][1].paid_calls, results[1][1].cached) == (0, 40)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"shots": 2}, {"temperature": 0.5}, {"max_tokens": 50}],
    ids=lambda change: next(iter(change)),
)
def test_whatever_determines_the_answer_is_asked_anew(setup: Setup, change: dict) -> None:
    with setup.server() as server:
        texts_of(setup, server)
        texts_of(setup, server, **change)
        assert server.calls == 80


def test_another_endpoint_is_asked_anew(setup: Setup) -> None:
    with setup.server() as first, setup.server() as second:
        texts_of(setup, first)
        texts_of(setup, second)
        assert (first.calls, second.calls) == (40, 40)


def test_the_cache_can_be_off_and_damage_in_it_is_mended(setup: Setup) -> None:
    with setup.server() as server:
        texts_of(setup, server, cache_dir="off")
        assert not setup.cache.exists()
        texts_of(setup, server)
        for number, path in enumerate(sorted(setup.cache.rglob("*.json"))[:3]):
            path.write_text(("", "[]", path.read_text()[:40])[number])
        assert texts_of(setup, server) == GOLD
        assert server.calls == 83


def test_a_cache_that_cannot_be_written_is_named_before_a_call_is_paid(setup: Setup) -> None:
    setup.cache.write_text("a file, not a folder")
    with setup.server() as server:
        with pytest.raises(AgentError, match="cache: answers cannot be kept.*'off'"):
            setup.agent(server)
        assert server.calls == 0


def test_paid_answers_are_used_even_if_the_cache_breaks_on_the_way(setup: Setup) -> None:
    with setup.server() as server:
        agent = setup.agent(server)
        setup.cache.rmdir()
        setup.cache.write_text("a file, not a folder")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("ignore")  # the SDKs' own
            warnings.simplefilter("always", RuntimeWarning)
            decisions = agent.route(CONVERSATIONS)
        agent.close()
    assert [decision.text for decision in decisions] == GOLD
    assert agent.spending.paid_calls == 40
    (warning,) = warned
    assert "cannot be kept" in str(warning.message)


def test_equal_conversations_of_a_batch_are_asked_about_once(setup: Setup) -> None:
    with setup.server(latency_s=0.02) as server:
        agent = setup.agent(server, cache_dir="off")
        decisions = agent.route([CONVERSATIONS[0]] * 5)
        agent.close()
        assert server.calls == 1
    assert [decision.text for decision in decisions] == [GOLD[0]] * 5


def test_a_fifth_of_the_calls_failing_changes_no_answer(setup: Setup) -> None:
    with setup.server(fault_rate=0.2, seed=5) as server:
        agent = setup.agent(server, concurrency=16)
        decisions = agent.route(CONVERSATIONS)
        agent.close()
        assert server.outcomes.total() - server.outcomes["answered"] == agent.spending.retries > 0
        assert server.repeated == 0
    assert [decision.text for decision in decisions] == GOLD
    assert not any(decision.error for decision in decisions)


def test_bodies_that_are_no_answers_are_asked_for_again(setup: Setup) -> None:
    with setup.server(script=("foreign",) * len(FOREIGN)) as server:
        agent = setup.agent(server, concurrency=20)
        decisions = agent.route(CONVERSATIONS[:20])
        agent.close()
        assert server.outcomes["foreign"] == len(FOREIGN)
    assert [decision.text for decision in decisions] == GOLD[:20]


def test_a_run_that_is_killed_pays_only_for_the_rest(setup: Setup) -> None:
    program = (
        "import sys, json\n"
        "from memroute_agents.agent import AgentContext, create_agent\n"
        "from tests.hosted.helpers import *\n"
        "context = AgentContext(TAXONOMY, played(), 0, json.loads(sys.argv[2]))\n"
        "create_agent(sys.argv[1], context).route([e.conversation for e in played()])\n"
    )
    with setup.server(latency_s=0.03) as server:
        options = json.dumps(setup.options(server, concurrency=4))
        process = subprocess.Popen(
            [sys.executable, "-c", program, f"{setup.name}:{setup.model}", options],
            env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        deadline = time.monotonic() + 30
        while sum(server.paid.values()) < 12:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.002)  # polling another process
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert texts_of(setup, server) == GOLD
        assert len(server.paid) == 40 and server.repeated <= 4


def test_shots_come_from_the_training_split_and_never_from_the_played_data(setup: Setup) -> None:
    with setup.server() as server:
        agent = setup.agent(server, shots=13)
        agent.route(CONVERSATIONS[:2])
        agent.close()
        first, second = (request.json()["messages"] for request in server.requests)
    assert len(first) == 1 + 2 * 13 + 1
    assert first[:-1] == second[:-1]
    questions = {build_messages(e.conversation, TAXONOMY)[-1]["content"]: e for e in train()}
    shown = [questions[message["content"]] for message in first[1:-1:2]]
    answers = [message["content"] for message in first[2:-1:2]]
    assert answers == [", ".join(example.labels.categories) for example in shown]
    assert not {example.conversation.to_text() for example in shown} & set(played().texts)
    covered = {category for example in shown for category in example.labels.categories}
    assert covered == set(TAXONOMY.all_ids)


def test_a_refused_call_is_an_error_and_never_an_empty_answer(setup: Setup) -> None:
    def answers(call):
        text = gold_answers(call)
        return setup.refused("too many tokens") if text == GOLD[0] else text

    with setup.server(answers=answers) as server:
        agent = setup.agent(server)
        results = evaluate([AgentSpec("hosted", agent)], played(), resamples=10)
        again = setup.agent(server)
        decisions = again.route(CONVERSATIONS)
        again.close()
    failed = [decision for decision in decisions if decision.error]
    assert len(failed) == GOLD.count(GOLD[0]) and "too many tokens" in failed[0].error
    assert results["agents"]["hosted"]["n_failed"] == len(failed)
    assert results["agents"]["hosted"]["exact_match"] == 1.0
    assert results["agents"]["hosted"]["input_tokens"] > 0


def test_calls_that_stay_failed_are_errors_with_the_reason(setup: Setup) -> None:
    with setup.server(script=("",), fault_rate=1.0, faults=("500",)) as server:
        agent = setup.agent(server, concurrency=1, attempts=2)
        decisions = agent.route(CONVERSATIONS[:3])
        agent.close()
    assert [bool(decision.error) for decision in decisions] == [False, True, True]
    assert "500" in decisions[1].error and decisions[1].text is None
    assert agent.spending.failed == 2


def test_an_answer_cut_off_by_the_token_limit_is_marked(setup: Setup) -> None:
    with setup.server(
        answers=lambda call: "user.role_context, company.brand", finish=setup.cut_off
    ) as server:
        agent = setup.agent(server)
        fresh = agent.route(CONVERSATIONS[:1])
        cached = agent.route(CONVERSATIONS[:1])
        agent.close()
    assert fresh[0].truncated and cached[0].truncated


def test_an_invalid_key_stops_the_run_in_one_line_without_showing_it(setup: Setup) -> None:
    setup.use_key("wrong-KEY-4711")
    with setup.server() as server:
        agent = setup.agent(server, concurrency=3)
        with pytest.raises(AgentError) as caught:
            agent.route(CONVERSATIONS)
        agent.close()
        assert server.calls <= 3
    message = str(caught.value)
    assert setup.key_name in message and "401" in message and "\n" not in message
    assert "wrong-KEY-4711" not in message


def test_an_unknown_model_stops_the_run(setup: Setup) -> None:
    with setup.server() as server:
        agent = setup.agent(server, model="no-such")
        with pytest.raises(AgentError, match="no-such"):
            agent.route(CONVERSATIONS)
        agent.close()


def test_an_endpoint_that_is_not_there_stops_the_run(setup: Setup) -> None:
    with setup.server() as server:
        pass
    agent = setup.agent(server, attempts=2)
    with pytest.raises(AgentError, match=r"127\.0\.0\.1"):
        agent.route(CONVERSATIONS)
    agent.close()


def test_the_key_is_in_no_file(setup: Setup) -> None:
    with setup.server() as server:
        texts_of(setup, server)
    files = [path for path in setup.cache.rglob("*") if path.is_file()]
    assert len(files) == 40
    assert not any(setup.key in path.read_text() for path in files)


def test_an_agent_can_be_used_inside_a_running_loop_and_after_close(setup: Setup) -> None:
    with setup.server() as server:
        agent = setup.agent(server, cache_dir="off")

        async def inside() -> list[str | None]:
            return [decision.text for decision in agent.route(CONVERSATIONS[:2])]

        assert asyncio.run(inside()) == GOLD[:2]
        agent.close()
        assert [d.text for d in agent.route(CONVERSATIONS[:2])] == GOLD[:2]
        agent.close()


@pytest.mark.parametrize(
    ("option", "value"),
    [("shots", -1), ("shots", "many"), ("concurrency", 0), ("timeout", 0), ("temperature", -1)],
)
def test_an_option_out_of_range_is_named(setup: Setup, option: str, value: Any) -> None:
    with setup.server() as server:
        with pytest.raises(OptionError, match=option):
            setup.agent(server, **{option: value})


def test_a_missing_library_is_named_with_its_extra(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = "cohere" if setup.name == "cohere" else "openai"
    monkeypatch.setitem(sys.modules, library, None)
    with setup.server() as server:
        with pytest.raises(MissingDependencyError, match=rf"memroute-env\[{setup.name}\]"):
            setup.agent(server)


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("COHERE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for agent, name in (("cohere", "COHERE_API_KEY"), ("chat:gpt", "OPENAI_API_KEY")):
        with pytest.raises(AgentError, match=name):
            create_agent(agent, AgentContext(TAXONOMY))
    with pytest.raises(AgentError, match="chat:MODEL"):
        create_agent("chat", AgentContext(TAXONOMY))
