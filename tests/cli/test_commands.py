"""What each command does when all is well."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

import memroute_env
from memroute_env import Dataset, Reward, load_dataset, load_taxonomy
from memroute_env.conversation import iter_examples, write_examples
from tests.cli.conftest import Memroute
from tests.conftest import SUPPORT_TOML, make_example

MARKETING = load_taxonomy("marketing")
METRICS = {
    "avg_f1",
    "exact_match",
    "any_match",
    "macro_f1",
    "none_precision",
    "none_recall",
    "temporal_accuracy",
    "scope_accuracy",
    "avg_categories",
    "reward",
    "reward_f1",
    "reward_temporal",
    "reward_parity",
    "reward_efficiency",
}


def test_eval_writes_every_key_that_was_promised(
    memroute: Memroute, data: Path, small: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out.json"
    result = memroute("eval", "--agent", "oracle", "--agent", "random:uniform", "--data", data,
                      "--json", out)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "oracle" in result.stdout
    written = json.loads(out.read_text())
    assert written["dataset"]["name"] == "data.jsonl"
    assert written["dataset"]["sha256"] == small.sha256
    assert written["dataset"]["n"] == 14
    assert list(written["agents"]) == ["oracle", "random:uniform"]
    for agent in written["agents"].values():
        groups = [agent] + [
            group
            for by in ("by_difficulty", "by_domain", "by_gold_size")
            for group in agent[by].values()
        ]
        assert len(groups) >= 4
        for group in groups:
            assert METRICS <= group.keys()
            assert METRICS <= group["ci95"].keys()
            for metric in METRICS:
                interval = group["ci95"][metric]
                assert (group[metric] is None) == (interval is None)
                if interval is not None:
                    assert interval[0] <= interval[1]
        assert sum(g["n"] for g in agent["by_gold_size"].values()) == 14
        assert [row["id"] for row in agent["examples"]] == [e.id for e in small]
        assert "malformed_rate" in agent
    oracle = written["agents"]["oracle"]
    assert oracle["avg_f1"] == oracle["reward"] == oracle["exact_match"] == 1.0
    assert set(oracle["by_gold_size"]) == {"none", "1", "3"}


def test_json_holds_no_value_that_is_not_json(
    memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    memroute("eval", "--agent", "constant:company.brand_core", "--data", data, "--json", "o.json")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    written = json.loads((tmp_path / "o.json").read_text(), parse_constant=refuse)
    assert written["agents"]["constant:company.brand_core"]["none_precision"] is None


def test_a_bare_name_means_the_test_split(memroute: Memroute, tmp_path: Path) -> None:
    result = memroute("eval", "--agent", "constant:none", "--data", "marketing", "--json", "o.json")
    assert result.exit_code == 0
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["dataset"]["sha256"] == load_dataset("marketing", "test").sha256


def test_eval_writes_a_report(memroute: Memroute, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    result = memroute("eval", "--agent", "oracle", "--data", data, "--report", "out.html")
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "out.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html")
    assert "oracle" in page


def test_eval_on_another_taxonomy(memroute: Memroute, tmp_path: Path) -> None:
    (tmp_path / "support.toml").write_text(SUPPORT_TOML)
    write_examples(tmp_path / "shop.jsonl", [make_example("a", ["shop.policy"])])
    result = memroute("eval", "--agent", "oracle", "--data", "shop.jsonl", "--taxonomy",
                      "support.toml", "--json", "o.json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "o.json").read_text())["agents"]["oracle"]["reward"] == 1.0


def test_published_figures_stand_only_beside_their_own_categories(
    memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("jinja2")
    (tmp_path / "support.toml").write_text(SUPPORT_TOML)
    write_examples(tmp_path / "shop.jsonl", [make_example("a", ["shop.policy"])])
    shop = ("--data", "shop.jsonl", "--taxonomy", "support.toml")
    for where, shown in (("--data", data), True), (shop, False):
        result = memroute("eval", "--agent", "oracle", *where, "--report", "out.html")
        assert result.exit_code == 0, result.stderr
        assert ("Command-R+" in result.stdout) is shown
        page = (tmp_path / "out.html").read_text()
        assert ("Command-R+" in page, 'href="#published"' in page) == (shown, shown)
        assert ("set for the marketing categories" in page) is not shown


MINE = """
from memroute_agents import RoutingDecision
class Mine:
    def route(self, conversations):
        return [RoutingDecision(("none",)) for _ in conversations]
class Flaky:
    def route(self, conversations):
        fine = RoutingDecision(("none",))
        return [fine] * (len(conversations) - 1) + [RoutingDecision(error="timeout")]
class Sized:
    def __init__(self, taxonomy):
        self.answer = taxonomy.ids(taxonomy.num_masks - 1)
    def route(self, conversations):
        return [RoutingDecision(self.answer) for _ in conversations]
