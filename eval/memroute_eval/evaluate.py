"""Playing agents through the environment, and the result that everything else reads.

The reward in a result is the one the environment pays, so that what a paper reports is what a
trainer optimises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memroute_agents.agent import (
    Agent,
    AgentContext,
    RoutingDecision,
    checked_route,
    close_agent,
    create_agent,
)
from memroute_env import __version__
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.env import MemoryRoutingEnv
from memroute_env.errors import AgentError, DataError, OptionError
from memroute_env.parsing import ParseMode, format_answer
from memroute_eval.metrics import Outcomes, category_table, group_summaries, summarise

__all__ = ["FORMAT", "AgentSpec", "evaluate", "play", "result_of"]

FORMAT = 1
"""Version of the results' layout."""

Progress = Callable[[str, int, int], None]
"""Called with the agent's name, conversations done, and how many there are."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent under the name that results give it."""

    name: str
    agent: Agent

    @property
    def version(self) -> str:
        """What the agent says of itself."""
        return str(getattr(self.agent, "version", "unversioned"))


def play(
    decisions: Sequence[RoutingDecision], dataset: Dataset, parse: ParseMode
) -> list[dict[str, Any]]:
    """Score decisions by stepping the environment; one row of plain data an example."""
    env = MemoryRoutingEnv(dataset, parse=parse)
    rows = []
    for index, (example, decision) in enumerate(zip(dataset, decisions, strict=True)):
        row: dict[str, Any] = {
            "id": example.id,
            "gold": list(dataset.taxonomy.ids(int(dataset.gold_masks[index]))),
            "difficulty": example.metadata.difficulty or "unknown",
            "domain": example.metadata.domain or "unknown",
        }
        if decision.error:
            rows.append({**row, "error": decision.error})
            continue
        env.reset(options={"index": index})
        _, reward, _, _, info = env.step(_action(decision, env))
        row |= {
            "predicted": list(info["predicted"]),
            "malformed": info["malformed"],
            "reward": reward,
            "reward_f1": info["reward_f1"],
            "reward_temporal": info["reward_temporal"],
            "reward_parity": info["reward_parity"],
            "reward_efficiency": info["reward_efficiency"],
        }
        if decision.text is not None:
            row["text"] = decision.text
        if decision.scores is not None:
            row["scores"] = {key: round(float(v), 6) for key, v in decision.scores.items()}
        if decision.evidence:
            row["evidence"] = {key: list(turns) for key, turns in decision.evidence.items()}
        if decision.latency_s is not None:
            row["latency_s"] = decision.latency_s
        if decision.usage is not None:
            row["usage"] = {
                "input_tokens": decision.usage.input_tokens,
                "output_tokens": decision.usage.output_tokens,
                "cost_usd": decision.usage.cost_usd,
            }
        rows.append(row)
    return rows


def _action(decision: RoutingDecision, env: MemoryRoutingEnv) -> str:
    """The text action; an answer that the token limit cut off loses its unfinished item."""
    if decision.truncated:
        answer = env.reward.parser("strict")(decision.action, truncated=True)
        if answer.mask is not None:
            return format_answer(env.taxonomy.ids(answer.mask))
        return ""
    return decision.action


