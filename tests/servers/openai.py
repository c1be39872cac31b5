"""An OpenAI-compatible chat-completions endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.servers.base import Request, Response, Server

KEY = "sk-test-KEY-77aa01"
MODEL = "small-chat"

_PARAMETERS = {"model", "messages", "temperature", "seed", "max_tokens", "max_completion_tokens"}


class OpenAIServer(Server):
    """`POST /v1/chat/completions`.

    Args:
        answers: Text, or a whole response, for a request.
        finish: Every answer's finish reason.
        message: Further fields of every answer's message.
    """

    def __init__(
        self,
        *,
        answers: Callable[[dict[str, Any]], str | Response] = lambda call: "none",
        finish: str = "stop",
        message: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.answers, self.finish, self.message = answers, finish, message or {}

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def error_body(self, message: str) -> Any:
        return {"error": {"message": message, "type": "error", "param": None, "code": None}}

    def handle(self, request: Request) -> Response:
        if (request.method, request.path) != ("POST", "/v1/chat/completions"):
            return Response.of(self.error_body(f"no route {request.path}"), 404)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given != KEY:
            return Response.of(self.error_body(f"Incorrect API key provided: {given}"), 401)
        call = request.json()
        unknown = set(call) - _PARAMETERS
        if unknown:
            return Response.of(self.error_body(f"Unrecognized arguments: {sorted(unknown)}"), 400)
        if call["model"] != MODEL:
            body = self.error_body(f"The model '{call['model']}' does not exist")
            return Response.of(body, 404)
        text = self.answers(call)
        if isinstance(text, Response):
            return text
        return Response.of(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": MODEL,
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": self.finish,
                        "message": {"role": "assistant", "content": text, **self.message},
                    }
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
            },
            paid=True,
        )
