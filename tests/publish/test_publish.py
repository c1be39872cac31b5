"""What is exported is what is in the data, and a push delivers it whole or says why not."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("huggingface_hub")

from huggingface_hub import DatasetCard
from pyarrow import parquet

from memroute_data_gen.compose import compose
from memroute_data_gen.repository import load_splits, write_hf
from memroute_env.conversation import Example, write_examples
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.errors import DataError, MissingDependencyError
from tests.servers.hub import TOKEN, HubServer

_PROGRAM = """
import typer
from memroute_data_gen.publish import export, push
app = typer.Typer()
app.command()(export)
app.command()(push)
app()
"""


def command(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """`memroute data export` and `push` as users run them."""
    process = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=50,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",  # the stand-in speaks LFS, the other upload path
            "HF_TOKEN": TOKEN,
            **environment,
        },
    )
    return process.returncode, process.stdout, process.stderr


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with two splits; one example carries everything that the format allows."""
    full = {
        "id": "full",
        "conversation": [
            {"role": "user", "content": 'Grüße, "quoted" | piped\nand broken'},
            {"role": "assistant", "content": "ok"},
        ],
        "labels": {
            "categories": ["company.brand_core", "user.role_context"],
            "evidence": {"company.brand_core": [0], "user.role_context": [0, 1]},
            "rationale": "why",
            "annotator": {"name": "A", "rounds": [1, 2]},
        },
        "metadata": {
            "domain": "D",
            "difficulty": "hard",
            "source": "s",
            "distractors": [1],
            "n": 7,
        },
        "more": [None, 1.5],
    }
    examples = [*compose(60, seed=1), Example.model_validate(full)]
    write_examples(tmp_path / "corpus" / "train.jsonl", examples)
    write_examples(tmp_path / "corpus" / "test.jsonl.gz", compose(20, seed=1, split="test"))
    return tmp_path / "corpus"


def example_of(row: dict[str, Any]) -> Example:
    """The example that a row was made of."""
    extra = json.loads(row["extra"] or "{}")
    metadata = {name: row[name] for name in ("domain", "difficulty", "source", "distractors")}
    return Example.model_validate(
        {
            "id": row["id"],
            "conversation": row["conversation"],
            "labels": {
                "categories": row["categories"],
                "evidence": {e["category"]: e["turns"] for e in row["evidence"]},
                "rationale": row["rationale"],
                **extra.get("labels", {}),
            },
            "metadata": {**metadata, **extra.get("metadata", {})},
            **extra.get("example", {}),
        }
    )


def rows(source: Any) -> list[Example]:
    return [example_of(row) for row in parquet.read_table(source).to_pylist()]


def test_parquet_holds_everything_that_the_lines_hold(corpus: Path, tmp_path: Path) -> None:
    status, out, err = command(tmp_path, "export", "--data", str(corpus), "--out", "files")
    assert status == 0, err
    assert sorted(p.name for p in (tmp_path / "files").iterdir()) == [
        "test.parquet",
        "train.parquet",
    ]
    for split in ("train", "test"):
        assert f"{split}.parquet" in out
        assert rows(tmp_path / "files" / f"{split}.parquet") == list(load_dataset(corpus, split))


def test_equal_data_gives_equal_bytes(corpus: Path, tmp_path: Path) -> None:
    splits = load_splits(str(corpus))
    first = [p.read_bytes() for p in write_hf(splits, tmp_path / "a", name="x")]
    second = [p.read_bytes() for p in write_hf(splits, tmp_path / "b", name="x")]
    assert first == second


def test_several_splits_do_not_fit_one_file(corpus: Path, tmp_path: Path) -> None:
    status, _, err = command(tmp_path, "export", "--data", str(corpus), "--out", "x.parquet")
    assert status == 2 and "train, test" in err and err.count("\n") == 1
    file = str(corpus / "train.jsonl")
    assert command(tmp_path, "export", "--data", file, "--out", "x.parquet")[0] == 0
    assert len(rows(tmp_path / "x.parquet")) == 61


