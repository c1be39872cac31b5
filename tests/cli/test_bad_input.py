"""Each bad input is refused with exit code 2 and one clear line, never a traceback."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from memroute_env.conversation import write_examples
from tests.cli.conftest import Memroute, refused
from tests.conftest import SUPPORT_TOML, make_example

GOOD = {
    "id": "a",
    "conversation": [{"role": "user", "content": "hi"}],
    "labels": {"categories": ["none"]},
}


def changed(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode() + b"\n"


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no example"),
    "blank": (b"\n \n", "no example"),
    "invalid UTF-8": (b'{"id": "caf\xe9"}\n', ":1: not UTF-8"),
    "ten megabytes in a line": (b'{"id": "' + b"x" * 10 * 2**20, ":1: the line is longer"),
    "no turns": (changed(conversation=[]), ":1: field 'conversation'"),
    "unknown role": (
        changed(conversation=[{"role": "narrator", "content": "x"}]),
        ":1: field 'conversation.0.role'",
    ),
    "unknown category": (changed(labels={"categories": ["vibes"]}), ":1: field 'labels.categ"),
    "duplicate ids": (changed() + changed(), ":2: field 'id'"),
    "not JSON": (b"hello\n", ":1: not valid JSON"),
    "another taxonomy": (changed(labels={"categories": ["shop.policy"]}), "taxonomy 'marketing'"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize(
    "command",
    [
        ("eval", "--agent", "oracle", "--data"),
        ("data", "check", "--fast"),
        ("train", "local", "--out", "run", "--data"),
        ("score", "--predictions", "absent.jsonl", "--data"),
    ],
    ids=lambda c: c[0],
)
def test_a_bad_data_file(
    kind: str, command: tuple[str, ...], memroute: Memroute, tmp_path: Path
) -> None:
    raw, said = BAD_FILES[kind]
    (tmp_path / "bad.jsonl").write_bytes(raw)
    message = refused(memroute(*command, "bad.jsonl"))
    assert "bad.jsonl" in message
    assert said in message
    assert len(message) < 500


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_to_split(kind: str, memroute: Memroute, tmp_path: Path) -> None:
    raw, _ = BAD_FILES[kind]
    (tmp_path / "bad.jsonl").write_bytes(raw)
    result = memroute("data", "split", "bad.jsonl", "--out-dir", "parts")
    assert "bad.jsonl" in refused(result)
    assert not (tmp_path / "parts").exists()


ROUTE_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "invalid UTF-8": (b"USER: caf\xe9", "not UTF-8 text (byte 9)"),
    "no speaker": (b"hello there", "no line begins with 'USER:'"),
    "no turns": (b'{"conversation": []}', ":1: field 'conversation': a conversation needs at"),
    "no conversation": (b'{"id": "a"}', ":1: field 'conversation' is missing"),
    "unknown role": (
        b'{"conversation": [{"role": "ghost", "content": "x"}]}',
        ":1: field 'conversation.0.role': Input should be 'user' or 'assistant', got 'ghost'",
    ),
    "no list": (b'{"conversation": 3}', ":1: field 'conversation'"),
    "broken second line": (changed() + b"{oops\n", ":2: not valid JSON"),
    "ten megabytes in a line": (b'{"id": "' + b"x" * 10 * 2**20, ":1: the line is longer"),
    "deeply nested": (b"[" * 100_000, ":1: "),
}


@pytest.mark.parametrize("kind", ROUTE_FILES)
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_bad_conversations_to_route(kind: str, by: str, memroute: Memroute, tmp_path: Path) -> None:
    raw, said = ROUTE_FILES[kind]
    (tmp_path / "bad.txt").write_bytes(raw)
    if by == "file":
        message = refused(memroute("route", "bad.txt", "--agent", "constant:none"))
        assert "bad.txt" in message
    else:
        message = refused(memroute("route", "--agent", "constant:none", stdin=raw))
        assert "standard input" in message
    assert said in message


COMMANDS_ON_A_PATH = [
    ("eval", "--agent", "oracle", "--data"),
    ("route", "--agent", "constant:none"),
    ("data", "import", "--out", "new.jsonl"),
    ("data", "split", "--out-dir", "parts"),
    ("data", "check", "--fast"),
    ("train", "local", "--out", "run", "--data"),
]


@pytest.mark.parametrize("command", COMMANDS_ON_A_PATH, ids=lambda c: " ".join(c[:2]))
def test_a_directory_and_an_absent_file(
    command: tuple[str, ...], memroute: Memroute, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    assert "directory" in refused(memroute(*command, "folder"))
    assert "absent.jsonl" in refused(memroute(*command, "absent.jsonl"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("command", COMMANDS_ON_A_PATH, ids=lambda c: " ".join(c[:2]))
def test_no_permission(command: tuple[str, ...], memroute: Memroute, data: Path) -> None:
    data.chmod(0)
    message = refused(memroute(*command, data))
    assert "data.jsonl" in message
    assert "ermission" in message


def write_agents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of somebody else's, importable as `theirs.bad_agents`."""
    (folder / "theirs").mkdir()
    (folder / "theirs" / "bad_agents.py").write_text(AGENTS)
    monkeypatch.syspath_prepend(folder)
    for name in ("theirs", "theirs.bad_agents"):
        monkeypatch.delitem(sys.modules, name, raising=False)


