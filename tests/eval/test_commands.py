"""`eval`, `score`, `report` and `compare` on inputs that are easily taken the wrong way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memroute_agents import RoutingDecision
from memroute_env import Conversation, Dataset, OptionError, load_dataset
from memroute_env.conversation import write_examples
from memroute_eval.evaluate import AgentSpec, evaluate
from memroute_eval.results import read_results, write_results
from tests.cli.conftest import Memroute, refused

HALF_AN_EMOJI = "half \ud83d"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, small: Dataset) -> Path:
    """A train and a test file, as `data split` writes them."""
    write_examples(tmp_path / "splits" / "train.jsonl", small[:10])
    write_examples(tmp_path / "splits" / "test.jsonl", small[10:])
    return tmp_path / "splits"


def test_a_text_that_utf8_cannot_carry_does_not_lose_the_results(
    memroute: Memroute, data: Path, small: Dataset, tmp_path: Path
) -> None:
    lines = [{"id": e.id, "text": HALF_AN_EMOJI} for e in small]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = memroute("score", "--predictions", "p.jsonl", "--data", data, "--json", "out.json")
    assert result.exit_code == 0, result.stderr
    rows = read_results(tmp_path / "out.json")["agents"]["p"]["examples"]
    assert {row["text"] for row in rows} == {HALF_AN_EMOJI}
    assert not list(tmp_path.glob("*.partial"))


def test_results_are_ascii_and_replace_older_ones_at_once(small: Dataset, tmp_path: Path) -> None:
    results = evaluate(["oracle"], small, resamples=2)
    results["dataset"]["name"] = "Grüße"
    path = tmp_path / "deep" / "results.json"
    for _ in range(2):
        write_results(results, path)
        assert path.read_bytes().isascii()
        assert read_results(path)["dataset"]["name"] == "Grüße"
    assert list(path.parent.iterdir()) == [path]


class Unasked:
    """Must not be asked."""

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        raise AssertionError(len(conversations))


def test_a_negative_seed_is_refused_before_any_call(
    memroute: Memroute, data: Path, predictions: Path, small: Dataset
) -> None:
    with pytest.raises(OptionError, match="seed must be 0 or more, got -1"):
        evaluate([AgentSpec("unasked", Unasked())], small, seed=-1)
    for command in (("eval", "--agent", "oracle"), ("score", "--predictions", predictions)):
        result = memroute(*command, "--data", data, "--seed", -1)
        assert result.exit_code == 2
        assert "Invalid value for '--seed'" in result.stderr


def test_a_folder_of_splits_means_its_test_split(
    memroute: Memroute, folder: Path, small: Dataset, predictions: Path, tmp_path: Path
) -> None:
    result = memroute("eval", "--agent", "oracle", "--data", folder, "--json", "o.json")
    assert result.exit_code == 0, result.stderr
    described = read(tmp_path / "o.json")["dataset"]
    assert (described["split"], described["n"]) == ("test", 4)
    wanted = {e.id for e in small[10:]}
    lines = [
        line for line in predictions.read_text().splitlines() if json.loads(line)["id"] in wanted
    ]
    predictions.write_text("\n".join(lines) + "\n")
    result = memroute("score", "--predictions", predictions, "--data", folder, "--json", "s.json")
    assert result.exit_code == 0, result.stderr
    assert read(tmp_path / "s.json")["dataset"] == described


def test_a_folder_with_a_compressed_test_split_is_measured_on_it(
    memroute: Memroute, folder: Path, tmp_path: Path
) -> None:
    write_examples(folder / "test.jsonl.gz", load_dataset(folder, "test"))
    (folder / "test.jsonl").unlink()
    result = memroute("eval", "--agent", "oracle", "--data", folder, "--json", "o.json")
    assert result.exit_code == 0, result.stderr
    assert read(tmp_path / "o.json")["dataset"]["split"] == "test"


def test_a_folder_without_a_test_split_is_refused(memroute: Memroute, folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    line = refused(memroute("eval", "--agent", "oracle", "--data", folder))
    assert "without test.jsonl" in line
    assert "give a JSONL file" in line


def test_a_split_that_is_named_is_the_one_that_is_measured(
    memroute: Memroute, folder: Path, tmp_path: Path
) -> None:
    for data, split in (("marketing:validation", "validation"), ("marketing", "test")):
        result = memroute("eval", "--agent", "constant:none", "--data", data, "--json", "o.json")
        assert result.exit_code == 0, result.stderr
        assert read(tmp_path / "o.json")["dataset"]["split"] == split
    result = memroute("eval", "--agent", "oracle", "--data", folder / "train.jsonl", "--json", "o")
    assert result.exit_code == 0, result.stderr
    assert read(tmp_path / "o")["dataset"]["n"] == 10


def test_report_reads_data_in_the_split_that_was_measured(
    memroute: Memroute, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("jinja2")
    results = evaluate(["oracle"], load_dataset(folder, "test"), resamples=2)
    write_results(results, tmp_path / "r.json")
    moved = folder.rename(tmp_path / "moved")
    for extra in ((), ("--taxonomy", "marketing")):
        result = memroute("report", "r.json", "--data", moved, *extra, "--out", "page.html")
        assert result.exit_code == 0, result.stderr
        page = (tmp_path / "page.html").read_text()
        assert "have changed since" not in page
        assert "message about" in page  # a conversation's text
    line = refused(memroute("report", "r.json", "--data", moved, "--taxonomy", "no-such"))
    assert "no-such" in line


def test_compare_names_results_by_their_run(memroute: Memroute, data: Path, tmp_path: Path) -> None:
    for run in ("run-0.1", "run-0.2"):
        path = f"{run}/results.json"
        memroute("eval", "--agent", "constant:none", "--data", data, "--json", path)
    (tmp_path / "alone.json").write_bytes((tmp_path / "run-0.1/results.json").read_bytes())
    result = memroute("compare", "run-0.1/results.json", "run-0.2", "alone.json", "--json",
                      "--permutations", 10, "--resamples", 10)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = {d[side] for d in json.loads(result.stdout) for side in "ab"}
    assert found == {f"constant:none ({name})" for name in ("run-0.1", "run-0.2", "alone")}


def test_a_name_with_brackets_is_printed_as_it_is(
    memroute: Memroute, data: Path, predictions: Path, tmp_path: Path
) -> None:
    data = data.rename(tmp_path / "[bold]data[_x].jsonl")
    result = memroute("score", "--predictions", predictions, "--data", data, "--name", "x[/y]",
                      "--json", "o.json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "x[/y]" in result.stdout
    assert "[bold]data[_x].jsonl, 14 conversations" in result.stdout
    assert list(read(tmp_path / "o.json")["agents"]) == ["x[/y]"]
