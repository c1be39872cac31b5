"""Cohere's models, zero-shot and few-shot: `cohere` and `cohere:MODEL`.

The key comes from `COHERE_API_KEY` or a `.env` file, another endpoint from the option `base_url` or
`CO_API_URL`. The SDK's own retries are off: `Caller` does them, and counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memroute_agents.agent import Agent, AgentContext, register_agent
from memroute_agents.calls import (
    CallFailure,
    ChatRequest,
    Completion,
    FailureKind,
    Price,
    failure_from_status,
    read_setting,
    redact,
    token_count,
)
from memroute_agents.hosted import HostedAgent, HostedSettings, shots_from
from memroute_agents.transport import open_client
from memroute_env.errors import AgentError, MissingDependencyError

__all__ = ["DEFAULT_MODEL", "PRICES", "CohereModel", "open_model"]

DEFAULT_MODEL = "command-a-03-2025"

PRICES: Mapping[str, Price] = {
    "command-a-03-2025": Price(2.5, 10.0),
    "command-r-plus-08-2024": Price(2.5, 10.0),
    "command-r-08-2024": Price(0.15, 0.6),
    "command-r7b-12-2024": Price(0.0375, 0.15),
}
"""USD for a million tokens, from https://cohere.com/pricing as of 2025; overridden by options."""

_KEY_NAME = "COHERE_API_KEY"
_ENDPOINT = "https://api.cohere.com"


class CohereModel:
    """The v2 chat endpoint, through the SDK's asynchronous client."""

    protocol = "cohere-v2-chat"

    def __init__(self, key: str, endpoint: str, *, timeout_s: float, concurrency: int) -> None:
        """Connect to `endpoint` for at most `concurrency` calls in flight.

        Raises:
            MissingDependencyError: If the SDK is not installed.
        """
        try:
            import cohere
        except ImportError:
            raise MissingDependencyError("cohere", "cohere") from None
        self.endpoint, self._key = endpoint.rstrip("/"), key
        self._http = open_client(timeout_s, concurrency)
        self._client = cohere.AsyncClientV2(
            api_key=key, base_url=self.endpoint, httpx_client=self._http
        )

    async def complete(self, request: ChatRequest) -> Completion:
        """See `ChatModel.complete`."""
        import httpx
        from cohere.core.api_error import ApiError
        from pydantic import ValidationError

        try:
            from cohere.core.parse_error import ParsingError as Unreadable
        except ImportError:  # older versions let pydantic's error through
            Unreadable = ValidationError

        arguments: dict[str, Any] = {
            "model": request.model,
            "messages": list(request.messages),
            "temperature": request.temperature,
            "seed": request.seed,
            "max_tokens": request.max_tokens,
            "request_options": {"max_retries": 0},
        }
        if request.json_schema is not None:
            arguments["response_format"] = {
                "type": "json_object",
                "json_schema": dict(request.json_schema),
            }
        try:
            return _completion(await self._client.chat(**arguments))
        except ApiError as error:
            sent = getattr(error, "headers", None) or {}  # older versions keep them back
            headers = {name.lower(): value for name, value in sent.items()}
            message = redact(_message(error.body), self._key)
            failure = failure_from_status(
                error.status_code or 0, message, headers, key_name=_KEY_NAME, model=request.model
            )
        except (Unreadable, TypeError, ValueError, AttributeError) as error:
            # The SDK trips over bodies that are JSON but not of the protocol.
            said = f"the answer is not of the protocol ({type(error).__name__})"
            failure = CallFailure(FailureKind.MALFORMED, said)
        except httpx.ConnectTimeout:
            failure = CallFailure(FailureKind.CONNECTION, f"{self.endpoint}: not reached in time")
        except httpx.TimeoutException as error:
            failure = CallFailure(
                FailureKind.TIMEOUT, f"no answer in time ({type(error).__name__})"
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = redact(str(error), self._key) or type(error).__name__
            failure = CallFailure(FailureKind.CONNECTION, f"{self.endpoint}: {said}")
        raise failure

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()


def _message(body: Any) -> str:
    """What an error body says."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("error") or body
    return str(body or "")


def _completion(response: Any) -> Completion:
    """A response as a `Completion`; the SDK does not validate, so nothing is taken for granted.

    Raises:
        CallFailure: If it is not of the protocol, or says that the model failed.
    """
    finish = getattr(response, "finish_reason", None)
    message = getattr(response, "message", None)
    if finish in ("ERROR", "TIMEOUT"):
        raise CallFailure(FailureKind.SERVER, f"the model stopped with {finish}")
    items = getattr(message, "content", None)
    if not isinstance(finish, str) or message is None or not isinstance(items, list | None):
        raise CallFailure(FailureKind.MALFORMED, "the answer lacks finish_reason or message")
    texts = [getattr(item, "text", None) for item in items or ()]
    usage = getattr(response, "usage", None)
    billed = getattr(usage, "billed_units", None) or getattr(usage, "tokens", None)
    return Completion(
        text="".join(text for text in texts if isinstance(text, str)),
        truncated=finish == "MAX_TOKENS",
        input_tokens=token_count(billed, "input_tokens"),
        output_tokens=token_count(billed, "output_tokens"),
    )


def open_model(base_url: str = "", *, timeout_s: float, concurrency: int) -> CohereModel:
    """The endpoint that the arguments, the environment and the `.env` file name.

    Raises:
        AgentError: If there is no key.
        MissingDependencyError: If the SDK is not installed.
    """
    key = read_setting(_KEY_NAME, "cohere")
    if not key:
        raise AgentError(
            f"no Cohere key: set {_KEY_NAME}, or write {_KEY_NAME}=… into a file called .env"
        )
    endpoint = base_url or read_setting("CO_API_URL", "cohere") or _ENDPOINT
    return CohereModel(key, endpoint, timeout_s=timeout_s, concurrency=concurrency)


def _make_cohere(argument: str, context: AgentContext) -> Agent:
    model, settings = argument or DEFAULT_MODEL, HostedSettings.from_options(context.options)
    return HostedAgent(
        lambda: open_model(
            settings.base_url, timeout_s=settings.timeout, concurrency=settings.concurrency
        ),
        model,
        context.taxonomy,
        settings,
        price=settings.price(PRICES.get(model)),
        shots=shots_from(context, settings.shots),
        seed=context.seed,
    )


register_agent("cohere", _make_cohere)
