"""`data check` and `data split`: what they say and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memroute_data_gen.repository import load_splits
from memroute_env import Dataset, load_dataset
from memroute_env.conversation import write_examples
from tests.cli.conftest import Memroute, refused
from tests.conftest import SUPPORT_TOML, make_example

NOT_MEASURED = "near duplicates across: not measured; name the other splits with --against"


def test_what_was_not_compared_is_not_called_clean(
    memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    result = memroute("data", "check", data, "--fast", "--json", "q.json", "--html", "q.html")
    assert NOT_MEASURED in result.stdout
    assert json.loads((tmp_path / "q.json").read_text())["across"] is None
    assert NOT_MEASURED in (tmp_path / "q.html").read_text()
    write_examples(tmp_path / "b.jsonl", [make_example("other", ["none"], "of otters, at length")])
    result = memroute("data", "check", data, "--fast", "--against", "b.jsonl", "--json", "q.json")
    assert "near duplicates across: 0" in result.stdout
    assert json.loads((tmp_path / "q.json").read_text())["across"] == []


def test_a_shipped_split_is_compared_with_its_siblings(memroute: Memroute) -> None:
    result = memroute("data", "check", "marketing:validation", "--fast")
    assert "near duplicates across: 0" in result.stdout
    assert "compared with marketing:train, marketing:test" in result.stderr
    result = memroute("data", "check", "marketing-50", "--fast")
    assert NOT_MEASURED in result.stdout


def test_names_with_brackets_are_printed_as_they_are(
    memroute: Memroute, small: Dataset, tmp_path: Path
) -> None:
    example = small[0].model_copy(
        update={"metadata": small[0].metadata.model_copy(update={"domain": "[/b] [red]x"})}
    )
    path = tmp_path / "[bold]a[_b].jsonl"
    write_examples(path, [example, *small[1:]])
    result = memroute("data", "check", path.name, "--fast", "--json", "q.json")
    assert result.exit_code == 1, result.output
    assert "[bold]a[_b].jsonl: 14 conversations" in result.stdout
    assert "[/b] [red]x 1" in result.stdout
    assert (tmp_path / "q.json").exists()


def test_an_empty_split_gets_no_file(memroute: Memroute, tmp_path: Path) -> None:
    words = [a + b for a in "abcdefghij" for b in "klmnop"]
    examples = [
        make_example(w, ["none"], f"{w} is what only {w} is about {w}", "ok", f"yes {w}")
        for w in words
    ]
    write_examples(tmp_path / "all.jsonl", examples)
    split = ("data", "split", "all.jsonl", "--out-dir", "splits")
    assert memroute(*split).exit_code == 0
    assert (tmp_path / "splits/validation.jsonl").exists()
    result = memroute(*split, "--validation", 0)
    assert result.exit_code == 0, result.stderr
    assert "validation      0  (empty: no file)" in result.stdout
    assert {p.name for p in (tmp_path / "splits").iterdir()} == {"train.jsonl", "test.jsonl"}
    parts = [load_dataset(tmp_path / "splits", name) for name in ("train", "test")]
    assert sum(map(len, parts)) == 60


def test_export_takes_names_as_every_other_command_does(
    memroute: Memroute, small: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    write_examples(tmp_path / "marketing-50" / "train.jsonl", small)
    export = ("data", "export", "--format", "hf", "--data")
    for source, size, license_line in (("marketing-50", 50, True), ("./marketing-50", 14, False)):
        splits = load_splits(source)
        assert [len(part) for part in splits.values()] == [size]
        assert memroute(*export, source, "--out", "o").exit_code == 0
        card = (tmp_path / "o" / "README.md").read_text()
        assert ("license: apache-2.0" in card) == license_line
    assert list(load_splits("marketing-50")) == ["test"]


def test_a_taxonomy_that_shipped_data_are_not_labelled_in_is_refused(
    memroute: Memroute, tmp_path: Path
) -> None:
    (tmp_path / "support.toml").write_text(SUPPORT_TOML)
    for source in ("marketing", "marketing-50:test"):
        result = memroute("data", "export", "--data", source, "--taxonomy", "support.toml",
                          "--out", "o")  # fmt: skip
        assert "is labelled in the taxonomy 'marketing'" in refused(result)
    assert not (tmp_path / "o").exists()
