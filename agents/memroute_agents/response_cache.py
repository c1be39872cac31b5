"""Answers of hosted models that were bought once, kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path

from memroute_agents.calls import ChatRequest, Completion
from memroute_env.errors import AgentError

__all__ = ["ResponseCache"]


class ResponseCache:
    """Answers on disk, one small file each, written atomically.

    The name of a file is the SHA-256 of everything that determines the answer: protocol, endpoint
    and the whole request. Never of the key, which no file holds. A damaged file counts as absent.
    """

    def __init__(self, folder: Path | None) -> None:
        """Keep answers under `folder`; None remembers nothing."""
        self.folder = folder

    @classmethod
    def from_option(cls, cache_dir: str) -> ResponseCache:
        """The cache that `HostedSettings.cache_dir` names."""
        if cache_dir.lower() in ("off", "none"):
            return cls(None)
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(cache_dir) if cache_dir else Path(base) / "memroute" / "responses")

    def check(self) -> None:
        """See to it that answers can be kept before the first one is paid for.

        Raises:
            AgentError: If the folder cannot be made or written to.
        """
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise AgentError(
                f"{self.folder}: answers cannot be kept there ({error.strerror}); set cache_dir "
                "(on the command line XDG_CACHE_HOME) to another folder, or cache_dir to 'off'"
            ) from None

    @staticmethod
    def key(protocol: str, endpoint: str, request: ChatRequest) -> str:
        """The name of a request's answer: 64 hex digits."""
        described = {"protocol": protocol, "endpoint": endpoint, **asdict(request)}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _path(self, key: str) -> Path | None:
        return self.folder / key[:2] / f"{key}.json" if self.folder else None

    def get(self, key: str) -> tuple[Completion, float] | None:
        """The remembered completion and the seconds it took, or None."""
        path = self._path(key)
        if path is None:
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            return Completion(**stored["completion"]), float(stored["latency_s"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, key: str, completion: Completion, latency_s: float) -> None:
        """Remember a completion.

        Raises:
            OSError: If it cannot be written (the disk is full, the folder is gone).
        """
        path = self._path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
        partial.write_text(
            json.dumps({"completion": asdict(completion), "latency_s": latency_s}), encoding="utf-8"
        )
        partial.replace(path)
