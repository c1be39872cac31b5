"""An HTTP/1.1 server in a thread of its own: keep-alive, latency, injected faults, counters.

A fault is drawn for each call from (seed, number of the call), or taken from `script` as long as
that lasts. A call is *paid* once a whole, well-formed answer is on its way to the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

HTTP_FAULTS = ("429", "500", "503", "timeout", "cut", "malformed", "foreign")
"""Nothing is paid: the answer does not arrive whole, or is none of the protocol."""

ANSWER_FAULTS = ("schema", "not_json", "refusal", "surrogate")
"""Paid, but of no use: the server's `spoil` makes them."""

FOREIGN = (
    {"hello": "world"},
    [],
    "text",
    7,
    None,
    {"message": 3, "finish_reason": "COMPLETE", "choices": 3},
    {"message": [], "finish_reason": ["x"], "choices": [7]},
    {"message": {"content": "text"}, "finish_reason": "COMPLETE", "choices": [{}]},
)
"""Bodies that are JSON but no answer."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    fault: str = ""
    """An answer fault that the handler should produce."""

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    paid: bool = False

    @classmethod
    def of(cls, value: Any, status: int = 200, *, paid: bool = False) -> Response:
        body = json.dumps(value).encode()
        return cls(status, body, {"content-type": "application/json"}, paid)


class Server:
    """Subclasses answer in `handle`.

    Args:
        fault_rate: Share of calls that get a fault.
        faults: Which kinds.
        script: Faults of the first calls, in order; "" is none.
        latency_s: Seconds before an answer.
        retry_after: Value of that header on a 429.
        seed: Of the faults.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        *,
        fault_rate: float = 0.0,
        faults: tuple[str, ...] = HTTP_FAULTS,
        script: tuple[str, ...] = (),
        latency_s: float = 0.0,
        retry_after: str = "0.02",
        seed: int = 0,
        port: int = 0,
    ) -> None:
        self.fault_rate, self.faults, self.script = fault_rate, faults, script
        self.latency_s, self.retry_after, self.seed, self.port = latency_s, retry_after, seed, port
        self.calls = 0
        self.outcomes: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        """Digest of a request's body to the number of paid answers."""
        self.in_flight = self.most_in_flight = 0
        self.times: list[float] = []
        """When each call arrived (loop's clock)."""
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def repeated(self) -> int:
        """Paid answers to requests that had one already."""
        return sum(count - 1 for count in self.paid.values())

    def handle(self, request: Request) -> Response:
        raise NotImplementedError

    def error_body(self, message: str) -> Any:
        """An error as this protocol words it."""
        return {"message": message}

    def charge(self, path: str) -> bool:
        """Whether faults and latency apply to this path."""
        return True

    # -- life cycle ---------------------------------------------------------------------------

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def _run(self, ready: threading.Event) -> None:
        asyncio.run(self.serve(ready))

    async def serve(self, ready: threading.Event | None = None) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        if ready is not None:
            ready.set()
        else:
            print(self.url, flush=True)
        await self._stopping.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await self._read(reader)) is not None:
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Request(method, path, headers, body)

    def _fault(self) -> str:
        number = self.calls
        self.calls += 1
        if number < len(self.script):
            return self.script[number]
        rng = Random(f"{self.seed}/{number}")
        return rng.choice(self.faults) if rng.random() < self.fault_rate else ""

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False ends the connection."""
        if not self.charge(request.path):
            return await self._send(writer, self.handle(request))
        self.requests.append(request)
        self.times.append(self._loop.time())
        fault = self._fault()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            due = self._loop.time() + self.latency_s
            response = self._respond(request, fault)
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            self.outcomes[fault or "answered"] += 1
            if fault == "timeout":
                await reader.read()  # until the caller gives up
                return False
            cut = fault == "cut"
            if response.paid and not cut:
                self.paid[request.digest] += 1
            return await self._send(writer, response, cut=cut)
        finally:
            self.in_flight -= 1

    def _respond(self, request: Request, fault: str) -> Response:
        if fault in ("429", "500", "503"):
            response = Response.of(self.error_body(f"injected {fault}"), int(fault))
            if fault == "429":
                response.headers["retry-after"] = self.retry_after
            return response
        if fault == "malformed":
            return Response(200, b'{"id": "x", "mess', {"content-type": "application/json"})
        if fault == "foreign":
            return Response.of(FOREIGN[self.calls % len(FOREIGN)])
        if fault == "timeout":
            return Response()
        request.fault = fault if fault in ANSWER_FAULTS else ""
        return self.handle(request)

    async def _send(
        self, writer: asyncio.StreamWriter, response: Response, *, cut: bool = False
    ) -> bool:
        headers = {"content-length": str(len(response.body)), **response.headers}
        head = f"HTTP/1.1 {response.status} X\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body = response.body[: len(response.body) // 2] if cut else response.body
        writer.write(head.encode() + b"\r\n" + body)
        await writer.drain()
        return not cut
