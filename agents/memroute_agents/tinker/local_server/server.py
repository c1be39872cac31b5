"""Start and stop a Tinker server on this machine: SkyRL with its JAX backend, behind the adapter.

    python -m memroute_agents.tinker.local_server.server install        # once: the server's venv
    python -m memroute_agents.tinker.local_server.server serve MODEL_DIR --port 8001

In tests: `with LocalServer(model_dir, work_dir) as server: … server.url …`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from memroute_env.errors import AgentError

__all__ = ["SERVER_PACKAGES", "LocalServer", "install_server", "server_python"]

SERVER_PACKAGES = ("torch==2.13.0", "skyrl[tinker,jax]==0.3.0", "tinker==0.38.0")
"""Pinned. torch (peft, which the server imports, needs it) goes in by itself first: point pip
at CPU builds (PIP_INDEX_URL, PIP_FIND_LINKS) where it would otherwise take CUDA along."""
BACKEND = {
    "max_lora_adapters": 8,
    "max_lora_rank": 8,
    "sample_max_num_sequences": 64,
    "train_micro_batch_size": 8,
}
"""Fixed batch shapes: each new size compiles again. Of the adapters, one is the base model's
and three hold what is sampled (`serve.py`): four models can be trained at a time."""
START_TIMEOUT_S = 180.0


def _cache_dir() -> Path:
    return Path(os.environ.get("MEMROUTE_CACHE", Path.cwd() / "runs" / "cache"))


def server_python() -> Path:
    """The server's interpreter: `MEMROUTE_SKYRL_PYTHON`, or `.venv-skyrl` in this folder."""
    given = os.environ.get("MEMROUTE_SKYRL_PYTHON")
    return Path(given) if given else Path.cwd() / ".venv-skyrl" / "bin" / "python"


def install_server(python: Path | None = None) -> Path:
    """Make the server's virtual environment, unless it is there; about 2.7 GB, two minutes.

    Its transformers excludes the client's, hence an environment of its own.

    Returns:
        Its interpreter.

    Raises:
        AgentError: If pip fails.
    """
    python = python or server_python()
    stamp = python.parent.parent / "memroute-server.json"
    wanted = json.dumps(SERVER_PACKAGES)
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    for packages in ([SERVER_PACKAGES[0]], [*SERVER_PACKAGES]):
        if subprocess.run([*pip, *packages]).returncode:
            raise AgentError(f"pip could not install {' '.join(packages)} into {python.parent}")
    stamp.write_text(wanted)
    return python


def free_port() -> int:
    """A port of localhost that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalServer:
    """A running server; a context manager that stops it, whatever happened.

    Args:
        model: Folder of the base model.
        work_dir: Where its database, checkpoints and log go.
        port: On localhost; a free one by default.
        python: The server's interpreter; `server_python()` by default.
        backend: Overrides of `BACKEND`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        work_dir: str | os.PathLike[str],
        *,
        port: int | None = None,
        python: Path | None = None,
        backend: Mapping[str, Any] | None = None,
    ) -> None:
        """See the class."""
        self.model = Path(model).resolve()
        self.work_dir = Path(work_dir).resolve()
        self.port = port or free_port()
        self.python = python or server_python()
        self.backend = {**BACKEND, **(backend or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What `--base-url` takes."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Output of the server and its engine."""
        return self.work_dir / "server.log"

    def start(self, timeout_s: float = START_TIMEOUT_S) -> LocalServer:
        """Start it and wait until its engine has answered a request.

        Raises:
            AgentError: If the server is not installed, dies or does not answer in time; the message
                ends with the last lines of its log.
        """
        if not self.python.is_file():
            raise AgentError(
                f"{self.python} does not exist: install the server with "
                "'python -m memroute_agents.tinker.local_server.server install'"
            )
        self.work_dir.mkdir(parents=True, exist_ok=True)
        command = [
            str(self.python), str(Path(__file__).with_name("serve.py")), "api",
            "--port", str(self.port), "--base-model", str(self.model),
            "--backend", "jax", "--backend-config", json.dumps(self.backend),
            "--checkpoints-base", str(self.work_dir / "checkpoints"),
            "--database-url", f"sqlite:///{self.work_dir / 'tinker.db'}",
            "--session-timeout-sec", "-1",
        ]  # fmt: skip
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(_cache_dir() / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_healthy(time.monotonic() + timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_healthy(self, deadline: float) -> None:
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AgentError(
                    f"the server ended with status {self._process.returncode}; {self.log} ends:\n"
                    + self.tail()
                )
            try:
                with urllib.request.urlopen(f"{self.url}/api/v1/healthz", timeout=2) as reply:
                    if reply.status == 200 and "Initialized TinkerEngine" in self.tail(200):
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.2)
        raise AgentError(f"the server did not come up in time; {self.log} ends:\n{self.tail()}")

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End the server and its engine; does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
            try:
                # The group holds the engine too; it may outlive the API process.
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                break
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        process.wait()

    def __enter__(self) -> LocalServer:
        """Start it."""
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()


def main(argv: list[str] | None = None) -> None:
    """The commands `install` and `serve`."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="make the server's virtual environment")
    serve = commands.add_parser("serve", help="run until interrupted")
    serve.add_argument("model", help="folder of the base model")
    serve.add_argument("--port", type=int, default=8001)
    serve.add_argument("--work-dir", default="runs/tinker-server")
    options = parser.parse_args(argv)
    if options.command == "install":
        print(install_server())
        return
    # `kill` must end the engine too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with LocalServer(options.model, options.work_dir, port=options.port) as server:
        print(f"ready: {server.url} (log: {server.log}); Ctrl-C ends it", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping")


if __name__ == "__main__":
    main()
