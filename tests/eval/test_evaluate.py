"""Playing agents through the environment, and predictions made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memroute_agents import RoutingDecision, TokenUsage
from memroute_env import AgentError, Conversation, DataError, Dataset, MemoryRoutingEnv, Reward
from memroute_eval.evaluate import AgentSpec, evaluate, play
from memroute_eval.predictions import read_predictions


class Scripted:
    """Gives prepared decisions, in the order of the dataset."""

    version = "7"

    def __init__(self, decisions: Sequence[RoutingDecision]) -> None:
        self.decisions = list(decisions)
        self.batches: list[int] = []
        self.closed = 0

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        start = sum(self.batches)
        self.batches.append(len(conversations))
        return self.decisions[start : start + len(conversations)]

    def close(self) -> None:
        self.closed += 1


def said(*texts: str) -> list[RoutingDecision]:
    return [RoutingDecision(text=text) for text in texts]


def test_rows_hold_what_the_environment_pays(small: Dataset) -> None:
    texts = ["company.brand_core", "bananas", "none, user.role_context", ""] * 4
    rows = play(said(*texts[: len(small)]), small, "strict")
    env = MemoryRoutingEnv(small)
    for i, row in enumerate(rows):
        env.reset(options={"index": i})
        _, reward, _, _, info = env.step(texts[i])
        assert row["reward"] == reward
        for key in ("reward_f1", "reward_temporal", "reward_parity", "reward_efficiency"):
            assert row[key] == info[key]
        assert row["predicted"] == list(info["predicted"])
        assert row["gold"] == list(small[i].labels.categories)
        assert row["malformed"] == info["malformed"]
        assert row["text"] == texts[i]


def test_rows_keep_scores_evidence_latency_and_usage(small: Dataset) -> None:
    decision = RoutingDecision(
        ("company.brand_core",),
        scores={"company.brand_core": 0.9},
        evidence={"company.brand_core": (0,)},
        latency_s=0.25,
        usage=TokenUsage(10, 2, 0.001),
    )
    results = evaluate([AgentSpec("me", Scripted([decision] * 14))], small, resamples=2)
    agent = results["agents"]["me"]
    row = agent["examples"][0]
    assert row["scores"] == {"company.brand_core": 0.9}
    assert row["evidence"] == {"company.brand_core": [0]}
    assert (row["latency_s"], agent["latency_p50_ms"]) == (0.25, 250)
    assert (agent["input_tokens"], agent["output_tokens"]) == (140, 28)
    assert agent["cost_usd"] == pytest.approx(0.014)
    assert agent["cost_usd_per_1000"] == pytest.approx(1.0)
    assert agent["version"] == "7"
    json.dumps(results, allow_nan=False)


def test_an_unknown_price_makes_the_cost_unknown(small: Dataset) -> None:
    decisions = [RoutingDecision(("none",), usage=TokenUsage(1, 1, 0.5))] * 13
    decisions.append(RoutingDecision(("none",), usage=TokenUsage(1, 1)))
    agent = evaluate([AgentSpec("me", Scripted(decisions))], small, resamples=2)["agents"]["me"]
    assert agent["cost_usd"] is None
    assert agent["cost_usd_per_1000"] is None
    assert agent["input_tokens"] == 14


def test_failed_calls_are_left_out_and_counted(small: Dataset) -> None:
    fine = [RoutingDecision(e.labels.categories) for e in small]
    failed = [*fine[:10], *[RoutingDecision(error="timeout")] * 4]
    agent = evaluate([AgentSpec("me", Scripted(failed))], small, resamples=2)["agents"]["me"]
    assert (agent["n"], agent["n_failed"], agent["reward"], agent["malformed_rate"]) == (
        10, 4, 1.0, 0.0,
    )  # fmt: skip
    assert len(agent["examples"]) == 14
    assert agent["examples"][-1]["error"] == "timeout"
    assert "reward" not in agent["examples"][-1]


def test_an_agent_that_only_fails_is_an_error(small: Dataset) -> None:
    down = Scripted([RoutingDecision(error="down")] * 14)
    with pytest.raises(AgentError, match="all 14 calls failed; the first: down"):
        evaluate([AgentSpec("me", down)], small)


def test_an_answer_cut_off_by_the_token_limit_loses_its_last_item(small: Dataset) -> None:
    decisions = [RoutingDecision(text=f"{e.labels.categories[0]}, user.ro", truncated=True)
                 for e in small]  # fmt: skip
    rows = play(decisions, small, "strict")
    assert [row["predicted"] for row in rows] == [[e.labels.categories[0]] for e in small]
    nothing = play([RoutingDecision(text="company.bra", truncated=True)] * 14, small, "strict")
    assert all(row["malformed"] for row in nothing)
    assert {row["reward"] for row in nothing} == {-1.0}


def test_an_agents_unknown_category_is_malformed_not_a_crash(small: Dataset) -> None:
    rows = play([RoutingDecision(("company.vibes",))] * 14, small, "strict")
    assert all("company.vibes" in row["malformed"] for row in rows)


def test_parse_modes_differ_on_the_same_answers(small: Dataset) -> None:
    texts = [f"Well: {e.id}, {', '.join(e.labels.categories)}" for e in small]
    strict, lenient = (
        evaluate([AgentSpec("me", Scripted(said(*texts)))], small, parse=mode, resamples=2)
        for mode in ("strict", "lenient")
    )
    assert strict["agents"]["me"]["malformed_rate"] == 1
    assert lenient["agents"]["me"]["exact_match"] >= 13 / 14
    assert (strict["parse"], lenient["parse"]) == ("strict", "lenient")


def test_batches_progress_and_close(small: Dataset) -> None:
    agent = Scripted([RoutingDecision(("none",))] * 14)
    seen: list[tuple[str, int, int]] = []
    evaluate([AgentSpec("me", agent)], small, batch_size=5, resamples=2,
             progress=lambda *a: seen.append(a))  # fmt: skip
    assert agent.batches == [5, 5, 4]
    assert seen == [("me", 5, 14), ("me", 10, 14), ("me", 14, 14)]
    assert agent.closed == 1


def test_an_agent_is_closed_and_others_results_kept_when_it_fails(small: Dataset) -> None:
    good = Scripted([RoutingDecision(("none",))] * 14)
    short = Scripted([RoutingDecision(("none",))] * 3)
    with pytest.raises(AgentError, match="'short' answered 3 for 14") as caught:
        evaluate([AgentSpec("good", good), AgentSpec("short", short)], small, resamples=2)
    assert short.closed == 1
    assert list(caught.value.partial["agents"]) == ["good"]  # type: ignore[attr-defined]


def test_names_must_be_distinct(small: Dataset) -> None:
    with pytest.raises(DataError, match="distinct names, got oracle, oracle"):
        evaluate(["oracle", "oracle"], small)


def test_equal_seeds_give_equal_results(small: Dataset) -> None:
    def run(seed: int) -> dict[str, Any]:
        agent = evaluate(["random:uniform"], small, seed=seed)["agents"]["random:uniform"]
        return {k: v for k, v in agent.items() if k not in ("seconds", "decisions_per_second")}

    assert run(1) == run(1)
    assert run(1)["examples"] != run(2)["examples"]


def test_the_dataset_is_described_with_its_hash(small: Dataset) -> None:
    described = evaluate(["oracle"], small, resamples=2)["dataset"]
    assert described["sha256"] == small.sha256
    assert described["n"] == 14
    assert described["taxonomy"] == "marketing"


def test_no_constant_and_no_spray_comes_near_the_oracle_on_the_shipped_test_split() -> None:
    from memroute_env import load_dataset

    test = load_dataset("marketing", "test")
    reward = Reward(test.taxonomy)
    everything = np.arange(test.taxonomy.num_masks)
    best = reward.table(everything, test.gold_masks).mean(axis=1).max()
    assert best < 0.5
    for spray in (4095, 0b010101010101, 0b101010101010):
        assert reward.score_masks([spray] * len(test), test.gold_masks).mean() < 0.4


# Predictions --------------------------------------------------------------------------------------


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_predictions_may_stand_in_any_order_and_either_form(small: Dataset, tmp_path: Path) -> None:
    lines: list[Any] = [{"id": e.id, "text": e.labels.categories[0]} for e in small]
    lines[3] = {"id": small[3].id, "categories": list(small[3].labels.categories)}
    lines[5] = {"id": small[5].id, "text": "none, use", "truncated": True}
    decisions = read_predictions(write(tmp_path / "p.jsonl", *lines[::-1]), small)
    assert [d.action for d in decisions[:4]] == [small[i].labels.categories[0] for i in range(4)]
    assert decisions[5].truncated


def test_categories_and_the_same_words_score_alike(small: Dataset, tmp_path: Path) -> None:
    for categories in ([], ["none", "company.brand_core"], ["vibes"], ["company.brand_core"] * 2):
        lists = [{"id": e.id, "categories": categories} for e in small]
        texts = [{"id": e.id, "text": ", ".join(categories)} for e in small]
        read = [read_predictions(write(tmp_path / "p.jsonl", *x), small) for x in (lists, texts)]
        assert play(read[0], small, "strict") == play(read[1], small, "strict")


def test_missing_ones_are_named_or_counted_as_wrong(small: Dataset, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "three", "text": "none"})
    with pytest.raises(DataError, match=r"13 of 14 examples: company.brand_core, .* and 3 more"):
        read_predictions(path, small)
    decisions = read_predictions(path, small, missing_as_wrong=True)
    assert [d.action for d in decisions[-2:]] == ["", "none"]
    assert play(decisions, small, "lenient")[0]["reward"] == -1.0
