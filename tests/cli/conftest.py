"""The command line in this process, and in one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from memroute_env import Dataset
from memroute_env.conversation import write_examples
from memroute_eval.cli import app

Memroute = Callable[..., Result]


@pytest.fixture
def memroute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memroute:
    """Run a command in this process, with a folder of its own; what it writes is captured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)

    return run


def spawn(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, which Ctrl-C reaches."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # Tests that a shell runs in the background ignore it, and a new process would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "memroute_eval.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def data(tmp_path: Path, small: Dataset) -> Path:
    """Fourteen examples in a file."""
    path = tmp_path / "data.jsonl"
    write_examples(path, small)
    return path


@pytest.fixture
def predictions(tmp_path: Path, small: Dataset) -> Path:
    """A right answer to each of the fourteen, as text."""
    path = tmp_path / "preds.jsonl"
    lines = [{"id": e.id, "text": ", ".join(e.labels.categories)} for e in small]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def refused(result: Result) -> str:
    """The one clear line on standard error of a command that refused its input."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert "Traceback" not in result.stderr
    return lines[0]
