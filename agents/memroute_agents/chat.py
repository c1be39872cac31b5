"""Any chat model behind an OpenAI-compatible endpoint: `chat:MODEL`.

`OPENAI_BASE_URL` (or the option `base_url`) names the endpoint, `OPENAI_API_KEY` or a `.env` file
the key: vLLM, Ollama, LM Studio, OpenRouter and the rest. A server of one's own needs no key. The
SDK's own retries are off: `Caller` does them, and counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memroute_agents.agent import Agent, AgentContext, register_agent
from memroute_agents.calls import (
    CONNECT_S,
    CallFailure,
    ChatRequest,
    Completion,
    FailureKind,
    failure_from_status,
    read_setting,
    redact,
    token_count,
)
from memroute_agents.hosted import HostedAgent, HostedSettings, shots_from
from memroute_env.errors import AgentError, MissingDependencyError

__all__ = ["OpenAIModel", "open_model"]

_KEY_NAME = "OPENAI_API_KEY"
_ENDPOINT = "https://api.openai.com/v1"


class OpenAIModel:
    """The chat-completions endpoint, through the SDK's asynchronous client."""

    protocol = "openai-chat-completions"

    def __init__(self, key: str, endpoint: str, *, timeout_s: float) -> None:
        """Connect to `endpoint`; an empty key is sent as `none`.

        Raises:
            MissingDependencyError: If the SDK is not installed.
        """
        try:
            from openai import AsyncOpenAI, Timeout
        except ImportError:
            raise MissingDependencyError("openai", "chat") from None
        self.endpoint, self._key = endpoint.rstrip("/"), key
        timeout = Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
        self._client = AsyncOpenAI(
            api_key=key or "none", base_url=self.endpoint, max_retries=0, timeout=timeout
        )
        # OpenAI's own models want the new name of the limit, the other servers know the old one.
        own = self.endpoint.startswith("https://api.openai.com")
        self._limit_name = "max_completion_tokens" if own else "max_tokens"

    async def complete(self, request: ChatRequest) -> Completion:
        """See `ChatModel.complete`."""
        import openai

        arguments: dict[str, Any] = {
            "model": request.model,
            "messages": list(request.messages),
            "temperature": request.temperature,
            "seed": request.seed,
            self._limit_name: request.max_tokens,
        }
        if request.json_schema is not None:
            arguments["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": dict(request.json_schema)},
            }
        try:
            return _completion(await self._client.chat.completions.create(**arguments))
        except openai.APIStatusError as error:
            failure = failure_from_status(
                error.status_code,
                redact(_message(error.body), self._key),
                {name.lower(): value for name, value in error.response.headers.items()},
                key_name=_KEY_NAME,
                model=request.model,
            )
        except openai.APITimeoutError as error:
            if type(error.__cause__).__name__ == "ConnectTimeout":
                said = f"{self.endpoint}: not reached in time"
                failure = CallFailure(FailureKind.CONNECTION, said)
            else:
                failure = CallFailure(FailureKind.TIMEOUT, "no answer in time")
        except openai.APIConnectionError as error:
            said = redact(str(error.__cause__ or error), self._key)
            failure = CallFailure(FailureKind.CONNECTION, f"{self.endpoint}: {said}")
        except (openai.APIError, TypeError, ValueError, AttributeError) as error:
            # The SDK trips over bodies that are not JSON, or not of the protocol.
            said = f"the answer is not of the protocol ({type(error).__name__})"
            failure = CallFailure(FailureKind.MALFORMED, said)
        raise failure

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


def _message(body: Any) -> str:
    """What an error body says; the SDK has taken it out of `error`."""
    if isinstance(body, Mapping):
        return " ".join(str(body[name]) for name in ("message", "code") if body.get(name))
    return str(body or "")


def _completion(response: Any) -> Completion:
    """A response as a `Completion`; the SDK does not validate, so nothing is taken for granted.

    Raises:
        CallFailure: If it is not of the protocol, or a content filter kept the answer back.
    """
    choices = getattr(response, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    finish = getattr(choice, "finish_reason", None)
    if message is None or not isinstance(finish, str):
        raise CallFailure(
            FailureKind.MALFORMED, "the answer lacks choices, message or finish_reason"
        )
    if finish == "content_filter":
        raise CallFailure(FailureKind.REQUEST, "the endpoint's content filter kept the answer back")
    # A refusal in words is what the model answered: it counts as an answer that names no category.
    text = getattr(message, "content", None) or getattr(message, "refusal", None) or ""
    usage = getattr(response, "usage", None)
    return Completion(
        text=text if isinstance(text, str) else "",
        truncated=finish == "length",
        input_tokens=token_count(usage, "prompt_tokens"),
        output_tokens=token_count(usage, "completion_tokens"),
    )


def open_model(base_url: str = "", *, timeout_s: float) -> OpenAIModel:
    """The endpoint that the arguments, the environment and the `.env` file name.

    Raises:
        AgentError: If OpenAI's own endpoint is asked without a key.
        MissingDependencyError: If the SDK is not installed.
    """
    key = read_setting(_KEY_NAME, "chat")
    endpoint = base_url or read_setting("OPENAI_BASE_URL", "chat") or _ENDPOINT
    if not key and endpoint == _ENDPOINT:
        raise AgentError(
            f"no key: set {_KEY_NAME} (also in a file called .env), or name a server of your own "
            "with OPENAI_BASE_URL"
        )
    return OpenAIModel(key, endpoint, timeout_s=timeout_s)


def _make_chat(argument: str, context: AgentContext) -> Agent:
    if not argument:
        raise AgentError("chat needs the model's name: chat:MODEL, such as chat:llama3.1")
    settings = HostedSettings.from_options(context.options)
    return HostedAgent(
        lambda: open_model(settings.base_url, timeout_s=settings.timeout),
        argument,
        context.taxonomy,
        settings,
        price=settings.price(None),
        shots=shots_from(context, settings.shots),
        seed=context.seed,
    )


register_agent("chat", _make_chat)
