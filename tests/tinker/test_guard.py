from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
pytestmark = pytest.mark.filterwarnings("default")

from memroute_agents.tinker.guard import Guard, StopTraining  # noqa: E402
from memroute_agents.tinker.options import WatchOptions  # noqa: E402
from memroute_agents.tinker.run import TOKENS_KEY  # noqa: E402


def make(tmp_path: Path, said: list[str], **watch: object) -> Guard:
    return Guard(tmp_path, WatchOptions(**watch), said.append, total_steps=10)  # type: ignore[arg-type]


def step(guard: Guard, number: int, kl: float = 0.0, tokens: int = 0) -> None:
    metrics = {
        "progress/done_frac": number / 10,
        "optim/kl_sample_train_v1": -kl,
        "optim/kl_sample_train_v2": kl / 10,
        "env/all/total_ob_tokens": tokens,
        "env/all/total_ac_tokens": 0,
        "env/all/by_group/frac_mixed": 0.75,
    }
    guard.annotate(metrics)
    assert metrics["env/all/no_signal"] == 0.25
    guard.check(metrics, number)


def test_kl_below_the_threshold_is_silent_and_above_it_a_warning(tmp_path: Path) -> None:
    said: list[str] = []
    guard = make(tmp_path, said)
    step(guard, 0, kl=0.004)
    assert said == []
    step(guard, 1, kl=0.007)
    assert len(said) == 1 and "0.0070" in said[0]


def test_kl_above_the_limit_stops_after_several_iterations_in_a_row(tmp_path: Path) -> None:
    guard = make(tmp_path, [])
    step(guard, 0, kl=0.02)
    step(guard, 1, kl=0.02)
    step(guard, 2, kl=0.001)
    step(guard, 3, kl=0.02)
    step(guard, 4, kl=0.02)
    with pytest.raises(StopTraining, match="look at the learning rate"):
        step(guard, 5, kl=0.02)


def test_thresholds_are_options(tmp_path: Path) -> None:
    guard = make(tmp_path, [], kl_warn=0.1, kl_stop=0.2, kl_patience=1)
    step(guard, 0, kl=0.19)
    with pytest.raises(StopTraining, match=r"above 0\.2 for 1"):
        step(guard, 1, kl=0.21)


def test_the_cap_stops_before_a_step_that_might_pass_it(tmp_path: Path) -> None:
    guard = make(tmp_path, [], max_tokens_total=1000)
    step(guard, 0, tokens=200)
    assert guard.tokens == 400
    with pytest.raises(StopTraining, match=r"400 tokens, and 800 of at most 1,000"):
        step(guard, 1, tokens=200)


def test_a_step_is_not_begun_where_the_cap_is_used_up(tmp_path: Path) -> None:
    guard = make(tmp_path, [], max_tokens_total=1000)
    guard.count(700)
    assert guard.cap(300) == ""
    assert "301 tokens, and 700 of at most 1,000" in guard.cap(301)


def test_a_stop_whose_checkpoint_failed_says_so_and_names_the_last_one(tmp_path: Path) -> None:
    class Refusing:
        async def save_state_async(self, *_: object, **__: object) -> None:
            raise ConnectionError("no route\nto host")

    guard = make(tmp_path, [])
    guard.manager = SimpleNamespace(_training_client=Refusing(), _store=None)
    guard.requested = "interrupted (SIGINT)"
    with pytest.raises(StopTraining, match=r"SIGINT.*no route to host.*none before it"):
        step(guard, 4)
    record = {"name": "000003", "batch": 3, "state_path": "tinker://3"}
    (tmp_path / "checkpoints.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(StopTraining, match=r"could not be saved.*the last one is 000003.* step 3$"):
        step(guard, 4)
    assert guard.saved == set()


def test_evaluations_count_towards_the_cap(tmp_path: Path) -> None:
    guard = make(tmp_path, [], max_tokens_total=1000)
    guard.count(300)
    with pytest.raises(StopTraining):
        step(guard, 0, tokens=200)


def test_counting_goes_on_after_a_resume(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 3, TOKENS_KEY: 700}) + "\n")
    assert make(tmp_path, []).tokens == 700


def test_a_request_stops_after_the_step_but_not_after_the_last_one(tmp_path: Path) -> None:
    guard = make(tmp_path, [])
    guard.requested = "interrupted (SIGINT)"
    step(guard, 9)
    with pytest.raises(StopTraining, match="SIGINT"):
        step(guard, 4)


def test_lines_that_are_no_training_step_never_stop_a_run(tmp_path: Path) -> None:
    guard = make(tmp_path, [])
    guard.requested = "interrupted (SIGINT)"
    guard.check({"test/f1": 0.5}, 3)


def test_a_kl_penalty_counts_every_answer_once_more(tmp_path: Path) -> None:
    plain, penalised = make(tmp_path / "a", []), make(tmp_path / "b", [])
    penalised.readings = 3
    step(plain, 0, tokens=100)
    step(penalised, 0, tokens=100)
    assert (plain.tokens, penalised.tokens) == (200, 300)


def test_evaluations_after_a_loop_are_logged_with_their_tokens(tmp_path: Path) -> None:
    guard = make(tmp_path, [])
    guard.count(70)
    guard.append(10, {"test/f1": 0.5})
    assert make(tmp_path, []).tokens == 70
