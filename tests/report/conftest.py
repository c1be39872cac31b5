"""Results of baselines and of a scripted language model, and data with hostile text."""

from __future__ import annotations

import random
from typing import Any

import pytest

from memroute_agents.agent import RoutingDecision, TokenUsage
from memroute_data_gen.compose import Composer
from memroute_env.conversation import Conversation, Example, Labels, Metadata, Turn
from memroute_env.datasets import Dataset
from memroute_eval.evaluate import AgentSpec, evaluate

HOSTILE = [
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script>",
    "</style><script>window.pwned = 3</script>",
    '<img src=x onerror="window.pwned=4">',
    '"><svg onload=window.pwned=5>',
    "' onmouseover='window.pwned=6' x='",
    "</textarea></details></main><h1>taken over</h1>",
    '<a href="javascript:window.pwned=7">click</a>',
    "<iframe src=https://example.org></iframe><link rel=stylesheet href=//example.org/x.css>",
    "<!-- --><meta http-equiv=refresh content='0;url=https://example.org'>",
    "{{ 7 * 7 }} {% raw %} ${7*7} &lt;b&gt; &#60;script&#62;",
    "\x1b[31mred\x1b]0;title\x07 \x9b2J and \x00 nothing",
    '=HYPERLINK("https://example.org")',
    "+1+cmd|' /C calc'!A0",
    "\u202eright to left\u2028 and a line separator\u2029",
]
"""Text that would run, break the page, or drive a terminal or a spreadsheet."""


class ScriptedModel:
    """Answers in text with scores, evidence, latency and cost; sometimes wrong, cut or failed."""

    version = "7"

    def __init__(self, dataset: Dataset, skill: float = 0.6, seed: int = 3) -> None:
        self.taxonomy, self.skill, self.rng = dataset.taxonomy, skill, random.Random(seed)
        self.gold = {
            example.conversation.to_text(): dataset.taxonomy.ids(int(mask))
            for example, mask in zip(dataset, dataset.gold_masks, strict=True)
        }

    def route(self, conversations) -> list[RoutingDecision]:
        return [self._decide(self.gold[c.to_text()]) for c in conversations]

    def _decide(self, gold: tuple[str, ...]) -> RoutingDecision:
        draw = self.rng.random()
        if draw > 0.97:
            return RoutingDecision(error="timeout <b>after</b> 3 retries")
        if draw > 0.93:
            return RoutingDecision(text="I'd say <b>brand</b>, \x1b[31mreally", latency_s=0.3)
        small = self.taxonomy.small_sets(2)
        answer = gold if draw < self.skill else self.taxonomy.ids(self.rng.choice(small))
        scores = {
            c: min(1.0, max(0.0, (0.8 if c in answer else 0.1) + self.rng.gauss(0, 0.1)))
            for c in self.taxonomy.all_ids
        }
        return RoutingDecision(
            text=", ".join(answer),
            scores=scores,
            evidence={answer[0]: (0,)},
            latency_s=0.2 + 0.1 * self.rng.random(),
            usage=TokenUsage(500, 12, 0.001),
        )


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    composer = Composer(0, "test")
    return Dataset([composer(i) for i in range(40)], composer.taxonomy, name="composed-40")


@pytest.fixture(scope="session")
def results(dataset) -> dict[str, Any]:
    agents = ["constant:company.brand_core", "oracle", "random:uniform"]
    model = AgentSpec("chat:model", ScriptedModel(dataset))
    return evaluate([*agents, model], dataset, resamples=100)


@pytest.fixture(scope="session")
def hostile_dataset(dataset) -> Dataset:
    """Every field that is free text holds something that would like to run."""
    examples = [
        Example(
            id=f"{payload} {i}",
            conversation=Conversation(
                turns=(
                    Turn(role="user", content=f"number {i} {payload}"),
                    Turn(role="assistant", content=payload),
                )
            ),
            labels=Labels(
                categories=("company.brand_core",),
                evidence={"company.brand_core": (0,)},
                rationale=payload,
            ),
            metadata=Metadata(domain=payload, difficulty="easy", source=payload),
        )
        for i, payload in enumerate(HOSTILE)
    ]
    return Dataset(examples, dataset.taxonomy, name="<script>window.pwned=8</script>")


@pytest.fixture(scope="session")
def hostile_results(hostile_dataset) -> dict[str, Any]:
    payload = '"><script>window.pwned=9</script>\x1b[31m'
    agent = ScriptedModel(hostile_dataset, skill=0.3)
    specs = [AgentSpec(f"chat:{payload}", agent), "constant:none", "oracle"]
    results = evaluate(specs, hostile_dataset, resamples=50)
    results["agents"][f"chat:{payload}"]["version"] = payload
    for row, text in zip(results["agents"]["constant:none"]["examples"], HOSTILE, strict=True):
        row["text"] = text
        row["malformed"] = row["malformed"] or ""
    return results


@pytest.fixture(scope="session")
def curve_rows() -> list[dict[str, Any]]:
    rng = random.Random(0)
    rows: list[dict[str, Any]] = [
        {"stage": "sft", "step": i, "loss": 5 * 0.95**i + rng.random() / 10, "lr": 1e-4}
        for i in range(80)
    ]
    rows += [
        {
            "stage": "rl",
            "step": i,
            "env/all/reward/total": 0.7 + i / 100,
            "reward_f1": 0.6 + i / 100,
            "reward_parity": 0.9,
            "optim/kl_sample_train_v1": 0.001 * i,
            "optim/entropy": 1 / (i + 1),
            "test/env/all/reward/total": 0.6 + i / 100,
        }
        for i in range(20)
    ]
    return rows
