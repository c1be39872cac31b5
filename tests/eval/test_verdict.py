"""The report's headline: the highest mean alone does not win."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("jinja2")

from memroute_agents import RoutingDecision
from memroute_data_gen.compose import Composer
from memroute_env import Conversation, Dataset
from memroute_eval.evaluate import AgentSpec, evaluate
from memroute_eval.report import gather, render_report
from memroute_eval.report_view import agent_views, verdict_of

N = 40


class Scripted:
    """Right, wrong or failed, example by example: `r`, `w` or `f`."""

    def __init__(self, dataset: Dataset, script: str) -> None:
        self.decisions = []
        for example, outcome in zip(dataset, script, strict=True):
            right = example.labels.categories
            wrong = ("none",) if right != ("none",) else ("company.brand_core",)
            if outcome == "f":
                self.decisions.append(RoutingDecision(error="timeout"))
            else:
                self.decisions.append(RoutingDecision(right if outcome == "r" else wrong))

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        assert len(conversations) == len(self.decisions)
        return self.decisions


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    composer = Composer(0, "test")
    return Dataset([composer(i) for i in range(N)], composer.taxonomy, name="composed-40")


def measured(dataset: Dataset, **scripts: str) -> dict[str, Any]:
    agents = [AgentSpec(name, Scripted(dataset, script)) for name, script in scripts.items()]
    return evaluate(agents, dataset, resamples=20)


def headline(results: dict[str, Any], dataset: Dataset) -> str:
    page = render_report(gather([results]), dataset)
    found = re.search(r"<h1[^>]*>(.*?)</h1>", page, re.S)
    assert found
    return " ".join(re.sub(r"<[^>]*>", "", found[1]).split())


def test_an_agent_whose_calls_failed_does_not_win_by_its_easier_rest(dataset: Dataset) -> None:
    # On the twenty that both answered steady is always right; the others it gets wrong.
    results = measured(dataset, lucky="r" * 12 + "w" * 8 + "f" * 20, steady="r" * 20 + "w" * 20)
    assert results["agents"]["lucky"]["reward"] > results["agents"]["steady"]["reward"]
    verdict = verdict_of(results, agent_views(results))
    assert verdict.leader.name == "lucky"
    assert [d.b for d in verdict.lost] == ["steady"]
    assert verdict.beaten == verdict.tied == []
    assert headline(results, dataset) == (
        "lucky has the higher mean, but steady is better where both answered"
    )


def test_several_that_are_better_where_both_answered_are_counted(dataset: Dataset) -> None:
    steady = "r" * 20 + "w" * 20
    results = measured(dataset, lucky="r" * 12 + "w" * 8 + "f" * 20, one=steady, two=steady)
    assert headline(results, dataset) == (
        "lucky has the higher mean, but 2 others are better where both answered"
    )


def test_an_agent_that_beats_all_others_where_both_answered_wins(dataset: Dataset) -> None:
    results = measured(dataset, good="r" * 30 + "f" * 10, bad="r" * 10 + "w" * 30)
    verdict = verdict_of(results, agent_views(results))
    assert ([d.b for d in verdict.beaten], verdict.lost, verdict.tied) == (["bad"], [], [])
    assert headline(results, dataset) == "good wins"
