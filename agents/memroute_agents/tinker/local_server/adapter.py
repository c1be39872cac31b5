"""Lets the Tinker SDK 0.38 talk to SkyRL 0.3.0's Tinker server, which speaks an older dialect.

An ASGI application around the server's own. It can go when a released SkyRL decodes the SDK's
protobuf requests itself. It runs in the server's virtual environment and imports nothing of this
project. What it does:

1. `forward_backward` arrives as protobuf: decoded to JSON; `forward_only` goes to `forward`.
2. `retrieve_future` answers in protobuf where the SDK asks for it, with a `loss:sum` metric. All
   waiting requests share one database query per tick, instead of one each.
3. `asample` replies carry `sample_sequence_ids`.
4. The missing log-probability of a prompt's first token is put back (as NaN).
5. `load_weights` without a model id creates the model from the state. The SDK names that model by
   itself, so the name is kept as an alias. The server restores the optimizer with the weights, also
   where the SDK asked for the weights alone.
6. `DELETE` of a checkpoint, which the server does not have, deletes its files.
7. A training request that comes twice, because its client lost the first answer, is done once: the
   server does not look at `seq_id`, and a second optimizer step would part the weights that are
   trained from those that are sampled.
8. An HTTP 500 is tried again and then answered as 400, since the SDK retries a 500 for ever.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from skyrl.tinker.db_models import FutureDB, RequestStatus
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession
from tinker.proto import tinker_public_pb2 as pb

JSON = b"application/json"
PROTOBUF = b"application/x-protobuf"
CHECKPOINT = re.compile(
    r"/api/v1/training_runs/(?P<model>[\w-]+)/checkpoints/"
    r"(?:(?P<kind>weights|sampler_weights)/)?(?P<name>[\w-]+)"
)
ONCE = {"forward", "forward_backward", "optim_step", "save_weights", "save_weights_for_sampler"}
TICK_S = 0.05
LONGEST_WAIT_S = 30.0
"""Under the 45 s after which the SDK gives up on one poll; it asks again after a 408."""


class Adapter:
    """ASGI application in front of SkyRL's; `app` is `skyrl.tinker.api.app`."""

    def __init__(self, app: Any) -> None:
        """See the class."""
        self.app = app
        self.alias: dict[str, str] = {}
        self.waiting: dict[int, list[asyncio.Future[FutureDB]]] = {}
        self.poller: asyncio.Task[None] | None = None
        self.done: dict[tuple[str, str, int], asyncio.Task[tuple[int, bytes, bytes]]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            for name, real in self.alias.items() if scope["type"] == "http" else ():
                if name in unquote(scope["path"]):
                    path = unquote(scope["path"]).replace(name, real)
                    scope = {**scope, "path": path, "raw_path": quote(path).encode()}
            if scope["type"] == "http" and scope["method"] == "DELETE":
                return await _respond(send, self.delete(scope["path"]), JSON, b"")
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        body = await _read(receive)
        path = scope["path"].removeprefix("/api/v1/")
        try:
            if path == "forward_backward":
                reply = await self.forward_backward(body)
            elif path == "retrieve_future":
                reply = await self.retrieve(json.loads(body), headers.get(b"accept", b""))
            else:
                request = json.loads(body or b"{}")
                self._resolve(request)
                if path == "create_sampling_session" and request.get("model_path"):
                    request.pop("base_model", None)  # the server takes one of them
                if path == "load_weights" and not request.get("model_id"):
                    reply = await self.create_from_state(request)
                else:
                    reply = await self.call(path, request)
                    if path == "asample" and reply[0] == 200:
                        answer = json.loads(reply[2])
                        count = int(request.get("num_samples", 1))
                        answer["sample_sequence_ids"] = [
                            f"{answer['request_id']}:{i}" for i in range(count)
                        ]
                        reply = 200, JSON, json.dumps(answer).encode()
        except Refused as refusal:
            reply = 400, JSON, json.dumps({"detail": str(refusal)}).encode()
        await _respond(send, *reply)

    def _resolve(self, request: dict[str, Any]) -> None:
        for key in ("model_id", "model_path", "path", "tinker_path"):
            for name, real in self.alias.items():
                if isinstance(request.get(key), str):
                    request[key] = request[key].replace(name, real)

    def delete(self, path: str) -> int:
        """Delete a checkpoint's files; returns the HTTP status."""
        found = CHECKPOINT.fullmatch(unquote(path))
        if found is None:
            return 404
        base = Path(str(self.app.state.engine_config.checkpoints_base)) / found["model"]
        folder = base / "sampler_weights" if found["kind"] == "sampler_weights" else base
        file = folder / f"{found['name']}.tar.gz"
        if not file.exists():
            return 404
        if file.is_dir():  # training states are folders
            shutil.rmtree(file)
        else:
            file.unlink()
        return 204

    async def call(self, path: str, request: dict[str, Any]) -> tuple[int, bytes, bytes]:
        """One JSON request to the server itself: status, content type, body."""
        model, number = request.get("model_id"), request.get("seq_id")
        if path not in ONCE or not model or number is None:
            return await self.forwarded(path, request)
        key = path, str(model), int(number)
        task = self.done.get(key)
        if task is None:
            task = self.done[key] = asyncio.create_task(self.forwarded(path, request))
        reply = await asyncio.shield(task)
        if reply[0] != 200:
            self.done.pop(key, None)
        return reply

    async def forwarded(self, path: str, request: dict[str, Any]) -> tuple[int, bytes, bytes]:
        """The server's answer, asked up to four times."""
        answer = b""
        for attempt in range(4):
            body = json.dumps(request).encode()
            status, content_type, answer = await _ask(self.app, f"/api/v1/{path}", body)
            if status < 500:
                return status, content_type, answer
            await asyncio.sleep(0.2 * (attempt + 1))
        return 400, JSON, json.dumps({"detail": f"{path}: {answer[:500]!r}"}).encode()

    async def forward_backward(self, body: bytes) -> tuple[int, bytes, bytes]:
        """From protobuf to JSON."""
        message = pb.ForwardBackwardRequest()
        message.ParseFromString(body)
        config = {k: v.number for k, v in message.loss_fn_config_v2.items()}
        inputs = {
            "data": [_datum(d) for d in message.data],
            "loss_fn": message.loss_fn,
            "loss_fn_config": config or dict(message.loss_fn_config) or None,
        }
        model_id = self.alias.get(message.model_id, message.model_id)
        path = "forward" if message.forward_only else "forward_backward"
        request = {"model_id": model_id, "seq_id": message.seq_id, f"{path}_input": inputs}
        return await self.call(path, request)

    async def create_from_state(self, request: dict[str, Any]) -> tuple[int, bytes, bytes]:
        """Make a model like the state's, and load the state into it."""
        info = _ok(await self.call("weights_info", {"tinker_path": request["path"]}))
        model = {
            "session_id": request["session_id"],
            "base_model": info["base_model"],
            "lora_config": {"rank": info["lora_rank"]},
        }
        created = _ok(await self.call("create_model", model))
        name = f"{request['session_id']}:train:{request['model_seq_id']}"
        self.alias[name] = created["model_id"]
        if await self.wait(int(created["request_id"])) is None:
            raise Refused("the model was not created in time")
        load = {"model_id": created["model_id"], "path": request["path"]}
        return await self.call("load_weights", load)

    async def retrieve(self, request: dict[str, Any], accept: bytes) -> tuple[int, bytes, bytes]:
        """The result of an operation, in the form that is asked for."""
        future = await self.wait(int(request["request_id"]))
        if future is None:
            return 408, JSON, b'{"detail": "still running"}'
        result = future.result_data or {"error": "the server gave no result"}
        if "error" in result or future.status == RequestStatus.FAILED:
            answer = {"error": str(result.get("error", result)), "category": "server"}
            return 200, JSON, json.dumps(answer).encode()
        if PROTOBUF in accept and "loss_fn_outputs" in result:
            return 200, PROTOBUF, _forward_backward_output(result)
        if PROTOBUF in accept and "sequences" in result:
            return 200, PROTOBUF, _sample_response(result)
        sampler = result.get("type") == "save_weights_for_sampler" and result.get("path")
        if sampler and "/sampler_weights/" not in sampler:
            head, _, name = sampler.rpartition("/")
            result = {**result, "path": f"{head}/sampler_weights/{name}"}
        return 200, JSON, json.dumps(result).encode()

    async def wait(self, request_id: int) -> FutureDB | None:
        """The finished future, or None after `LONGEST_WAIT_S`."""
        waiter: asyncio.Future[FutureDB] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(request_id, []).append(waiter)
        if self.poller is None or self.poller.done():
            self.poller = asyncio.create_task(self._poll())
        try:
            return await asyncio.wait_for(waiter, LONGEST_WAIT_S)
        except TimeoutError:
            return None

    async def _poll(self) -> None:
        while self.waiting:
            async with AsyncSession(self.app.state.db_engine) as session:
                done = select(FutureDB).where(
                    FutureDB.request_id.in_(list(self.waiting)),  # type: ignore[attr-defined]
                    FutureDB.status != RequestStatus.PENDING,
                )
                for future in (await session.exec(done)).all():
                    for waiter in self.waiting.pop(future.request_id, ()):
                        if not waiter.done():
                            waiter.set_result(future)
            for request_id, waiters in list(self.waiting.items()):
                if all(w.done() for w in waiters):
                    del self.waiting[request_id]
            await asyncio.sleep(TICK_S)


class Refused(Exception):
    """The server refused a step of a request."""


def _ok(reply: tuple[int, bytes, bytes]) -> dict[str, Any]:
    if reply[0] != 200:
        raise Refused(reply[2].decode(errors="replace")[:500])
    return json.loads(reply[2])


_NUMPY = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64, pb.DTYPE_INT32: np.int32}


