"""What is read and written beside the page: results, curves, leaderboards, CSV, PNG, commands."""

from __future__ import annotations

import copy
import csv
import json
import math

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from memroute_env.errors import DataError, OptionError
from memroute_eval.charts import bar, ticks
from memroute_eval.curves import curves_of, panels_of, read_curve
from memroute_eval.export import safe_cell, scenario_rows, write_csv
from memroute_eval.leaderboard import leaderboards
from memroute_eval.lines import Line, spread, strokes
from memroute_eval.plots import PLOTS, write_plots
from memroute_eval.report_cli import compare, leaderboard, report
from memroute_eval.results import check_results, merge_results, read_results, taxonomy_of

APP = typer.Typer()
for command in (report, compare, leaderboard):
    APP.command()(command)


def run(*args):
    return CliRunner().invoke(APP, [str(a) for a in args], env={"COLUMNS": "100"})


@pytest.fixture
def saved(tmp_path, results):
    path = tmp_path / "run" / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(results))
    return path


def test_saved_results_are_read_as_they_were_written(saved, results):
    assert read_results(saved) == results == read_results(saved.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("agents"), "not a results file"),
        (lambda r: r.update(format=99), "newer than this version reads"),
        (lambda r: r["dataset"].pop("sha256"), "dataset.sha256"),
        (lambda r: r["agents"]["oracle"].pop("by_domain"), "by_domain"),
        (lambda r: r["agents"]["oracle"].update(reward="0.5"), "agents.oracle.reward"),
        (lambda r: r["agents"]["oracle"].update(macro_f1=math.nan), "macro_f1"),
        (lambda r: r["agents"]["oracle"].update(input_tokens="many"), "input_tokens"),
        (
            lambda r: r["agents"]["oracle"]["examples"][3].update(gold=["brand"]),
            "examples.3.*brand",
        ),
        (lambda r: r["agents"]["oracle"]["examples"][3].pop("reward"), "examples.3.*'reward'"),
        (lambda r: r["agents"]["oracle"]["examples"][3].update(predicted=[]), "neither an answer"),
        (
            lambda r: r["agents"]["oracle"]["examples"][3].update(
                id=r["agents"]["oracle"]["examples"][2]["id"]
            ),
            "occurs twice",
        ),
        (lambda r: r["agents"]["oracle"]["by_category"].popitem(), "different categories"),
    ],
)
def test_damaged_results_are_refused_with_the_field(results, change, message):
    damaged = copy.deepcopy(results)
    change(damaged)
    with pytest.raises(DataError, match=message) as caught:
        check_results(damaged, "file.json")
    assert str(caught.value).startswith("file.json")


def test_files_that_are_no_results_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "list.json").write_text("[]")
    for name, message in (
        ("broken.json", "not valid JSON"),
        ("latin.json", "not UTF-8"),
        ("deep.json", "not valid JSON"),
        ("list.json", "not a results file"),
        ("absent.json", "cannot be read"),
        ("", "holds no results.json"),
    ):
        with pytest.raises(DataError, match=message):
            read_results(tmp_path / name)


def test_results_in_an_unknown_taxonomy_bring_their_own_ids(results):
    renamed = copy.deepcopy(results)
    renamed["dataset"]["taxonomy"] = "somebody else's"
    assert taxonomy_of(renamed).all_ids == taxonomy_of(results).all_ids
    assert taxonomy_of(renamed).name == "somebody else's"


def test_merging_keeps_every_agent_and_tells_namesakes_apart(results):
    lenient = {**results, "parse": "lenient"}
    merged = merge_results([("a", results), ("b", lenient), ("b", results)])
    assert len(merged["agents"]) == 3 * len(results["agents"])
    assert {"oracle (a)", "oracle (b)", "oracle (b, 2)"} <= merged["agents"].keys()
    assert merged["agents"]["oracle (b)"]["parse"] == "lenient"


def test_curves_of_different_trainers_land_in_the_same_panels(tmp_path):
    logs = {
        "own": {"loss": 1.0, "reward": 0.5, "kl": 0.1, "entropy": 1.0, "val_f1": 0.4, "lr": 1e-4},
        "cookbook": {
            "train_mean_nll": 1.0,
            "test/nll": 1.1,
            "env/all/reward/total": 0.5,
            "optim/kl_sample_train_v1": 0.1,
            "optim/entropy": 1.0,
            "test/env/all/reward/total": 0.4,
            "optim/lr": 1e-4,
        },
    }
    for name, row in logs.items():
        curves = curves_of(
            name, [{"step": i, **row, "note": "text", "bad": math.nan} for i in range(3)]
        )
        panels, rest = panels_of(curves)
        titles = [panel.title for panel, _ in panels]
        assert titles == ["Loss", "Reward", "Held-out", "KL divergence", "Entropy"]
        assert [s.key.split("/")[-1] for s in rest] == ["lr"]
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_text('{"stage": "sft", "loss": 2}\n[1]\n{"stage": "rl", "loss": 1}\n{"lo')
    first, second = read_curve(path)
    assert (first.name, second.name) == ("run · sft", "run · rl")
    assert (first.skipped, second.skipped) == (2, 0)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.floats(0.1, 5))
