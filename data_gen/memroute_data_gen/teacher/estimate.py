"""What a run will take, before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass

from memroute_agents.calls import ChatRequest, Price
from memroute_data_gen.teacher.plan import make_brief, plan_item
from memroute_data_gen.teacher.prompts import conversation_request, scenario_request
from memroute_env.prompt import system_prompt
from memroute_env.taxonomy import Taxonomy

__all__ = ["Estimate", "estimate"]

# Assumptions, on the cautious side; the run itself reports what it really uses.
CHARACTERS_A_TOKEN = 4
SCENARIO_TOKENS = 180
"""Output of stage 1; it comes back as input of stage 2."""
TURN_TOKENS = 60
"""A message of stage 2, JSON around it included."""
LABEL_TOKENS = 90
"""Labels, evidence and rationale of stage 2."""
BLIND_TOKENS = 12
REDRAWN = 0.15
"""Share of draws that are refused and made again."""
CALL_S, TOKENS_A_SECOND = 0.5, 60.0
"""Seconds a call takes before its first token, and tokens a second from then on."""


@dataclass(frozen=True)
class Estimate:
    """Figures for the examples that are still missing."""

    examples: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """None where no price is known."""
    seconds: float


def _tokens(request: ChatRequest) -> float:
    return sum(len(message["content"]) for message in request.messages) / CHARACTERS_A_TOKEN


def estimate(
    missing: list[int],
    taxonomy: Taxonomy,
    *,
    seed: int,
    model: str,
    concurrency: int,
    price: Price | None,
    blind: bool,
    blind_price: Price | None = None,
) -> Estimate:
    """What the `missing` items of a plan will take.

    Prompts are built for every item; what the model will say is assumed.
    """
    calls = (3 if blind else 2) * len(missing)
    given = said = checked_in = checked_out = 0.0
    for index in missing:
        brief = make_brief(seed, plan_item(seed, index, taxonomy), 0)
        conversation = TURN_TOKENS * brief.turns
        first = scenario_request(brief, taxonomy, model, seed=seed, draw=0)
        second = conversation_request(brief, {}, taxonomy, model, seed=seed, draw=0)
        given += _tokens(first) + _tokens(second) + SCENARIO_TOKENS
        said += SCENARIO_TOKENS + conversation + LABEL_TOKENS
        if blind:
            checked_in += conversation + len(system_prompt(taxonomy)) / CHARACTERS_A_TOKEN
            checked_out += BLIND_TOKENS
    more = 1 + REDRAWN
    cost = price.of(given * more, said * more) if price else None
    if blind and cost is not None:
        cost = cost + blind_price.of(checked_in * more, checked_out * more) if blind_price else None
    output = (said + checked_out) * more
    return Estimate(
        examples=len(missing),
        calls=round(calls * more),
        input_tokens=round((given + checked_in) * more),
        output_tokens=round(output),
        cost_usd=cost,
        seconds=(calls * more * CALL_S + output / TOKENS_A_SECOND) / concurrency,
    )
