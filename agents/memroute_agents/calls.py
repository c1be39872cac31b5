"""Calling a hosted chat model: the vocabulary, and when a failed call is tried again.

Where errors are caught is decided here once. A protocol's `ChatModel.complete` turns every failure
into a `CallFailure` whose kind says what helps; `Caller` repeats the transient ones with backoff
and jitter, holds everyone back when the endpoint asks for a pause, and passes the rest on. The key
never enters a message: a `ChatModel` builds its failures with `redact`.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from memroute_env.errors import MissingDependencyError, OptionError
from memroute_env.prompt import Message

__all__ = [
    "CallFailure",
    "Caller",
    "ChatModel",
    "ChatRequest",
    "Completion",
    "FailureKind",
    "Price",
    "failure_from_status",
    "read_setting",
    "redact",
    "token_count",
]


class FailureKind(StrEnum):
    """Why a call brought no answer."""

    RATE_LIMIT = "rate_limit"
    """429: too many calls."""
    SERVER = "server"
    """5xx, or the model stopped with an error."""
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    """Refused, reset or cut off."""
    MALFORMED = "malformed"
    """The body is not JSON, or not the protocol's."""
    REQUEST = "request"
    """400, 413, 422: this very request is refused; asking again does not help."""
    AUTH = "auth"
    """The key is missing, refused, or may not do this."""
    MODEL = "model"
    """There is no such model (or no such endpoint)."""
    QUOTA = "quota"
    """Nothing left to spend, or a wait of more than `LONGEST_WAIT_S`."""


TRANSIENT = frozenset(
    (
        FailureKind.RATE_LIMIT,
        FailureKind.SERVER,
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION,
        FailureKind.MALFORMED,
    )
)
"""Asking again may help."""

FATAL = frozenset((FailureKind.AUTH, FailureKind.MODEL, FailureKind.QUOTA))
"""No call can succeed: the run stops."""

LONGEST_WAIT_S = 120.0
"""A longer `Retry-After` ends the run rather than holding it up."""

LONGEST_ANSWER = 500_000
"""Characters of the longest answer that is taken; a line of a data file must hold it."""

CONNECT_S = 10.0
"""Most seconds for reaching an endpoint, however long its answers may take."""

_FIRST_CONTACT = 4
"""Tries of a call to an endpoint that has never been reached."""


class CallFailure(Exception):
    """A call that brought no answer."""

    def __init__(self, kind: FailureKind, message: str, retry_after_s: float | None = None) -> None:
        """Say why in one line; `retry_after_s` is what the endpoint asked for."""
        super().__init__(kind, message, retry_after_s)
        self.kind, self.retry_after_s = kind, retry_after_s
        self.message = " ".join(message.split())[:400]

    def __str__(self) -> str:
        """One line."""
        return self.message


@dataclass(frozen=True)
class ChatRequest:
    """Everything that determines an answer, beside the endpoint."""

    model: str
    messages: tuple[Message, ...]
    temperature: float
    seed: int
    max_tokens: int
    json_schema: Mapping[str, Any] | None = None
    """The answer must be JSON of this schema; None: free text."""


@dataclass(frozen=True)
class Completion:
    """A model's answer."""

    text: str
    truncated: bool
    """The token limit cut it off."""
    input_tokens: int
    """As billed."""
    output_tokens: int


