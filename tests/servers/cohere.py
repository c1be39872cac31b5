"""Cohere's v2 chat endpoint: checks requests as the service does, answers as a teacher would.

Run as a program it prints its URL and serves until it is killed; `GET /stats` returns its counters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from tests.servers.base import HTTP_FAULTS, Request, Response, Server

KEY = "co-test-KEY-5f1b9c0d"
MODEL = "command-a-03-2025"

_PARAMETERS = {
    "model", "messages", "tools", "strict_tools", "documents", "citation_options", "stream",
    "response_format", "safety_mode", "max_tokens", "stop_sequences", "temperature", "seed",
    "frequency_penalty", "presence_penalty", "k", "p", "logprobs", "tool_choice", "thinking",
    "priority",
}  # fmt: skip
_SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()
_STOCK = "we are still waiting for the printers to send the corrected proofs back to the office"

Answers = Callable[[dict[str, Any]], str | Response]


class CohereServer(Server):
    """`POST /v2/chat`.

    Args:
        answers: Text, or a whole response, for a request without a schema; the default labels a
            teacher's conversation as it was labelled when it was written.
        stock_share: Share of conversations that repeat a stock text.
        dissent_share: Share of default answers that disagree with the labels.
        models: Known models.
    """

    def __init__(
        self,
        *,
        answers: Answers | None = None,
        stock_share: float = 0.0,
        dissent_share: float = 0.0,
        models: tuple[str, ...] = (MODEL,),
        finish: str = "COMPLETE",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.answers = answers or self._recall
        self.stock_share, self.dissent_share, self.models = stock_share, dissent_share, models
        self.finish = finish
        self._labels: dict[str, str] = {}

    def charge(self, path: str) -> bool:
        return path != "/stats"

    def handle(self, request: Request) -> Response:
        if request.path == "/stats":
            return Response.of(
                {
                    "calls": self.calls,
                    "paid": sum(self.paid.values()),
                    "repeated": self.repeated,
                    "most_in_flight": self.most_in_flight,
                }
            )
        if (request.method, request.path) != ("POST", "/v2/chat"):
            return Response.of({"message": f"no route for {request.path}"}, 404)
        authorization = request.headers.get("authorization", "")
        if authorization != f"Bearer {KEY}":
            # The service quotes what it was given; so does this one.
            return Response.of({"message": f"invalid api token: {authorization[7:]}"}, 401)
        call = request.json()
        problem = _problem(call)
        if problem:
            return Response.of({"message": problem}, 422)
        if call["model"] not in self.models:
            return Response.of(
                {
                    "message": f"model '{call['model']}' not found, make sure the correct model ID "
                    "was used and that you have access to the model."
                },
                404,
            )
        text = self._text(call, request.fault)
        if isinstance(text, Response):
            return text
        given = sum(len(message["content"]) for message in call["messages"]) // 4
        units = {"input_tokens": given, "output_tokens": len(text) // 4}
        return Response.of(
            {
                "id": request.digest[:16],
                "finish_reason": self.finish,
                "message": {"role": "assistant", "content": [{"type": "text", "text": text}]},
                "usage": {"billed_units": units, "tokens": units},
            },
            paid=True,
        )

    def _text(self, call: dict[str, Any], fault: str) -> str | Response:
        if fault == "refusal":
            return "I'm sorry, but I can't help with that."
        if fault == "not_json":
            return '{"turns": [{"role": "user", '
        if fault == "surrogate":  # half an emoji
            return '{"situation": "\ud83d", "company": "c", "facts": [], "turns": []}'
        if fault == "schema":
            return json.dumps({"turns": "none", "facts": 3})
        if "response_format" not in call:
            return self.answers(call)
        rng = Random(call["seed"])
        prompt = call["messages"][-1]["content"]
        found = re.search(r"^Target categories: (.*)$", prompt, re.M)
        assert found is not None
        categories = found[1].split(", ")
        if "facts" in call["response_format"]["json_schema"]["properties"]:
            facts = [{"category": c, "fact": _words(rng, 9)} for c in categories if "." in c]
            return json.dumps(
                {"situation": _words(rng, 20), "company": _words(rng, 2), "facts": facts}
            )
        return self._conversation(rng, prompt, categories)

    def _conversation(self, rng: Random, prompt: str, categories: list[str]) -> str:
        number = re.search(r"^Number of messages: (\d+)", prompt, re.M)
        assert number is not None
        turns = [
            {"role": ("user", "assistant")[place % 2], "content": _words(rng, rng.randint(8, 30))}
            for place in range(int(number[1]))
        ]
        if rng.random() < self.stock_share:
            turns[0]["content"] = _STOCK
        if rng.random() < self.stock_share:  # nearly the same words, turn by turn
            for place in range(0, len(turns), 2):
                turns[place]["content"] = f"{_STOCK} {place} {_words(rng, 1)}"
        text = "\n".join(f"{turn['role'].upper()}: {turn['content']}" for turn in turns)
        self._labels[text] = ", ".join(categories)
        return json.dumps(
            {
                "turns": turns,
                "categories": categories,
                "evidence": [{"category": c, "turns": [0]} for c in categories if "." in c],
                "distractors": [2]
                if "beside the point" in prompt.partition("Number of")[0]
                else [],
                "rationale": _words(rng, 6),
            }
        )

    def _recall(self, call: dict[str, Any]) -> str:
        prompt = call["messages"][-1]["content"]
        text = prompt.removeprefix("Conversation:\n\n").removesuffix("\n\nMemory categories:")
        if Random(call["seed"]).random() < self.dissent_share:
            return "company.brand_core, user.session_history, user.role_context, none"
        return self._labels[text]


def _words(rng: Random, count: int) -> str:
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) for _ in range(count))


def _problem(call: Any) -> str:
    """What the service would say of a request that breaks its schema; empty if nothing."""
    if not isinstance(call, dict) or not isinstance(call.get("model"), str):
        return "invalid request: model must be a string"
    unknown = set(call) - _PARAMETERS
    if unknown:
        return f"invalid request: unknown parameters {sorted(unknown)}"
    messages = call.get("messages")
    if not isinstance(messages, list) or not messages:
        return "invalid request: messages must not be empty"
    for message in messages:
        if message.get("role") not in ("system", "user", "assistant"):
            return f"invalid request: role {message.get('role')!r}"
        if not message.get("content"):
            return "invalid request: message must have content"
    if not 0 <= call.get("temperature", 0.3) <= 2:
        return "invalid request: temperature"
    form = call.get("response_format")
    if form is not None:
        schema = form.get("json_schema")
        if form.get("type") != "json_object" or not schema or schema.get("type") != "object":
            return "invalid request: response_format"
        return _schema_problem(schema)
    return ""


def _schema_problem(schema: dict[str, Any]) -> str:
    """The service's restrictions: every object has a required field, no limits on sizes."""
    limits = {"minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength"} & set(schema)
    if limits:
        return f"invalid schema: unsupported {sorted(limits)}"
    if schema["type"] == "object":
        if not schema.get("required"):
            return "invalid schema: an object needs at least one required field"
        problems = map(_schema_problem, schema["properties"].values())
        return next((problem for problem in problems if problem), "")
    return _schema_problem(schema["items"]) if schema["type"] == "array" else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    given = parser.parse_args()
    served = CohereServer(latency_s=given.latency, fault_rate=given.fault_rate, faults=HTTP_FAULTS)
    asyncio.run(served.serve())