AGENTS = """
from memroute_agents import RoutingDecision
class Raises:
    def route(self, conversations): raise ValueError("boom")
class Chatty:
    def route(self, conversations): raise ValueError("first line\\nsecond line")
class TooFew:
    def route(self, conversations): return [RoutingDecision(("none",))]
class Strings:
    def route(self, conversations): return ["none"] * len(conversations)
class Nothing:
    def route(self, conversations): return None
class AllFail:
    def route(self, conversations): return [RoutingDecision(error="down")] * len(conversations)
class NoRoute: pass
class NoStart:
    def __init__(self): raise OSError("no licence")
    def route(self, conversations): return []
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", "raised ValueError: boom"),
        pytest.param(
            "Chatty",
            "first line",
        ),
        ("TooFew", "answered 1 for 14 conversations"),
        ("Strings", "returned str"),
        ("Nothing", "answered NoneType for 14"),
        ("AllFail", "all 14 calls failed; the first: down"),
        ("NoRoute", "has no method route"),
        ("NoStart", "cannot be built: OSError: no licence"),
        ("Absent", "has no 'Absent'"),
    ],
)
def test_an_agent_that_breaks_its_contract_is_named(
    name: str,
    said: str,
    memroute: Memroute,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_agents(tmp_path, monkeypatch)
    message = refused(memroute("eval", "--agent", f"theirs.bad_agents:{name}", "--data", data))
    assert said in message
    if name != "AllFail":
        assert "bad_agents" in message
        assert name in message


def test_whose_calls_all_failed_is_said(
    memroute: Memroute, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_agents(tmp_path, monkeypatch)
    result = memroute(
        "eval", "--agent", "oracle", "--agent", "theirs.bad_agents:AllFail", "--data", data
    )
    assert "theirs.bad_agents:AllFail" in refused(result)


def test_agents_that_had_finished_are_not_lost(
    memroute: Memroute, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_agents(tmp_path, monkeypatch)
    two = ("--agent", "oracle", "--agent", "theirs.bad_agents:Raises")
    result = memroute("eval", *two, "--data", data, "--json", "o.json")
    assert result.exit_code == 2
    assert list(json.loads((tmp_path / "o.json").read_text())["agents"]) == ["oracle"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--agent", "nobody"), "no agent is called 'nobody'; known: "),
        (("--agent", "absent.module:Class"), "module 'absent.module' cannot be imported"),
        (("--agent", "local:absent"), "absent: no such checkpoint"),
        (("--agent", "random:often"), "random takes no argument but 'uniform'"),
        (("--agent", "constant:vibes"), "unknown category 'vibes'"),
        (("--agent", "majority:random"), "at least two agents"),
        (("--agent", "oracle", "--agent", "oracle"), "distinct names"),
        (("--agent", "oracle", "--parse", "loose"), "--parse 'loose' is not one of strict"),
        (("--agent", "oracle", "--taxonomy", "absent.toml"), "absent.toml: cannot be read"),
        pytest.param(
            ("--agent", "oracle", "--json", "."),
            "check the path",
        ),
        (("--agent", "oracle", "--json", "data.jsonl/o.json"), "check the path"),
        (("--agent", "keyword", "--train-data", "absent.jsonl"), "absent.jsonl: neither"),
    ],
)
def test_bad_options_of_eval(
    arguments: tuple[str, ...], said: str, memroute: Memroute, data: Path
) -> None:
    assert said in refused(memroute("eval", "--data", data, *arguments))


def test_data_of_another_taxonomy(memroute: Memroute, tmp_path: Path) -> None:
    (tmp_path / "support.toml").write_text(SUPPORT_TOML)
    write_examples(tmp_path / "shop.jsonl", [make_example("a", ["shop.policy"])])
    shop = ("--data", "shop.jsonl", "--taxonomy", "support.toml")
    for agent in ("constant", "keyword", "random"):
        assert "--train-data" in refused(memroute("eval", "--agent", agent, *shop))
    assert "'support'" in refused(memroute("eval", "--agent", "local", *shop))
    assert "'support'" in refused(
        memroute("eval", "--agent", "oracle", "--data", "marketing", "--taxonomy", "support.toml")
    )


@pytest.mark.parametrize("agent", ["constant", "keyword", "random"])
def test_route_never_answers_from_data_of_another_taxonomy(
    agent: str, memroute: Memroute, tmp_path: Path
) -> None:
    (tmp_path / "support.toml").write_text(SUPPORT_TOML)
    result = memroute("route", "--agent", agent, "--taxonomy", "support.toml", stdin="USER: hi\n")
    message = refused(result)
    assert "support" in message
    assert "unknown category" not in message


PREDICTIONS: dict[str, tuple[str, list[str]]] = {
    "missing": ('{"id": "none", "text": "none"}', ["13 of 14", "company.brand_core", "--missing"]),
    "unknown": (
        '{"id": "x1", "text": "none"}\n{"id": "x2", "text": "none"}',
        ["2 ids are not in", "x1 (line 1)", "x2 (line 2)"],
    ),
    "duplicate": (
        '{"id": "none", "text": "a"}\n\n{"id": "none", "text": "b"}',
        [":3:", "'none'", "line 1"],
    ),
    "no id": ('{"text": "none"}', [":1:", "'id'"]),
    "no answer": ('{"id": "none"}', [":1:", "'text'", "'categories'"]),
    "both answers": ('{"id": "none", "text": "", "categories": []}', [":1:", "exactly one"]),
    "text not text": ('{"id": "none", "text": 3}', [":1:", "'text'", "int"]),
    "categories in words": ('{"id": "none", "categories": "none"}', [":1:", "'categories'"]),
    "not JSON": ("oops", [":1:", "not valid JSON"]),
    "an array": ("[1]", [":1:", "'id'"]),
    "empty": ("", ["14 of 14"]),
    "deeply nested": ("[" * 100_000, [":1:"]),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
        )
        if kind == "deeply nested"
        else kind
        for kind in PREDICTIONS
    ],
)
def test_bad_predictions_are_named(
    kind: str, memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    text, said = PREDICTIONS[kind]
    (tmp_path / "p.jsonl").write_text(text)
    message = refused(memroute("score", "--predictions", "p.jsonl", "--data", data))
    assert "p.jsonl" in message
    for part in said:
        assert part in message


@pytest.mark.parametrize("option", ["--json", "--report"])
@pytest.mark.parametrize("place", ["folder", "data.jsonl/out"])
def test_an_output_that_cannot_be_written_is_named_before_the_work(
    option: str, place: str, memroute: Memroute, data: Path, predictions: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    for command in (("eval", "--agent", "oracle"), ("score", "--predictions", predictions)):
        result = memroute(*command, "--data", data, option, place)
        assert f"{place}: " in refused(result)
        assert result.stdout == ""


def test_bad_options_of_score(memroute: Memroute, data: Path, predictions: Path) -> None:
    good = ("score", "--predictions", predictions, "--data", data)
    assert "--missing 'maybe'" in refused(memroute(*good, "--missing", "maybe"))
    assert "--parse 'loose'" in refused(memroute(*good, "--parse", "loose"))
    assert "absent.jsonl" in refused(
        memroute("score", "--predictions", "absent.jsonl", "--data", data)
    )


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("none = 2.0", "none"),
        ("none = 0.5", "sum to 1"),
        ('none = "much"', "a number is needed"),
        ("distractors = [1.0]", "three shares"),
        ("none = [", "not valid TOML"),
        ("max_turns = 2", "at least 4"),
        pytest.param(
            'distractors = ["a", "b", "c"]',
            "distractors",
        ),
    ],
)
def test_a_bad_recipe_is_named(recipe: str, said: str, memroute: Memroute, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(recipe)
    result = memroute("data", "compose", "--num", 3, "--out", "o.jsonl", "--recipe", "recipe.toml")
    assert said in refused(result)
    assert not (tmp_path / "o.jsonl").exists()


def test_bad_options_of_compose(memroute: Memroute) -> None:
    compose = ("data", "compose", "--num", 3, "--out", "o.jsonl")
    assert "'dev'" in refused(memroute(*compose, "--split", "dev"))
    assert "seed" in refused(memroute(*compose, "--seed", -1))
    assert "absent.toml" in refused(memroute(*compose, "--recipe", "absent.toml"))


def test_a_refused_command_leaves_no_file_behind(memroute: Memroute, tmp_path: Path) -> None:
    memroute("data", "compose", "--num", 3, "--out", "o.jsonl", "--split", "dev")
    assert list(tmp_path.iterdir()) == []


def test_bad_options_of_training(memroute: Memroute, data: Path, tmp_path: Path) -> None:
    train = ("train", "local", "--out", "run", "--data", data)
    assert "--estimator 'maybe'" in refused(memroute(*train, "--estimator", "maybe"))
    for idle in (("--estimator", "sampled"), ("--iterations", 5), ("--none-precision", 0.8)):
        assert "--from-scratch" in refused(memroute(*train, "--from-scratch", *idle))
    assert "absent: no such checkpoint" in refused(memroute(*train, "--warm-start", "absent"))
    assert "--replies" in refused(memroute(*train, "--replies", "--warm-start", "absent"))
    (tmp_path / "support.toml").write_text(SUPPORT_TOML)
    write_examples(tmp_path / "shop.jsonl", [make_example("a", ["shop.policy"])])
    result = memroute(*train, "--validation", "shop.jsonl")
    assert "shop.jsonl" in refused(result)
    (tmp_path / "file").write_text("")
    assert "file" in refused(memroute(*train[:2], "--out", "file", "--data", data,
                                      "--validation", data))  # fmt: skip


def test_a_damaged_state_to_resume_from_is_named(
    memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.npz").write_bytes(b"garbage")
    result = memroute("train", "local", "--out", "run", "--data", data, "--validation", data,
                      "--iterations", 0, "--resume")  # fmt: skip
    assert "state.npz" in refused(result)