def test_labels_of_lines_are_kept_apart(targets, gap):
    places = sorted(spread(targets, gap, min(targets), max(targets)))
    assert all(b - a >= gap - 1e-6 for a, b in zip(places, places[1:], strict=False))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=700))
def test_drawn_lines_stay_within_the_data(ys):
    for _, line in strokes(Line("x", range(len(ys)), ys)):
        assert len(line.xs) == len(line.ys) <= max(240, 60)
        assert min(ys) - 1e-9 <= min(line.ys) and max(line.ys) <= max(ys) + 1e-9


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_in_range(low, span):
    high = low + span
    got = ticks(low, high)
    assert len(got) <= 7
    assert all(low - 1e-6 * span <= t <= high + 1e-6 * span for t in got)


def test_bars_stay_in_their_track():
    assert 'width="100.0"' in bar(7.0, [0.5, 9.0])
    assert "fill" not in bar(None)
    assert 'width="0.0"' in bar(-1.0)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r=1", "\n-1", "＝1"]
)
def test_no_cell_is_a_formula(text):
    assert safe_cell(text) == "'" + text


def test_numbers_and_plain_text_are_left_alone():
    assert [safe_cell(v) for v in (-1.5, 3, None, True, "a=b", "")] == [
        -1.5,
        3,
        "",
        "true",
        "a=b",
        "",
    ]


def test_exported_answers_survive_a_round_trip(tmp_path, hostile_results):
    path = tmp_path / "out" / "answers.csv"
    columns = ("id", "agent", "gold", "predicted", "exact", "reward", "text")
    write_csv(path, columns, scenario_rows(hostile_results))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    total = sum(len(agent["examples"]) for agent in hostile_results["agents"].values())
    assert len(rows) == total
    assert not any(cell.lstrip()[:1] in ("=", "+", "@") for row in rows for cell in row.values())
    right = [row["exact"] for row in rows if row["agent"] == "oracle"]
    assert set(right) == {"true"}


def test_leaderboard_ranks_within_each_dataset(tmp_path, results, hostile_results):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.json").write_text(json.dumps(results))
    (tmp_path / "b.json").write_text(json.dumps(hostile_results))
    (tmp_path / "config.json").write_text('{"agents": 3}')
    (tmp_path / "torn.json").write_text("{")
    boards, problems = leaderboards(tmp_path)
    assert [len(board.entries) for board in boards] == [4, 3]
    assert boards[0].entries[0].agent == "oracle"
    rewards = [entry.metrics["reward"] or 0.0 for entry in boards[0].entries]
    assert rewards == sorted(rewards, reverse=True)
    assert len(problems) == 1 and "torn.json" in problems[0]
    by_misses = leaderboards(tmp_path, "missed_store_rate")[0][0].entries
    misses = [entry.metrics["missed_store_rate"] or 0.0 for entry in by_misses]
    assert misses == sorted(misses) and misses[0] < misses[-1]
    with pytest.raises(OptionError, match="unknown metric"):
        leaderboards(tmp_path, "fame")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no results file"):
        leaderboards(empty)


def test_plots_are_drawn_where_there_are_data(tmp_path, results, curve_rows):
    curves = curves_of("run $1_a$", curve_rows)
    written = write_plots(tmp_path / "plots", results, curves)
    assert [path.stem for path in written] == list(PLOTS)
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in written)
    assert [p.stem for p in write_plots(tmp_path / "few", None, curves_of("x", []))] == []


def test_report_command_writes_page_plots_and_csv(tmp_path, saved):
    got = run(
        "report",
        saved.parent,
        "--out",
        tmp_path / "r.html",
        "--plots",
        tmp_path / "p",
        "--csv",
        tmp_path / "a.csv",
    )
    assert got.exit_code == 0, got.output
    assert (tmp_path / "r.html").exists() and (tmp_path / "a.csv").exists()
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        "by_difficulty.png",
        "model_comparison.png",
    ]


def test_compare_command_tests_saved_results(saved):
    got = run(
        "compare",
        saved,
        "--agent",
        "oracle",
        "--agent",
        "random:uniform",
        "--permutations",
        200,
        "--resamples",
        100,
    )
    assert got.exit_code == 0 and "significant" in got.stdout
    as_json = run("compare", saved, "--json", "--metric", "macro_f1", "--permutations", 50)
    assert {d["metric"] for d in json.loads(as_json.stdout)} == {"macro_f1"}


def test_commands_print_no_control_characters(tmp_path, hostile_results):
    (tmp_path / "r.json").write_text(json.dumps(hostile_results))
    for args in (("compare", tmp_path / "r.json", "--permutations", 50), ("leaderboard", tmp_path)):
        got = run(*args)
        assert got.exit_code == 0, got.output
        assert "window.pwned" in got.stdout.replace("\n", "").replace(" ", "")
        assert "\x1b[31m" not in got.stdout and "\x9b" not in got.stdout


def test_leaderboard_command_prints_json_and_csv(tmp_path, saved):
    got = run("leaderboard", saved.parent, "--json", "--csv", tmp_path / "board.csv")
    board = json.loads(got.stdout)[0]
    assert board["entries"][0]["agent"] == "oracle"
    assert (tmp_path / "board.csv").read_text().startswith("dataset,sha256,agent")