def _datum(datum: Any) -> dict[str, Any]:
    chunks = [
        {"type": "encoded_text", "tokens": np.frombuffer(c.encoded_text.tokens, np.int32).tolist()}
        for c in datum.model_input
    ]
    inputs = {
        name: {"data": np.frombuffer(t.dense, _NUMPY[t.dtype]).tolist()}
        for name, t in datum.loss_fn_inputs.items()
    }
    return {"model_input": {"chunks": chunks}, "loss_fn_inputs": inputs}


def _forward_backward_output(result: dict[str, Any]) -> bytes:
    outputs = result["loss_fn_outputs"]
    message = pb.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    record = message.loss_fn_outputs.add(type_tag="ArrayRecord", num_datums=len(outputs))
    for name in outputs[0] if outputs else ():
        arrays = [np.asarray(o[name]["data"], np.float32) for o in outputs]
        ends = np.cumsum([0, *(a.nbytes for a in arrays)], dtype=np.int64)
        field = record.fields[name]
        field.data, field.offsets = b"".join(a.tobytes() for a in arrays), ends.tobytes()
        field.dtype = pb.DTYPE_FLOAT32
    losses = [sum(o["elementwise_loss"]["data"]) for o in outputs if "elementwise_loss" in o]
    for name, value in {"loss:sum": sum(losses), **(result.get("metrics") or {})}.items():
        message.metrics[name] = float(value)
    return message.SerializeToString()