def test_the_card_says_what_is_in_the_data(corpus: Path, tmp_path: Path) -> None:
    splits = load_splits(str(corpus))
    files = write_hf(splits, tmp_path / "repo", name="me/memories", license_id="cc-by-4.0")
    assert all(file.is_file() for file in files)
    card = DatasetCard.load(files[0])
    front = card.data.to_dict()
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"]
    (config,) = front["configs"]
    assert [entry["split"] for entry in config["data_files"]] == ["train", "test"]
    for entry in config["data_files"]:
        assert len(rows(tmp_path / "repo" / entry["path"])) == len(splits[entry["split"]])
    assert all(dataset.sha256 in card.text for dataset in splits.values())
    taxonomy = splits["train"].taxonomy
    for category in taxonomy.categories:
        bit = taxonomy.bits[category.id]
        counts = [
            sum(bool(m & bit) if bit else m == 0 for m in d.gold_masks.tolist())
            for d in splits.values()
        ]
        assert (
            f"| `{category.id}` | {category.description} | {counts[0]} | {counts[1]} |" in card.text
        )
    assert json.loads(files[1].read_text()) == taxonomy.to_dict()


def test_a_card_claims_no_licence_for_data_of_others(corpus: Path, tmp_path: Path) -> None:
    (card, *_) = write_hf(load_splits(str(corpus)), tmp_path / "repo", name="x")
    assert "license" not in card.read_text().partition("\n---\n")[0]


def test_a_push_delivers_every_file_in_one_commit(corpus: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        arguments = ("push", "me/memories", "--data", str(corpus), "--endpoint", hub.url)
        status, out, err = command(tmp_path, *arguments)
        assert status == 0, err
        repo = hub.repos["me/memories"]
        assert f"{hub.url}/datasets/me/memories/commit/" in out
        assert repo["private"] and len(repo["commits"]) == 1
        assert sorted(repo["files"]) == [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00001.parquet",
            "taxonomy.json",
        ]
        train = io.BytesIO(repo["files"]["data/train-00000-of-00001.parquet"])
        assert rows(train) == list(load_dataset(corpus, "train"))
        status, _, err = command(tmp_path, *arguments, "--message", "Again")  # it exists by now
        assert status == 0, err
        assert repo["commits"] == ["Upload dataset", "Again"]
        assert TOKEN not in out + err
    assert not any(TOKEN.encode() in content for content in repo["files"].values())


def test_a_passing_fault_of_the_hub_is_survived(corpus: Path, tmp_path: Path) -> None:
    script = ("", "", "503", "")  # the call after the card was checked
    with HubServer(script=script) as hub:
        arguments = ("push", "me/x", "--data", str(corpus), "--public", "--endpoint", hub.url)
        status, _, err = command(tmp_path, *arguments)
        assert status == 0, err
        assert hub.outcomes["503"] == 1
        assert len(hub.repos["me/x"]["files"]) == 4 and not hub.repos["me/x"]["private"]


def test_a_refused_token_is_one_line_that_does_not_show_it(corpus: Path, tmp_path: Path) -> None:
    wrong = "hf_wrongWRONGwrong31337"
    with HubServer() as hub:
        arguments = ("push", "me/x", "--data", str(corpus))
        status, out, err = command(tmp_path, *arguments, HF_TOKEN=wrong, HF_ENDPOINT=hub.url)
    assert status == 2 and err.count("\n") == 1 and "HF_TOKEN" in err and "401" in err
    assert wrong not in out + err


def test_a_hub_that_is_not_there_and_a_bad_name_are_one_line(corpus: Path, tmp_path: Path) -> None:
    with HubServer() as hub:
        pass
    for repo in ("me/x", "not a name"):
        arguments = ("push", repo, "--data", str(corpus), "--endpoint", hub.url)
        status, _, err = command(tmp_path, *arguments)
        assert status == 2 and err.count("\n") == 1 and repo in err


def test_a_source_is_found_or_its_absence_explained(corpus: Path, tmp_path: Path) -> None:
    assert list(load_splits(str(corpus))) == ["train", "test"]
    assert list(load_splits(str(corpus / "test.jsonl.gz"))) == ["test"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"train\.jsonl"):
        load_splits(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="no-such"):
        load_splits("no-such")


def test_a_missing_library_is_named_with_its_extra(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    splits: dict[str, Dataset] = load_splits(str(corpus))
    with pytest.raises(MissingDependencyError, match=r"memroute-env\[hub\]"):
        write_hf(splits, tmp_path / "repo", name="x")
