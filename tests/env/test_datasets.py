"""Datasets: shipped ones by name, anyone's by path, and what a dataset guarantees."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from memroute_env import (
    DataError,
    Dataset,
    Example,
    Taxonomy,
    load_dataset,
    load_taxonomy,
    shipped_datasets,
)
from memroute_env.conversation import write_examples
from tests.conftest import SUPPORT_TOML, make_example

SPLITS = ("train", "validation", "test")


def utterances(split: str, *, telling: bool) -> set[str]:
    """What users say in a split in more than five words, case, marks and figures aside.

    With `telling` only turns that are named as evidence of a category.
    """
    said = set()
    for example in load_dataset("marketing", split):
        evidence = {i for turns in example.labels.evidence.values() for i in turns}
        for i, turn in enumerate(example.conversation.turns):
            words = re.sub(r"\d+", "0", re.sub(r"[^\w\s]", " ", turn.content.lower())).split()
            if turn.role == "user" and len(words) > 5 and (i in evidence or not telling):
                said.add(" ".join(words))
    return said


def test_the_shipped_dataset_has_three_splits() -> None:
    assert shipped_datasets()["marketing"] == SPLITS
    train, validation, test = (load_dataset("marketing", split) for split in SPLITS)
    assert len(train) >= 2_000
    assert len(validation) >= 200
    assert len(test) >= 200
    assert load_dataset() is train
    assert load_dataset("marketing:test") is test
    assert load_dataset("marketing:test", "test") is test
    assert len({train.sha256, validation.sha256, test.sha256}) == 3


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_every_category(split: str) -> None:
    dataset = load_dataset("marketing", split)
    found = {c for example in dataset for c in example.labels.categories}
    assert found == set(dataset.taxonomy.all_ids)


@pytest.mark.parametrize(("one", "two"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize(
    "telling",
    [
        True,
        pytest.param(
            False,
        ),
    ],
)
def test_no_utterance_stands_in_two_splits(one: int, two: int, telling: bool) -> None:
    ours, theirs = (utterances(SPLITS[k], telling=telling) for k in (one, two))
    assert min(len(ours), len(theirs)) > 100
    assert not ours & theirs


def test_the_shipped_splits_pass_the_gate_on_leaks() -> None:
    from memroute_data_gen.quality import check_corpus

    train, test = load_dataset("marketing", "train"), load_dataset("marketing", "test")
    report = check_corpus(train[::4], train.taxonomy, other=test, deep=False)
    assert report.across == []


def test_ids_are_unique_across_splits() -> None:
    ids = [example.id for split in SPLITS for example in load_dataset("marketing", split)]
    assert len(set(ids)) == len(ids)


def test_an_example_is_reached_as_documented() -> None:
    example = load_dataset("marketing", split="train")[0]
    assert example.id
    assert example.conversation.turns[0].role == "user"
    assert example.labels.categories


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("marketing", "dev", "no split 'dev'; it has train, validation, test"),
        ("marketing:dev", None, "no split 'dev'"),
        ("marketing:test", "train", "contradict"),
        ("marketing-50:train", None, "'marketing-50' has no split 'train'; it has test"),
        ("marketing-50:train", "train", "no split 'train'"),
        ("marketng", None, "neither a shipped dataset .marketing.* nor an existing file"),
        ("absent.jsonl", None, "absent.jsonl: neither"),
    ],
)
def test_an_unknown_name_or_split_is_named(name: str, split: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_dataset(name, split)


def test_a_benchmark_is_its_one_split_whichever_an_environment_asks_for() -> None:
    for split in (None, *SPLITS):
        assert load_dataset("marketing-50", split) is load_dataset("marketing-50:test")


def test_a_folder_called_like_a_shipped_dataset_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Dataset
) -> None:
    write_examples(tmp_path / "marketing" / "test.jsonl", small)
    monkeypatch.chdir(tmp_path)
    assert load_dataset("marketing", "test") is load_dataset("marketing:test")
    assert load_dataset("./marketing", "test").name == "./marketing"


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz"])
def test_a_file_is_loaded_by_path(tmp_path: Path, small: Dataset, name: str) -> None:
    path = tmp_path / name
    write_examples(path, small)
    for given in (path, str(path)):
        dataset = load_dataset(given)
        assert list(dataset) == list(small)
        assert dataset.sha256 == small.sha256
        assert dataset.name == name


def test_a_folder_of_splits_is_loaded_by_split(tmp_path: Path, small: Dataset) -> None:
    write_examples(tmp_path / "train.jsonl", small[:5])
    write_examples(tmp_path / "test.jsonl.gz", small[5:])
    assert len(load_dataset(tmp_path)) == 5
    assert len(load_dataset(tmp_path, "test")) == len(small) - 5
    with pytest.raises(DataError, match=r"without validation.jsonl; give a JSONL file"):
        load_dataset(tmp_path, "validation")


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_an_empty_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="empty.jsonl: holds no example"):
        load_dataset(path)


def test_an_empty_split_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"test.jsonl: holds no example; one JSON object a line"):
        load_dataset(tmp_path, "test")


def test_a_taxonomy_may_be_an_object_or_a_file(tmp_path: Path, support: Taxonomy) -> None:
    path = tmp_path / "data.jsonl"
    write_examples(path, [make_example("a", ["shop.policy"])])
    toml = tmp_path / "mine.toml"
    toml.write_text(SUPPORT_TOML)
    for taxonomy in (support, toml, str(toml)):
        dataset = load_dataset(path, taxonomy=taxonomy)
        assert dataset.taxonomy == support
        assert dataset.gold_masks.tolist() == [8]
    with pytest.raises(DataError, match="data.jsonl:1: .*unknown category 'shop.policy'"):
        load_dataset(path)
    with pytest.raises(DataError, match="labelled in the taxonomy 'marketing', not in 'support'"):
        load_dataset("marketing", taxonomy=support)
    assert load_dataset("marketing", "test", "marketing") is load_dataset("marketing", "test")


# Objects ------------------------------------------------------------------------------------------


def test_it_is_a_sequence(small: Dataset) -> None:
    assert len(small) == 14
    assert small[-1] is small[13]
    assert list(small[2:4]) == [small[2], small[3]]
    assert small[3] in small
    assert small.index_of("three") == 13
    assert small.index(small[5]) == 5
    with pytest.raises(IndexError):
        small[14]
    with pytest.raises(DataError, match="no example with id 'nobody'"):
        small.index_of("nobody")


def test_gold_masks_are_those_of_the_labels(small: Dataset) -> None:
    expected = [small.taxonomy.mask(e.labels.categories) for e in small]
    assert small.gold_masks.tolist() == expected
    assert small.gold_masks.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        small.gold_masks[0] = 3
    assert small.texts[0] == small[0].conversation.to_text()


def test_bad_examples_are_refused(marketing: Taxonomy) -> None:
    with pytest.raises(DataError, match="no example"):
        Dataset([], marketing)
    twice = [make_example("a", ["none"]), make_example("b", ["none"]), make_example("a", ["none"])]
    with pytest.raises(DataError, match="'a' occurs twice"):
        Dataset(twice, marketing)
    foreign = [make_example("a", ["none"]), make_example("b", ["shop.policy"])]
    with pytest.raises(DataError, match="example 1: .*shop.policy"):
        Dataset(foreign, marketing)


def test_the_hash_depends_on_content_and_order_alone(small: Dataset, marketing: Taxonomy) -> None:
    examples = list(small)
    assert re.fullmatch(r"[0-9a-f]{64}", small.sha256)
    assert Dataset(examples, marketing, name="x", split="y").sha256 == small.sha256
    assert Dataset(examples[::-1], marketing).sha256 != small.sha256
    assert Dataset(examples[:-1], marketing).sha256 != small.sha256
    other = examples[-1].model_copy(update={"id": "four"})
    assert Dataset([*examples[:-1], other], marketing).sha256 != small.sha256
    again = [Example.model_validate_json(e.to_json()) for e in examples]
    assert Dataset(again, marketing).sha256 == small.sha256


def test_it_pickles_and_copies(small: Dataset) -> None:
    for again in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
        assert list(again) == list(small)
        assert again.sha256 == small.sha256
        assert again.taxonomy == small.taxonomy


def test_a_shipped_one_pickles_as_its_name() -> None:
    test = load_dataset("marketing", "test")
    data = pickle.dumps(test)
    assert pickle.loads(data) is test
    assert len(data) < 200


@pytest.mark.parametrize(
    "split",
    [
        "",
        "train",
        pytest.param(
            "dev",
        ),
    ],
)
def test_ones_own_data_may_bear_a_shipped_name(small: Dataset, split: str) -> None:
    mine = Dataset(list(small), load_taxonomy("marketing"), name="marketing", split=split)
    again = pickle.loads(pickle.dumps(mine))
    assert list(again) == list(small)
    assert again.split == split