def _sample_response(result: dict[str, Any]) -> bytes:
    message = pb.SampleResponse()
    for sequence in result["sequences"]:
        stop = pb.STOP_REASON_STOP if sequence["stop_reason"] == "stop" else pb.STOP_REASON_LENGTH
        message.sequences.add(
            stop_reason=stop,
            tokens=np.asarray(sequence["tokens"], np.int32).tobytes(),
            logprobs=np.asarray(sequence["logprobs"], np.float32).tobytes(),
        )
    prompt = result.get("prompt_logprobs")
    if prompt is not None:
        message.prompt_logprobs = np.asarray([np.nan, *prompt], np.float32).tobytes()
    return message.SerializeToString()


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _respond(send: Any, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _ask(app: Any, path: str, body: bytes) -> tuple[int, bytes, bytes]:
    """POST a JSON body to an ASGI application in this process."""
    status, content_type, parts = 500, JSON, []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, content_type
        if message["type"] == "http.response.start":
            status = message["status"]
            content_type = dict(message["headers"]).get(b"content-type", JSON)
        else:
            parts.append(message.get("body", b""))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "server": ("127.0.0.1", 0), "client": ("127.0.0.1", 0),
        "headers": [(b"content-type", JSON), (b"content-length", str(len(body)).encode())],
    }  # fmt: skip
    try:
        await app(scope, receive, send)
    except Exception as error:  # the server's own error middleware re-raises after answering
        return 500, JSON, repr(error).encode()
    return status, content_type, b"".join(parts)
