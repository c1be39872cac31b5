from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
pytest.importorskip("torch", reason="needs torch")
pytestmark = pytest.mark.filterwarnings("default")

from tinker_cookbook import checkpoint_utils  # noqa: E402

from memroute_agents.tinker import stages  # noqa: E402
from memroute_agents.tinker import train as training  # noqa: E402
from memroute_agents.tinker.envs import make_renderer, prompt_length  # noqa: E402
from memroute_agents.tinker.guard import Guard, StopTraining, guarded  # noqa: E402
from memroute_agents.tinker.options import TrainOptions, WatchOptions, preset  # noqa: E402
from memroute_agents.tinker.run import TOKENS_KEY, Run, StageResult  # noqa: E402

DONE = StageResult("complete", "", "tinker://sft/state", "tinker://sft/sampler", 30)


class Trainer:
    """A training client that knows how long each checkpoint is to be kept."""

    def __init__(self) -> None:
        self.kept_s: dict[str, int | None] = {}

    async def save_weights_and_get_sampling_client_async(self) -> None:
        return None

    async def save_state_async(self, name: str, ttl_seconds: int | None = None) -> Any:
        self.kept_s[name] = ttl_seconds

        async def result_async() -> SimpleNamespace:
            return SimpleNamespace(path=f"tinker://{name}")

        return SimpleNamespace(result_async=result_async)

    save_weights_for_sampler_async = save_state_async


@pytest.fixture
def options(model_dir: str, data_dir: Path) -> TrainOptions:
    return preset("quick").with_changes(
        {"base_model": model_dir, "renderer": "llama3", "data": str(data_dir)}
    )


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "connect", lambda _: None)
    monkeypatch.setattr(training, "check_model", lambda *_: None)


def write_checkpoint(run: Path, stage: str, batch: int, **paths: str) -> None:
    (run / stage).mkdir(parents=True, exist_ok=True)
    record = {"name": f"{batch:06d}", "batch": batch, **paths}
    with (run / stage / "checkpoints.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def use_tokens(run: Path, stage: str, tokens: int) -> None:
    (run / stage).mkdir(parents=True, exist_ok=True)
    line = json.dumps({"step": 0, TOKENS_KEY: tokens})
    (run / stage / "metrics.jsonl").write_text(line + "\n")


async def measure(
    tmp_path: Path, losses: Iterator[float], monkeypatch: pytest.MonkeyPatch
) -> Trainer:
    """Validate before every tenth step, with periodic checkpoints as often, until it stops."""
    trainer = Trainer()
    guard = Guard(tmp_path, WatchOptions(), print, total_steps=100)
    validation = stages.ValidationLoss([], guard, every=10, patience=2, start=0)

    async def loss(_: object) -> float:
        return next(losses)

    monkeypatch.setattr(validation, "loss", loss)
    client: Any = trainer
    with guarded(guard):
        manager = checkpoint_utils.CheckpointManager(client, client, str(tmp_path), 10)
        with pytest.raises(StopTraining, match="early stopping"):
            for step in range(0, 100, 10):
                if step:
                    await manager.save_periodic_async(step, {"batch": step})
                await validation(client)
    return trainer


@pytest.mark.parametrize(
    ("losses", "kept"), [((3, 2, 4, 4), "best-000010"), ((1, 2, 3), "stop-000020")]
)
def test_a_stage_that_stopped_early_has_weights_that_are_kept_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...], kept: str
) -> None:
    trainer = asyncio.run(measure(tmp_path, iter(losses), monkeypatch))
    for_good = [name for name, seconds in trainer.kept_s.items() if seconds is None]
    assert for_good == [kept]
    recorded = checkpoint_utils.load_checkpoints_file(str(tmp_path))
    assert kept in {record.name for record in recorded if record.sampler_path}


def test_a_clean_stop_is_kept_for_good_where_a_resume_point_was_just_saved(tmp_path: Path) -> None:
    trainer = Trainer()
    client: Any = trainer

    async def stop() -> None:
        guard = Guard(tmp_path, WatchOptions(), print, total_steps=10, requested="interrupted")
        with guarded(guard):
            manager = checkpoint_utils.CheckpointManager(client, client, str(tmp_path), 5)
            await manager.save_periodic_async(5, {"batch": 5})
            guard.check({"progress": 0.5}, 4)

    with pytest.raises(StopTraining, match="^interrupted$"):
        asyncio.run(stop())
    assert trainer.kept_s == {"000005": stages.KEEP_S, "stop-000005": None}


def reinforce(
    plan: training.Plan, monkeypatch: pytest.MonkeyPatch, loop: Callable[[Any], None]
) -> Any:
    """Run the reinforcement stage with another loop than the cookbook's; returns its config."""
    configs = []

    async def main(config: Any) -> None:
        configs.append(config)
        loop(config)
        raise StopTraining("enough")

    monkeypatch.setattr(stages.rl_train, "main", main)
    training.train(plan, lambda _: None)
    return configs[0]