@dataclass(frozen=True)
class Price:
    """USD for a million tokens."""

    input: float
    output: float

    def cost(self, completion: Completion) -> float:
        """USD for one answer."""
        return self.of(completion.input_tokens, completion.output_tokens)

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """USD for so many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class ChatModel(Protocol):
    """One endpoint of one protocol. All its methods belong to one event loop."""

    protocol: str
    endpoint: str

    async def complete(self, request: ChatRequest) -> Completion:
        """Make one call, without retries.

        Raises:
            CallFailure: For whatever goes wrong.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class Caller:
    """Makes calls: a bounded number at a time, the transient failures again.

    The n-th wait is drawn from [0.5, 1] times `base_s * 2**(n-1)`, at most `cap_s`; a `Retry-After`
    is obeyed instead, by every call and not only the one that was told. After a failure that no
    call can escape (key, model, quota) no further one is made.

    Args:
        model: Where to.
        concurrency: Most calls in flight.
        attempts: Most tries of one call.
        base_s: First wait in seconds.
        cap_s: Longest wait in seconds.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        concurrency: int,
        attempts: int = 8,
        base_s: float = 0.5,
        cap_s: float = 30.0,
    ) -> None:
        """See the class."""
        self.model, self.attempts, self.base_s, self.cap_s = model, attempts, base_s, cap_s
        self.answered = 0
        self._reached = False
        self.retries = 0
        self._slots = asyncio.Semaphore(concurrency)
        self._not_before = 0.0
        self._stopped = asyncio.Event()
        self._fatal: CallFailure | None = None

    async def __call__(self, request: ChatRequest) -> tuple[Completion, float]:
        """The answer, and the seconds that the successful try took.

        Raises:
            CallFailure: If no further try helps or is left.
        """
        for attempt in count(1):
            async with self._slots:
                await self._pause()
                if self._fatal is not None:
                    raise self._fatal
                started = time.perf_counter()
                try:
                    completion = await self.model.complete(request)
                    if len(completion.text) > LONGEST_ANSWER:
                        said = f"an answer of {len(completion.text):,} characters is not taken"
                        raise CallFailure(FailureKind.REQUEST, said)
                except CallFailure as error:
                    failure = error
                    if failure.kind in FATAL:
                        self._fatal = failure
                else:
                    self.answered += 1
                    self._reached = True
                    return completion, time.perf_counter() - started
            self._reached |= failure.kind is not FailureKind.CONNECTION
            if failure.kind not in TRANSIENT:
                raise failure
            if attempt >= (self.attempts if self._reached else min(self.attempts, _FIRST_CONTACT)):
                raise CallFailure(failure.kind, f"{failure} (tried {attempt} times)")
            self.retries += 1
            await self._sleep(self._wait_s(attempt, failure))
            if self._stopped.is_set():
                raise failure
        raise AssertionError("unreachable")

    async def _pause(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0 and not self._stopped.is_set():
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond `stop`."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def stop(self) -> None:
        """Wait for nothing any more: calls in flight go on, failed ones are not repeated."""
        self._stopped.set()

    def _wait_s(self, attempt: int, failure: CallFailure) -> float:
        wait = min(self.cap_s, self.base_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
        if failure.retry_after_s is None:
            return wait
        self._not_before = max(self._not_before, time.monotonic() + failure.retry_after_s)
        return failure.retry_after_s

    def hopeless(self, failure: CallFailure) -> bool:
        """Whether other requests are of no use either: all refused, or nobody there."""
        return failure.kind in FATAL or not self._reached


_PER_MINUTE = re.compile(r"(per|/) ?min")
"""An ordinary rate limit, even where the message goes on to quotas and billing."""

_USED_UP = re.compile(
    r"insufficient_quota|exceeded your current quota|billing|(per|/) ?month|monthly|trial key"
)

_MODEL_UNKNOWN = re.compile(r"model\b.*\b(not found|not exist|unknown|invalid|removed|deprecated)")


def failure_from_status(
    status: int, message: str, headers: Mapping[str, str], *, key_name: str, model: str
) -> CallFailure:
    """A `CallFailure` from an HTTP status, the body's message and the headers (lower-case names).

    Args:
        status: HTTP status.
        message: What the endpoint said, without the key in it.
        headers: Of the response.
        key_name: Environment variable of the key, for the remedy.
        model: Model asked for, for the remedy.
    """
    said = f"{status}: {message}" if message else str(status)
    lower = message.lower()
    if status in (401, 403, 498):
        return CallFailure(
            FailureKind.AUTH, f"the key is refused ({said}); check {key_name} or your .env file"
        )
    if status == 404 or (status == 400 and _MODEL_UNKNOWN.search(lower)):
        return CallFailure(
            FailureKind.MODEL,
            f"no model {model!r} at this endpoint ({said}); check its name and the base URL",
        )
    wait = _retry_after_s(headers)
    brief = _PER_MINUTE.search(lower) or (wait is not None and wait <= LONGEST_WAIT_S)
    if status == 402 or (status == 429 and not brief and _USED_UP.search(lower)):
        return CallFailure(
            FailureKind.QUOTA, f"nothing left to spend ({said}); check your plan, then resume"
        )
    if status == 429 or status in (408, 409) or status >= 500:
        if wait is not None and wait > LONGEST_WAIT_S:
            return CallFailure(
                FailureKind.QUOTA, f"the endpoint asks to wait {wait:.0f} s ({said}); resume then"
            )
        kind = FailureKind.RATE_LIMIT if status == 429 else FailureKind.SERVER
        return CallFailure(kind, said, wait)
    if 200 <= status < 300:
        return CallFailure(FailureKind.MALFORMED, f"the answer is not of the protocol ({said})")
    return CallFailure(FailureKind.REQUEST, f"the request is refused ({said})")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After-Ms` or `Retry-After` (seconds or a date)."""
    from email.utils import parsedate_to_datetime

    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            continue
    return None


def token_count(usage: object, name: str) -> int:
    """A number of tokens from what an endpoint says of its usage; 0 where it says none."""
    value = getattr(usage, name, None)
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0


def redact(text: str, key: str) -> str:
    """`text` without the key."""
    return text.replace(key, "[key]") if key else text


def read_setting(name: str, extra: str) -> str:
    """An environment variable, or its entry in the working folder's `.env` file; empty if neither.

    Raises:
        MissingDependencyError: If there is a `.env` file to read but no python-dotenv.
        OptionError: If the value could not be a header: it holds white space or control characters.
    """
    value = os.environ.get(name, "")
    if not value and Path(".env").is_file():
        try:
            from dotenv import dotenv_values
        except ImportError:
            raise MissingDependencyError("python-dotenv", extra) from None
        value = dotenv_values(".env").get(name) or ""
    value = value.strip()
    if not value.isascii() or any(c.isspace() or not c.isprintable() for c in value):
        raise OptionError(f"{name} holds white space or characters that no key has; set it anew")
    return value
