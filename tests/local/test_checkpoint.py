"""Checkpoints: they keep every decision, hold no pickle, and a bad one is refused clearly."""

from __future__ import annotations

import json
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memroute_agents.local.checkpoint import FORMAT, load_policy, save_policy
from memroute_agents.local.policy import LocalPolicy
from memroute_agents.local.router import LocalAgent
from memroute_env import AgentError, load_dataset


def test_a_checkpoint_keeps_everything(trained: LocalPolicy, checkpoint: Path) -> None:
    again = load_policy(checkpoint)
    assert again.taxonomy == trained.taxonomy
    assert again.encoder.config == trained.encoder.config
    assert again.encoder.columns.tolist() == trained.encoder.columns.tolist()
    assert again.family.reward.config == trained.family.reward.config
    assert again.pooling == trained.pooling
    assert again.calibration.temperature == trained.calibration.temperature
    assert again.calibration.reluctance == trained.calibration.reluctance
    assert np.array_equal(again.calibration.size_shift, trained.calibration.size_shift)
    assert again.metadata == json.loads(json.dumps(trained.metadata))
    for name, array in trained.parameters.arrays().items():
        stored = again.parameters.arrays()[name]
        assert stored.dtype == np.float32
        assert np.array_equal(stored, array), name


def test_it_routes_like_the_policy_that_was_saved(trained: LocalPolicy, checkpoint: Path) -> None:
    again = load_policy(checkpoint)
    assert np.array_equal(trained.encoder.idf, again.encoder.idf)
    conversations = [example.conversation for example in load_dataset("marketing", "test")[:200]]
    before, after = (LocalAgent(policy).route(conversations) for policy in (trained, again))
    assert [d.scores for d in before] == [d.scores for d in after]


