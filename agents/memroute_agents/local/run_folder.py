"""What a training run leaves on disk while it lasts: `metrics.jsonl` and `state.npz`."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from memroute_agents.local.optimise import Optimiser
from memroute_env.errors import DataError

__all__ = ["RunFolder"]


class RunFolder:
    """The log of a run and the state to resume it from.

    Args:
        path: Where; None keeps the log in memory only.
        fingerprint: Of data and settings: a state of another run is refused.
        resume: Go on from the state there, if there is one; otherwise begin anew.
    """

    def __init__(self, path: Path | None, fingerprint: str, resume: bool) -> None:
        """See the class."""
        self.path, self.fingerprint = path, fingerprint
        self.metrics: list[dict[str, Any]] = []
        self._resume = False
        if path is None:
            return
        path.mkdir(parents=True, exist_ok=True)
        log, state = path / "metrics.jsonl", path / "state.npz"
        if not resume or not state.exists():
            log.unlink(missing_ok=True)
            state.unlink(missing_ok=True)
            return
        self._resume = True
        if log.exists():
            self.metrics = [json.loads(line) for line in log.read_text().splitlines()]

    def log(self, line: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        self.metrics.append(line)
        if self.path is not None:
            with (self.path / "metrics.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")

    def save(self, stage: str, optimiser: Optimiser) -> None:
        """Keep the state of a finished epoch, atomically."""
        if self.path is None:
            return
        path = self.path / "state.npz"
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            allow_pickle=False,
            stage=np.array(stage),
            fingerprint=np.array(self.fingerprint),
            **optimiser.state(),  # type: ignore[arg-type]
        )
        partial.replace(path)

    def restore(self, stage: str, optimiser: Optimiser) -> None:
        """Put an optimiser where the saved state of its stage stood; drop later metrics.

        Raises:
            DataError: If the state is damaged or of a run with other data or settings.
        """
        if not self._resume or self.path is None:
            return
        path = self.path / "state.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
            stage_of, fingerprint = str(state["stage"]), str(state["fingerprint"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{path}: is damaged ({type(error).__name__}); start anew without --resume"
            ) from None
        if fingerprint != self.fingerprint:
            raise DataError(
                f"{path}: was saved by a run with other data or settings; "
                "use the same ones, or start anew without --resume"
            )
        if stage_of == stage:
            optimiser.restore(state)
        self.metrics = [
            m for m in self.metrics if m["stage"] == stage and m["step"] <= optimiser.epoch
        ]
        (self.path / "metrics.jsonl").write_text(
            "".join(json.dumps(m) + "\n" for m in self.metrics)
        )

    def finish(self) -> None:
        """The run is over: nothing is left to resume."""
        if self.path is not None:
            (self.path / "state.npz").unlink(missing_ok=True)