@pytest.mark.usefixtures("no_server")
def test_the_resume_points_between_checkpoints_live_as_long_as_these(
    tmp_path: Path, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = training.prepare(tmp_path, options)
    plan.run.stages["sft"] = DONE
    config = reinforce(plan, monkeypatch, lambda _: None)
    assert config.rolling_save_every == 1
    assert config.rolling_ttl_seconds == config.ttl_seconds == stages.KEEP_S


@pytest.mark.usefixtures("no_server")
def test_a_stage_that_is_taken_up_again_keeps_the_weights_it_has(
    tmp_path: Path, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = training.prepare(tmp_path, options)
    plan.run.stages["sft"] = DONE
    plan.run.stages["rl"] = StageResult("stopped", "", "tinker://s/5", "tinker://w/5", 5)
    write_checkpoint(tmp_path, "rl", 5, state_path="tinker://s/5", sampler_path="tinker://w/5")
    write_checkpoint(tmp_path, "rl", 7, state_path="tinker://s/7")
    with (tmp_path / "rl" / "checkpoints.jsonl").open("a") as file:
        file.write('{"name": "0000')
    found: list[StageResult] = []
    reinforce(plan, monkeypatch, lambda _: found.append(Run.open(tmp_path).trained()))
    assert found == [StageResult("running", "", "tinker://s/5", "tinker://w/5", 5)]


@pytest.mark.usefixtures("no_server")
def test_weights_that_a_running_stage_saves_are_recorded_at_once(
    tmp_path: Path, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = training.prepare(tmp_path, options)
    plan.run.stages["sft"] = DONE
    played: list[str] = []

    async def main(config: Any) -> None:
        client: Any = Trainer()
        manager = checkpoint_utils.CheckpointManager(client, client, config.log_path, 5)
        for step in (5, 10):
            played.append(Run.open(tmp_path).trained().sampler_path)
            await manager.save_periodic_async(step, {"batch": step})
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.rl_train, "main", main)
    with pytest.raises(KeyboardInterrupt):
        training.train(plan, lambda _: None)
    after = Run.open(tmp_path).trained()
    assert played == [DONE.sampler_path, "tinker://000005"]
    assert (after.status, after.sampler_path, after.step) == ("running", "tinker://000010", 10)


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("begun", [False, True], ids=["first", "resumed"])
def test_no_step_of_a_stage_is_begun_that_might_pass_the_cap(
    tmp_path: Path, options: TrainOptions, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    _, rl = training.prepare(tmp_path, options).estimate.stages
    cap = rl.first_step_tokens + 1000
    plan = training.prepare(tmp_path, options.with_changes({"watch.max_tokens_total": cap}))
    plan.run.stages["sft"] = DONE
    use_tokens(tmp_path, "sft", 1001)
    if begun:
        use_tokens(tmp_path, "rl", 2000)
        write_checkpoint(tmp_path, "rl", 1, state_path="tinker://s/1", sampler_path="tinker://w/1")
    monkeypatch.setattr(stages, "run_rl", None)
    result = training.train(plan, lambda _: None)["rl"]
    assert result.status == "stopped" and "--max-tokens-total" in result.reason
    assert f"{2000 if begun else 1001:,} of at most {cap:,}" in result.reason
    assert result.sampler_path == ("tinker://w/1" if begun else "")
    assert Run.open(tmp_path).begun() == ({"sft", "rl"} if begun else {"sft"})


@pytest.mark.usefixtures("no_server")
def test_a_stage_whose_first_step_fits_under_the_cap_is_begun(
    tmp_path: Path, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rl = training.prepare(tmp_path, options).estimate.stages
    changes = {"watch.max_tokens_total": rl.first_step_tokens + 1000}
    plan = training.prepare(tmp_path, options.with_changes(changes))
    plan.run.stages["sft"] = DONE
    use_tokens(tmp_path, "sft", 1000)
    reinforce(plan, monkeypatch, lambda _: None)
    assert plan.run.stages["rl"].reason == "enough"


@pytest.mark.usefixtures("no_server")
def test_reinforcement_is_measured_on_the_conversations_that_fit(
    tmp_path: Path, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = make_renderer("llama3", options.base_model)
    whole = training.prepare(tmp_path, options)
    lengths = [prompt_length(e, whole.taxonomy, renderer) for e in whole.held_out]
    limit = sorted(lengths)[9]
    changes = {"max_length": limit + options.rl.max_tokens}
    plan = training.prepare(tmp_path, options.with_changes(changes))
    plan.run.stages["sft"] = DONE
    config = reinforce(plan, monkeypatch, lambda _: None)
    played = config.evaluator_builders[0]().examples
    assert [e.id for e in played] == [
        e.id for e, n in zip(whole.held_out, lengths, strict=True) if n <= limit
    ]