def test_two_can_be_saved_at_once(
    trained: LocalPolicy, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is written while the first waits to be put in place."""
    path, replace = tmp_path / "policy.npz", Path.replace
    waiting = [True]

    def late(self: Path, target: Path) -> Path:
        if waiting and waiting.pop():
            other = threading.Thread(target=save_policy, args=(trained, path))
            other.start()
            other.join()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", late)
    save_policy(trained, path)
    assert LocalAgent(load_policy(path)).version == LocalAgent(load_policy(checkpoint)).version
    assert [p.name for p in tmp_path.iterdir()] == ["policy.npz"]


def test_a_checkpoint_that_cannot_be_finished_leaves_nothing(
    trained: LocalPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space"):
        save_policy(trained, tmp_path / "policy.npz")
    assert not list(tmp_path.iterdir())


def test_a_second_round_trip_changes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    once = load_policy(checkpoint)
    save_policy(once, tmp_path / "deep" / "policy.npz")
    twice = load_policy(tmp_path / "deep")  # a folder with policy.npz will do
    for name, array in once.parameters.arrays().items():
        assert np.array_equal(array, twice.parameters.arrays()[name])
    assert LocalAgent(once).version == LocalAgent(twice).version


def test_it_holds_no_pickle(checkpoint: Path) -> None:
    with zipfile.ZipFile(checkpoint) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                assert version == (1, 0)
                _, _, dtype = np.lib.format.read_array_header_1_0(member)
                assert not dtype.hasobject


def test_an_absent_one_tells_how_to_train_it(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="no such checkpoint; train one with 'memroute train"):
        load_policy(tmp_path / "absent")
    with pytest.raises(AgentError, match="policy.npz: no such checkpoint"):
        load_policy(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    "kind", ["pickle", "object array", "npz of objects", "text", "empty", "npy"]
)
def test_a_foreign_file_is_refused_and_never_executed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "policy.npz"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "object array":
        with path.open("wb") as file:
            np.save(file, np.array([Evil()], dtype=object), allow_pickle=True)
    elif kind == "npz of objects":
        np.savez(path, header=np.array([Evil()], dtype=object), allow_pickle=True)
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    else:
        path.write_text("hello" if kind == "text" else "")
    with pytest.raises(AgentError, match="policy.npz: not a checkpoint"):
        load_policy(path)
    assert not (tmp_path / "executed").exists()


def rewritten(checkpoint: Path, target: Path, **changes: Any) -> Path:
    """The checkpoint with other arrays; `header` is a dictionary of changes."""
    with np.load(checkpoint) as data:
        arrays = {name: data[name] for name in data.files}
    if "header" in changes:
        header = json.loads(arrays["header"].tobytes()) | changes.pop("header")
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    for name, value in changes.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    np.savez(target, allow_pickle=False, **arrays)
    return target


@pytest.mark.parametrize(
    "changes",
    [
        {"header": {"format": "memroute-local-0"}},
        {"header": {"taxonomy": {"name": "x"}}},
        {"header": {"taxonomy": 3}},
        {"header": {"features": {}}},
        {"header": {"pooling": "much"}},
        {"header": {"temperature": 0}},
        {"header": {"reluctance": -1}},
        {"size_shift": np.zeros(2, np.float32)},
        {"header": {"reward": {"f1_weight": 3}}},
        {"linear": None},
        {"linear": np.zeros((3, 26), np.float16)},
        {"bias": np.full(13, np.nan, np.float32)},
        {"bias": np.zeros(12, np.float32)},
        {"idf": np.zeros(2, np.float16)},
    ],
    ids=str,
)
def test_an_inconsistent_one_is_refused(
    changes: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    path = rewritten(checkpoint, tmp_path / "other.npz", **dict(changes))
    with pytest.raises(AgentError):
        load_policy(path)


def test_another_format_is_named(checkpoint: Path, tmp_path: Path) -> None:
    changed = rewritten(checkpoint, tmp_path / "old.npz", header={"format": "memroute-local-0"})
    with pytest.raises(AgentError, match=f"'memroute-local-0', this version reads '{FORMAT}'"):
        load_policy(changed)


def test_the_file_is_named_when_an_array_has_the_wrong_shape(
    checkpoint: Path, tmp_path: Path
) -> None:
    bad = rewritten(checkpoint, tmp_path / "bad.npz", bias=np.zeros(12, np.float32))
    with pytest.raises(AgentError, match="bad.npz"):
        load_policy(bad)


def test_columns_beyond_the_buckets_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with np.load(checkpoint) as data:
        columns = data["columns"].copy()
    columns[-1] = 1 << 20
    with pytest.raises(AgentError):
        load_policy(rewritten(checkpoint, tmp_path / "bad.npz", columns=columns))


def test_an_entry_marked_as_encrypted_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    damaged = bytearray(checkpoint.read_bytes())
    directory = damaged.index(b"PK\x01\x02")
    damaged[directory + 8] |= 1
    path = tmp_path / "policy.npz"
    path.write_bytes(damaged)
    with pytest.raises(AgentError, match="damaged"):
        load_policy(path)


def test_an_array_with_a_broken_header_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.npz"
    with zipfile.ZipFile(checkpoint) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            bad.writestr(name, content.replace(b"}", b"(", 1) if name == "bias.npy" else content)
    with pytest.raises(AgentError, match="damaged"):
        load_policy(path)


# numpy leaves the file to the garbage collector when it is no archive.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cut_off_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    path = tmp_path / "policy.npz"
    for share in (0.01, 0.3, 0.6, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(AgentError, match="policy.npz: not a checkpoint"):
            load_policy(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_file_is_refused_wherever_the_damage_is(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    path = tmp_path / "policy.npz"
    refused = 0
    places = [*range(0, 600, 7), *range(600, len(whole), max(1, len(whole) // 60))]
    places += range(len(whole) - 700, len(whole), 9)
    for position in places:
        damaged = bytearray(whole)
        damaged[position] ^= 0xA5
        path.write_bytes(damaged)
        try:
            load_policy(path)
        except AgentError as error:
            refused += 1
            assert "policy.npz" in str(error)
            assert "\n" not in str(error)
    assert refused > len(places) / 2
