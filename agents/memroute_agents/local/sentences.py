"""Sentence embeddings beside the n-grams: an optional view, from any model in ONNX.

`memroute train local --sentence-encoder FOLDER_OR_NAME` (extra `embed`) adds what a small encoder
knows of the language to what the n-grams see: a folder with `tokenizer.json` and `model.onnx` (or
`onnx/model.onnx`), or the name of such a repository on the Hugging Face hub, for example
`sentence-transformers/all-MiniLM-L6-v2`. Tokens are mean-pooled and the result has length 1.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memroute_env.errors import AgentError, MissingDependencyError

__all__ = ["SentenceEncoder"]

FloatArray = npt.NDArray[np.float32]

_BATCH = 64
_MAX_TOKENS = 128
"""Longer sentences are cut: what an encoder of this kind was trained on."""


class SentenceEncoder:
    """Texts to vectors of length 1. The model is read at the first use; safe to share by threads.

    Args:
        name: Folder or hub name.
        sha256: The model file's expected hash; any if empty.
    """

    def __init__(self, name: str, sha256: str = "") -> None:
        """See the class."""
        self.name, self._expected = name, sha256
        self._lock = threading.Lock()
        self._session: Any = None
        self._tokenizer: Any = None
        self._sha256 = ""

    @property
    def sha256(self) -> str:
        """Hash of the model file."""
        self.load()
        return self._sha256

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Embed S texts: (S, E) float32; equal texts are computed once.

        Raises:
            AgentError: If the model cannot be read or is not the expected one.
            MissingDependencyError: Without the extra `embed`.
        """
        self.load()
        distinct = sorted(set(texts), key=len)
        parts = [
            self._embed(distinct[start : start + _BATCH])
            for start in range(0, len(distinct), _BATCH)
        ]
        rows = {text: row for row, text in enumerate(distinct)}
        found = np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)
        return found[[rows[text] for text in texts]]

    @property
    def width(self) -> int:
        """E."""
        self.load()
        return int(self._embed([""]).shape[1])

    def _embed(self, texts: list[str]) -> FloatArray:
        encodings = self._tokenizer.encode_batch(texts)
        known = {
            "input_ids": np.array([e.ids for e in encodings], np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
            "token_type_ids": np.array([e.type_ids for e in encodings], np.int64),
        }
        wanted = [entry.name for entry in self._session.get_inputs()]
        (states, *_) = self._session.run(None, {name: known[name] for name in wanted})
        if states.ndim == 3:
            mask = known["attention_mask"][:, :, None].astype(np.float32)
            states = (states * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        length = np.linalg.norm(states, axis=1, keepdims=True)
        return (states / np.maximum(length, 1e-9)).astype(np.float32)

    def load(self) -> None:
        """Read the model, if that has not been done: errors as when it is called."""
        with self._lock:
            if self._session is not None:
                return
            try:
                from onnxruntime import InferenceSession
                from tokenizers import Tokenizer
            except ImportError as error:
                raise MissingDependencyError(error.name or "onnxruntime", "embed") from None
            folder = _folder_of(self.name)
            model = next(
                (p for p in (folder / "model.onnx", folder / "onnx/model.onnx") if p.is_file()),
                folder / "model.onnx",
            )
            try:
                content = model.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                if self._expected and digest != self._expected:
                    raise AgentError(
                        f"{model}: is not the model that the policy was trained with (SHA-256 "
                        f"{digest[:12]}…, expected {self._expected[:12]}…); bring that one back or "
                        "train anew"
                    )
                tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
                tokenizer.enable_truncation(_MAX_TOKENS)
                tokenizer.enable_padding()
                session = InferenceSession(content, providers=["CPUExecutionProvider"])
            except AgentError:
                raise
            except Exception as error:  # both libraries raise bare exceptions of their own
                raise AgentError(
                    f"{folder}: no sentence encoder can be read there ({str(error)[:120]}); a "
                    "folder needs tokenizer.json and model.onnx"
                ) from None
            self._tokenizer, self._sha256, self._session = tokenizer, digest, session


def _folder_of(name: str) -> Path:
    """A local folder as it is; anything else is asked of the hub (or its cache)."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise AgentError(f"sentence encoder {name!r}: no such folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingDependencyError("huggingface_hub", "embed") from None
    try:
        return Path(snapshot_download(name, allow_patterns=["tokenizer.json", "onnx/model.onnx"]))
    except Exception as error:  # the hub's errors have no common base
        raise AgentError(
            f"sentence encoder {name!r} is neither a folder nor to be had from the hub "
            f"({type(error).__name__}: {str(error)[:120]})"
        ) from None
