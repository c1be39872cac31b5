from __future__ import annotations

import json
from pathlib import Path

import pytest

from memroute_agents.tinker.options import preset
from memroute_agents.tinker.run import Run, StageResult, read_metrics, repair, report_data
from memroute_env.errors import AgentError, DataError


def write_lines(file: Path, *entries: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_a_run_reads_back_what_it_wrote(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", preset("quick"), "llama3", {"name": "marketing"})
    run.stages["sft"] = StageResult("complete", "", "tinker://a", "tinker://b", 30, {"f1": 0.5})
    run.save()
    assert Run.open(tmp_path / "r") == run


def test_the_latest_stage_with_weights_is_what_plays(tmp_path: Path) -> None:
    run = Run(tmp_path, preset("quick"), "llama3")
    with pytest.raises(AgentError, match="no stage"):
        run.trained()
    run.stages["sft"] = StageResult("complete", sampler_path="tinker://sft")
    run.stages["rl"] = StageResult("running")
    assert run.trained().sampler_path == "tinker://sft"
    run.stages["rl"].sampler_path = "tinker://rl"
    assert run.trained().sampler_path == "tinker://rl"


@pytest.mark.parametrize("content", [None, "{", "{}", '{"format": "other"}'])
def test_a_folder_that_holds_no_run_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(AgentError, match=str(tmp_path)):
        Run.open(tmp_path)


def test_curves_take_a_step_that_was_run_twice_as_it_ended(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "rl" / "metrics.jsonl",
        {"step": 0, "env/all/reward/total": 0.5, "test/f1": 0.4, "optim/entropy": 1.0},
        {"step": 1, "env/all/reward/total": 0.6},
        {"step": 1, "env/all/reward/total": 0.7, "optim/kl_sample_train_v1": 0.001},
    )
    write_lines(tmp_path / "sft" / "metrics.jsonl", {"step": 0, "train_mean_nll": 2.0})
    curves = report_data(tmp_path)
    assert curves["rl"]["reward"] == [(0, 0.5), (1, 0.7)]
    assert curves["rl"]["held_out_f1"] == [(0, 0.4)]
    assert curves["rl"]["kl_v1"] == [(1, 0.001)]
    assert curves["sft"] == {"loss": [(0, 2.0)]}


def test_a_run_counts_the_tokens_of_all_its_stages(tmp_path: Path) -> None:
    run = Run(tmp_path, preset("quick"), "llama3")
    assert run.tokens() == 0
    write_lines(tmp_path / "sft" / "metrics.jsonl", {"step": 0, "memroute/tokens_total": 70})
    assert run.tokens() == 70
    write_lines(tmp_path / "rl" / "metrics.jsonl", {"step": 0, "memroute/tokens_total": 90})
    assert run.tokens() == 90


def test_a_folder_without_curves_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="metrics.jsonl"):
        report_data(tmp_path)


def test_a_line_that_a_kill_cut_off_is_skipped_and_then_removed(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n{"step": 1, "train_me')
    assert [m["step"] for m in read_metrics(tmp_path)] == [0]
    repair(tmp_path)
    assert file.read_text() == '{"step": 0}\n'
    repair(tmp_path)
    assert file.read_text() == '{"step": 0}\n'