"""


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of one's own, by itself and in a package."""
    (tmp_path / "pack").mkdir()
    for name in ("pack/ours.py", "ours_alone.py"):
        (tmp_path / name).write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pack", "pack.ours", "ours_alone"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(
    "agent",
    [
        "pack.ours:Mine",
        pytest.param(
            "ours_alone:Mine",
        ),
    ],
)
def test_eval_plays_anyones_class(
    agent: str, memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    result = memroute("eval", "--agent", agent, "--data", data, "--json", "o.json")
    assert result.exit_code == 0, result.stderr
    written = json.loads((tmp_path / "o.json").read_text())["agents"][agent]
    assert written["exact_match"] == pytest.approx(1 / 14)


@pytest.mark.usefixtures("ours")
def test_a_class_that_asks_for_the_taxonomy_gets_it(
    memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    result = memroute("eval", "--agent", "pack.ours:Sized", "--data", data, "--json", "o.json")
    assert result.exit_code == 0, result.stderr
    agent = json.loads((tmp_path / "o.json").read_text())["agents"]["pack.ours:Sized"]
    assert agent["avg_categories"] == 12


@pytest.mark.usefixtures("ours")
def test_failed_calls_are_left_out_counted_and_an_exit_code(
    memroute: Memroute, data: Path, tmp_path: Path
) -> None:
    result = memroute("eval", "--agent", "pack.ours:Flaky", "--data", data, "--json", "o.json")
    assert result.exit_code == 2
    assert "failed" in result.stderr
    agent = json.loads((tmp_path / "o.json").read_text())["agents"]["pack.ours:Flaky"]
    assert (agent["n"], agent["n_failed"]) == (13, 1)
    assert agent["malformed_rate"] == 0


def test_score_gives_the_numbers_of_eval(
    memroute: Memroute, data: Path, predictions: Path, tmp_path: Path
) -> None:
    scored = memroute("score", "--predictions", predictions, "--data", data, "--json", "s.json")
    assert scored.exit_code == 0, scored.stderr
    memroute("eval", "--agent", "oracle", "--data", data, "--json", "e.json")
    score, played = (json.loads((tmp_path / f"{n}.json").read_text()) for n in "se")
    assert score["dataset"] == played["dataset"]
    ours, theirs = score["agents"]["preds"], played["agents"]["oracle"]
    for key in (*METRICS, "ci95", "by_difficulty", "by_domain", "by_gold_size"):
        assert ours[key] == theirs[key], key


def test_score_reads_strictly_or_leniently(
    memroute: Memroute, data: Path, small: Dataset, tmp_path: Path
) -> None:
    lines = [{"id": e.id, "text": "I would say:\n" + "\n".join(e.labels.categories)} for e in small]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for mode, expected in (("strict", (0.0, 1.0, -1.0)), ("lenient", (1.0, 0.0, 1.0))):
        memroute("score", "--predictions", "p.jsonl", "--data", data, "--parse", mode, "--json",
                 "o.json", "--name", "me")  # fmt: skip
        agent = json.loads((tmp_path / "o.json").read_text())["agents"]["me"]
        assert (agent["exact_match"], agent["malformed_rate"], agent["reward"]) == expected


def test_score_can_count_missing_predictions_as_wrong(
    memroute: Memroute, data: Path, predictions: Path, tmp_path: Path
) -> None:
    kept = predictions.read_text().splitlines()[:7]
    predictions.write_text("\n".join(kept))
    result = memroute("score", "--predictions", predictions, "--data", data, "--missing", "wrong",
                      "--json", "o.json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    agent = json.loads((tmp_path / "o.json").read_text())["agents"]["preds"]
    assert (agent["n"], agent["exact_match"], agent["malformed_rate"]) == (14, 0.5, 0.5)


@pytest.mark.parametrize("columns", ["200", "80"])
def test_envs_lists_every_environment_with_its_spaces(
    columns: str, memroute: Memroute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    result = memroute("envs")
    assert result.exit_code == 0
    for env_id in memroute_env.ENV_IDS:
        assert env_id in result.stdout
    for space in ("AnswerSpace", "Discrete(299)", "MultiBinary(12)", "Box"):
        assert space in result.stdout


# route --------------------------------------------------------------------------------------------

CHAT = "USER: keep it short with me, always\nASSISTANT: sure\n"
KNOWN = "constant:company.tools_config+user.communication_style"


def test_route_tells_what_to_store_and_until_when(memroute: Memroute) -> None:
    before = datetime.now(UTC).date()
    result = memroute("route", "--agent", KNOWN, "--json", stdin=CHAT)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["categories"] == ["company.tools_config", "user.communication_style"]
    assert (record["scope"], record["horizon"]) == ("mixed", "long")
    tools, style = record["store"]
    assert (tools["scope"], tools["horizon"]) == ("company", "medium")
    assert style["expires"] is None
    days = (date.fromisoformat(tools["expires"]) - before).days
    assert days in (180, 181)


def test_route_reads_text_jsonl_and_standard_input(
    memroute: Memroute, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "chat.txt").write_text(CHAT)
    from_file = memroute("route", "chat.txt", "--agent", KNOWN, "--json")
    from_stdin = memroute("route", "-", "--agent", KNOWN, "--json", stdin=CHAT)
    assert from_file.exit_code == from_stdin.exit_code == 0
    assert from_file.stdout == from_stdin.stdout
    lines = memroute("route", data, "--agent", KNOWN, "--json").stdout.splitlines()
    ids = [json.loads(line)["id"] for line in data.read_text().splitlines()]
    assert [json.loads(line)["id"] for line in lines] == ids
    bare = json.dumps([{"role": "user", "content": "hi"}])
    assert json.loads(memroute("route", "--agent", KNOWN, "--json", stdin=bare).stdout)["id"] == "1"


def test_route_in_words(memroute: Memroute) -> None:
    result = memroute("route", "--agent", KNOWN, stdin=CHAT)
    assert result.exit_code == 0
    assert "company.tools_config" in result.stdout
    assert "expires never" in result.stdout
    nothing = memroute("route", "--agent", "constant:none", stdin=CHAT)
    assert nothing.stdout == "1: none\n"


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\u2029"])
def test_route_splits_jsonl_at_line_feeds_only(
    memroute: Memroute, tmp_path: Path, mark: str
) -> None:
    write_examples(tmp_path / "d.jsonl", [make_example("a", ["none"], f"one{mark}two")])
    assert mark in (tmp_path / "d.jsonl").read_text()
    result = memroute("route", "d.jsonl", "--agent", "constant:none", "--json")
    assert result.exit_code == 0, result.stderr


# data ---------------------------------------------------------------------------------------------


def test_compose_then_check_then_split(memroute: Memroute, tmp_path: Path) -> None:
    made = memroute("data", "compose", "--num", 400, "--seed", 3, "--out", "all.jsonl")
    assert made.exit_code == 0, made.stderr
    examples = list(iter_examples(tmp_path / "all.jsonl", MARKETING))
    assert len(examples) == 400
    split = memroute("data", "split", "all.jsonl", "--out-dir", "parts")
    assert split.exit_code == 0, split.stderr
    parts = [
        list(iter_examples(tmp_path / "parts" / f"{name}.jsonl", MARKETING))
        for name in ("train", "validation", "test")
        if (tmp_path / "parts" / f"{name}.jsonl").read_text()
    ]
    assert sorted(e.id for part in parts for e in part) == sorted(e.id for e in examples)
    checked = memroute("data", "check", "all.jsonl", "--fast", "--json", "q.json")
    report = json.loads((tmp_path / "q.json").read_text())
    assert checked.exit_code == (0 if report["passed"] else 1)


def test_compose_can_go_on_where_it_stopped(memroute: Memroute, tmp_path: Path) -> None:
    memroute("data", "compose", "--num", 10, "--out", "whole.jsonl")
    memroute("data", "compose", "--num", 6, "--start", 4, "--out", "rest.jsonl")
    whole = (tmp_path / "whole.jsonl").read_text().splitlines()
    assert (tmp_path / "rest.jsonl").read_text().splitlines() == whole[4:]


def test_a_failed_gate_is_exit_code_one(memroute: Memroute, data: Path) -> None:
    result = memroute("data", "check", data, "--fast")
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_import_converts_and_sets_aside(memroute: Memroute, tmp_path: Path) -> None:
    good = {"scenario_id": "a", "conversation": ["hi"], "labels": {"categories": ["none"]}}
    bad = good | {"labels": {"categories": ["vibes"]}}
    (tmp_path / "old.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    result = memroute("data", "import", "old.jsonl", "--out", "new.jsonl")
    assert result.exit_code == 0, result.stderr
    assert "2 lines: 1 imported, 1 set aside" in result.stdout
    assert "unknown category" in result.stdout
    assert [e.id for e in iter_examples(tmp_path / "new.jsonl", MARKETING)] == ["a"]
    aside = json.loads((tmp_path / "new.set-aside.jsonl").read_text())
    assert (aside["line"], json.loads(aside["raw"])) == (2, bad)


def test_the_published_layout_scores_after_import(
    memroute: Memroute, external: Path, tmp_path: Path
) -> None:
    assert memroute("data", "import", external, "--out", "ext.jsonl").exit_code == 0
    result = memroute("eval", "--agent", "constant:none", "--data", "ext.jsonl", "--json", "o.json")
    assert result.exit_code == 0, result.stderr
    agent = json.loads((tmp_path / "o.json").read_text())["agents"]["constant:none"]
    reward = Reward(MARKETING)
    gold = load_dataset(tmp_path / "ext.jsonl").gold_masks
    assert agent["reward"] == pytest.approx(reward.score_masks([0] * len(gold), gold).mean())
