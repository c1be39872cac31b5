"""Ctrl-C, in real processes: exit code 130, one line, and a state to go on from."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memroute_agents.local.checkpoint import load_policy
from memroute_data_gen.compose import compose
from memroute_env import load_dataset
from memroute_env.conversation import write_examples
from tests.cli.conftest import spawn
from tests.conftest import make_example

AGENT = """
import pathlib, signal
from memroute_agents import RoutingDecision
class Hangs:
    def route(self, conversations):
        pathlib.Path("hanging").touch()
        signal.pause()
"""


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something has happened; at most a minute, and only while the process lives."""
    for _ in range(6_000):
        if ready():
            return
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"ended too early: {process.communicate()}")
    raise AssertionError("nothing happened within a minute")


def interrupt(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    return lines[0]


def test_training_goes_on_after_an_interrupt_as_if_nothing_had_happened(tmp_path: Path) -> None:
    write_examples(tmp_path / "train.jsonl", compose(400, seed=5))
    write_examples(tmp_path / "held.jsonl", compose(60, seed=6, split="validation"))
    options = ("train", "local", "--data", "train.jsonl", "--validation", "held.jsonl",
               "--iterations", 2)  # fmt: skip
    process = spawn(*options, "--out", "cut", cwd=tmp_path)
    state = tmp_path / "cut" / "state.npz"
    wait_for(state.exists, process)
    said = interrupt(process)
    assert "--resume" in said
    assert "cut" in said
    assert state.exists()
    assert not (tmp_path / "cut" / "policy.npz").exists()

    for arguments in ((*options, "--out", "cut", "--resume"), (*options, "--out", "whole")):
        process = spawn(*arguments, cwd=tmp_path)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    cut, whole = (load_policy(tmp_path / name) for name in ("cut", "whole"))
    for name, array in whole.parameters.arrays().items():
        assert np.array_equal(array, cut.parameters.arrays()[name]), name
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("cut", "whole")]
    assert logs[0] == logs[1]
    assert not state.exists()


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "slow.py").write_text(AGENT)
    write_examples(tmp_path / "data.jsonl", [make_example("a", ["none"])])
    return tmp_path


def test_an_agent_that_hangs_can_be_interrupted(hanging: Path) -> None:
    process = spawn("eval", "--agent", "theirs.slow:Hangs", "--data", "data.jsonl",
                    "--json", "o.json", cwd=hanging)  # fmt: skip
    wait_for((hanging / "hanging").exists, process)
    assert "interrupted" in interrupt(process)


def interrupted_evaluation(folder: Path) -> str:
    """Everything on standard error when the second of two agents hangs and Ctrl-C ends it."""
    process = spawn("eval", "--agent", "oracle", "--agent", "theirs.slow:Hangs",
                    "--data", "data.jsonl", "--json", "o.json", cwd=folder)  # fmt: skip
    wait_for((folder / "hanging").exists, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    return errors


def test_agents_that_had_finished_are_kept_at_an_interrupt(hanging: Path) -> None:
    errors = interrupted_evaluation(hanging)
    assert list(json.loads((hanging / "o.json").read_text())["agents"]) == ["oracle"]
    assert "o.json" in errors


def test_an_interrupted_evaluation_does_not_deny_what_it_wrote(hanging: Path) -> None:
    assert "nothing was written" not in interrupted_evaluation(hanging)


def test_reading_standard_input_can_be_interrupted(tmp_path: Path) -> None:
    process = spawn("route", "--agent", "constant:none", cwd=tmp_path)
    assert process.stdin is not None
    # More than a pipe holds: when all of it is taken, the command is reading.
    process.stdin.write("USER: hi\n" * 50_000)
    process.stdin.flush()
    assert "interrupted" in interrupt(process)


def test_composing_leaves_no_half_file_under_the_final_name(tmp_path: Path) -> None:
    process = spawn("data", "compose", "--num", 5_000_000, "--out", "big.jsonl", cwd=tmp_path)
    wait_for((tmp_path / "big.jsonl.partial").exists, process)
    assert "no file was written" in interrupt(process)
    assert not (tmp_path / "big.jsonl").exists()


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write_examples(tmp_path / "many.jsonl", load_dataset("marketing", "test"))
    command = ("route", "many.jsonl", "--agent", "constant:none")
    with spawn(*command, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == ""
    assert process.returncode == 0