def result_of(
    rows: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    *,
    name: str = "",
    version: str = "",
    seconds: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """An agent's part of the results: metrics overall and by group, and the rows.

    Raises:
        AgentError: If every call failed; `name` says whose.
    """
    name = f"agent {name!r}: " if name else ""
    answered = [row for row in rows if not row.get("error")]
    result: dict[str, Any] = {
        "version": version,
        "n_failed": len(rows) - len(answered),
    }
    if not answered:
        raise AgentError(
            f"{name}all {len(rows)} calls failed; the first: "
            f"{' '.join(str(rows[0]['error']).split()) if rows else 'no rows'}"
        )
    outcomes = Outcomes.from_rows(answered, dataset.taxonomy)
    result |= summarise(outcomes, resamples=resamples, seed=seed)
    groups = {
        "by_difficulty": [row["difficulty"] for row in answered],
        "by_domain": [row["domain"] for row in answered],
        "by_gold_size": [_gold_size(row, dataset) for row in answered],
    }
    for name, keys in groups.items():
        result[name] = group_summaries(outcomes, keys, seed=seed)
    result["by_category"] = category_table(outcomes)
    if seconds is not None:
        result["seconds"] = seconds
        result["decisions_per_second"] = len(rows) / seconds if seconds > 0 else None
    latencies = [row["latency_s"] for row in answered if "latency_s" in row]
    if latencies:
        p50, p95 = np.percentile(latencies, [50, 95])
        result["latency_p50_ms"], result["latency_p95_ms"] = float(p50) * 1e3, float(p95) * 1e3
    usages = [row["usage"] for row in answered if "usage" in row]
    if usages:
        result["input_tokens"] = sum(u["input_tokens"] for u in usages)
        result["output_tokens"] = sum(u["output_tokens"] for u in usages)
        costs = [u["cost_usd"] for u in usages]
        known = None not in costs
        result["cost_usd"] = sum(costs) if known else None
        result["cost_usd_per_1000"] = 1000 * sum(costs) / len(usages) if known else None
    result["examples"] = list(rows)
    return result


def _gold_size(row: Mapping[str, Any], dataset: Dataset) -> str:
    if row["gold"] == [dataset.taxonomy.exclusive.id]:
        return dataset.taxonomy.exclusive.id
    return str(len(row["gold"]))


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """What a result says of its data."""
    return {
        "name": dataset.name,
        "split": dataset.split,
        "sha256": dataset.sha256,
        "n": len(dataset),
        "taxonomy": dataset.taxonomy.name,
        **({"version": dataset.version} if dataset.version else {}),
    }


def evaluate(
    agents: Sequence[str | AgentSpec],
    dataset: Dataset,
    *,
    parse: ParseMode = "strict",
    seed: int = 0,
    batch_size: int = 64,
    resamples: int = 1000,
    train: Dataset | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Play agents on a dataset.

    Args:
        agents: Names as on the command line, or `AgentSpec` objects; names are distinct.
        dataset: What to play.
        parse: How text answers are read.
        seed: For agents that draw and for the bootstrap; 0 or more.
        batch_size: Conversations in one call of `route`.
        resamples: Bootstrap resamples.
        train: Training split for agents that fit; the shipped one by default.
        options: Agent-specific options.
        progress: Called after every batch.

    Returns:
        Plain data, ready for JSON: `format`, `memroute`, `dataset`, `parse`, `seed`, and
        `agents.NAME` with the metrics of `METRICS`, `ci95`, the groups `by_difficulty`,
        `by_domain`, `by_gold_size`, `by_category`, and `examples`.

    Raises:
        AgentError: If an agent cannot be built or breaks its contract; answers of agents that had
            finished are in its `partial` attribute, as in KeyboardInterrupt's.
        DataError: If two agents have the same name.
        OptionError: If the seed is negative, before any agent is asked.
    """
    if seed < 0:
        raise OptionError(f"seed must be 0 or more, got {seed}")
    context = AgentContext(
        dataset.taxonomy,
        dataset,
        seed,
        dict(options or {}),
        load_train=(lambda: train) if train is not None else _train_loader(dataset),
    )
    specs = [
        spec if isinstance(spec, AgentSpec) else AgentSpec(spec, create_agent(spec, context))
        for spec in agents
    ]
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise DataError(f"agents need distinct names, got {', '.join(names)}")
    results: dict[str, Any] = {
        "format": FORMAT,
        "memroute": __version__,
        "dataset": describe_dataset(dataset),
        "parse": parse,
        "seed": seed,
        "agents": {},
    }
    conversations = [example.conversation for example in dataset]
    for spec in specs:
        decisions: list[RoutingDecision] = []
        started = time.perf_counter()
        try:
            for start in range(0, len(conversations), batch_size):
                batch = conversations[start : start + batch_size]
                decisions += checked_route(spec.agent, batch, spec.name)
                if progress is not None:
                    progress(spec.name, len(decisions), len(conversations))
            elapsed = time.perf_counter() - started
            rows = play(decisions, dataset, parse)
            results["agents"][spec.name] = result_of(
                rows,
                dataset,
                name=spec.name,
                version=spec.version,
                seconds=elapsed,
                resamples=resamples,
                seed=seed,
            )
        except (AgentError, KeyboardInterrupt) as error:
            error.partial = results  # type: ignore[union-attr]  # what had finished is not lost
            raise
        finally:
            close_agent(spec.agent)
    return results


def _train_loader(dataset: Dataset) -> Callable[[], Dataset]:
    def load() -> Dataset:
        shipped = load_dataset("marketing", "train")
        if shipped.taxonomy != dataset.taxonomy:
            raise AgentError(
                f"the shipped training data is labelled in {shipped.taxonomy.name!r}, this data in "
                f"{dataset.taxonomy.name!r}; name your own with --train-data"
            )
        return shipped

    return load
