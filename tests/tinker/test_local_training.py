"""A real trainer on this machine: SkyRL's Tinker server, the SDK, the cookbook's loops.

One run is trained from end to end through the command line (and killed on the way); smaller ones
are killed and interrupted. Everything is asserted with tolerances: sampling is random.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
pytest.importorskip("torch", reason="needs torch")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]

from memroute_agents.agent import AgentContext, create_agent  # noqa: E402
from memroute_agents.tinker.local_server.server import LocalServer, install_server  # noqa: E402
from memroute_agents.tinker.local_server.tiny_model import (  # noqa: E402
    build_tiny_model,
    compose_splits,
)
from memroute_agents.tinker.run import Run, read_metrics, report_data  # noqa: E402
from memroute_env.datasets import load_dataset  # noqa: E402
from memroute_env.reward import Reward  # noqa: E402

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("MEMROUTE_CACHE", ROOT / "runs" / "cache"))
CLI = "import typer; from memroute_agents.tinker.cli import train_tinker; typer.run(train_tinker)"
SFT_STEPS, RL_ITERATIONS = 8, 12
STAGE_TIMEOUT_S = 420.0
NO_CHANGES: Mapping[str, Any] = {}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "ppo": {"loss": "ppo", "substeps": 2, "stream-minibatches": 2},
    "cispo": {"loss": "cispo", "kl-penalty": 0.05},
    "async": {"max-steps-off-policy": 1, "rl-iterations": 4, "kl-stop": 1.0},
}
"""Ways of training that differ from the presets'."""


@dataclass
class Stack:
    """A server with a tiny model, data, and a place for runs."""

    server: LocalServer
    model: Path
    data: Path
    runs: Path

    def command(self, out: Path, stage: str, changes: Mapping[str, Any]) -> list[str]:
        """`memroute train tinker` in small."""
        options = {
            "out": out, "stage": stage, "preset": "quick", "base-model": self.model,
            "renderer": "llama3", "base-url": self.server.url, "data": self.data,
            "lora-rank": 8, "max-length": 128, "max-tokens": 16, "save-every": 4,
            "sft-steps": SFT_STEPS, "sft-batch-size": 32, "sft-learning-rate": 3e-4,
            "sft-eval-every": SFT_STEPS // 2, "sft-patience": 0, "rl-iterations": RL_ITERATIONS,
            "rl-groups": 16, "rl-group-size": 8, "rl-learning-rate": 1e-3,
            "temperature": 1.0, "eval-temperature": 1.0, "rl-eval-every": RL_ITERATIONS // 2,
            "eval-examples": 300, **changes,
        }  # fmt: skip
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return [sys.executable, "-c", CLI, *flags, "--yes"]

    def start(
        self, out: Path, stage: str, changes: Mapping[str, Any] = NO_CHANGES
    ) -> subprocess.Popen[bytes]:
        """Start training; its output goes to a file beside the run."""
        log = out.with_suffix(".log").open("ab")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        with log:
            return subprocess.Popen(
                self.command(out, stage, changes), env=environment, stdout=log, stderr=log, cwd=ROOT
            )

    def finish(self, process: subprocess.Popen[bytes], out: Path) -> int:
        """Wait for it; show its output if it takes too long."""
        try:
            return process.wait(STAGE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"training did not end:\n{self.output(out)}\n{self.server.tail()}")

    def output(self, out: Path) -> str:
        """The end of what training printed."""
        return out.with_suffix(".log").read_text()[-3000:]

    def wait_for_step(self, process: subprocess.Popen[bytes], log_path: Path, step: int) -> None:
        """Until a step has been logged."""
        deadline = time.monotonic() + STAGE_TIMEOUT_S
        metrics = log_path / "metrics.jsonl"
        while time.monotonic() < deadline:
            if metrics.is_file() and f'"step": {step},' in metrics.read_text():
                return
            assert process.poll() is None, f"ended early:\n{self.output(log_path.parent)}"
            time.sleep(0.1)
        process.kill()
        pytest.fail(f"step {step} was not reached:\n{self.output(log_path.parent)}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    python = install_server()
    model = build_tiny_model(CACHE / "tiny-llama")
    folder = tmp_path_factory.mktemp("tinker")
    data = compose_splits(folder / "data", {"train": 1500, "validation": 400})
    os.environ.setdefault("TINKER_API_KEY", "tml-local")
    with LocalServer(model, folder / "server", python=python) as server:
        yield Stack(server, model, data, folder)


@pytest.fixture(scope="module")
def trained(stack: Stack) -> Path:
    """Both stages; the second is killed in the middle and taken up again."""
    out = stack.runs / "trained"
    process = stack.start(out, "all")
    stack.wait_for_step(process, out / "rl", RL_ITERATIONS // 2 + 1)
    process.kill()
    process.wait()
    assert stack.finish(stack.start(out, "all"), out) == 0, stack.output(out)
    return out


def test_supervised_training_lowers_the_validation_loss(trained: Path) -> None:
    losses = dict(report_data(trained)["sft"]["validation_loss"])
    assert set(losses) == {0, SFT_STEPS // 2, SFT_STEPS}
    assert min(losses[SFT_STEPS // 2], losses[SFT_STEPS]) < losses[0] - 0.05, losses


def test_reinforcement_raises_the_held_out_reward(trained: Path) -> None:
    curves = report_data(trained)["rl"]
    rewards = dict(curves["held_out_reward"])
    assert rewards[RL_ITERATIONS] >= rewards[0] + 0.1, rewards
    malformed = dict(curves["held_out_malformed"])
    f1 = {step: f1 / (1 - malformed[step]) for step, f1 in curves["held_out_f1"]}
    assert f1[RL_ITERATIONS] > f1[0], "well-formed answers are better too, not only more"
    assert (trained / "curves.png").stat().st_size > 10_000


def test_a_run_killed_in_reinforcement_goes_on_to_its_end(trained: Path) -> None:
    curves = report_data(trained)["rl"]
    assert [step for step, _ in curves["reward"]] == list(range(RL_ITERATIONS))
    run = Run.open(trained)
    assert {name: stage.status for name, stage in run.stages.items()} == {
        "sft": "complete", "rl": "complete"
    }  # fmt: skip
    assert run.stages["rl"].step == RL_ITERATIONS
    low, high = run.stages["rl"].intervals["reward"]
    assert low <= run.stages["rl"].metrics["reward"] <= high
    assert max(value for _, value in curves["kl_v2"]) < 0.005
    assert "going on at step" in trained.with_suffix(".log").read_text()


def test_a_supervised_run_killed_and_resumed_reaches_the_same_place(
    stack: Stack, trained: Path
) -> None:
    out = stack.runs / "killed"
    process = stack.start(out, "sft")
    stack.wait_for_step(process, out / "sft", 5)
    process.kill()
    process.wait()
    assert stack.finish(stack.start(out, "sft"), out) == 0, stack.output(out)
    whole, resumed = report_data(trained)["sft"], report_data(out)["sft"]
    assert [step for step, _ in resumed["loss"]] == list(range(SFT_STEPS))
    for name in ("loss", "validation_loss"):
        ours, theirs = resumed[name][-1], whole[name][-1]
        assert ours[0] == theirs[0]
        assert ours[1] == pytest.approx(theirs[1], abs=0.1), name


@pytest.fixture(scope="module")
def ways(stack: Stack, trained: Path) -> Mapping[str, list[dict[str, Any]]]:
    """The metrics of a few iterations in each way, from the same supervised state, all at once."""
    small = {"rl-iterations": 2, "rl-groups": 8, "rl-group-size": 4, "eval-examples": 16}
    outs, processes = {}, {}
    for name, changes in WAYS.items():
        outs[name] = stack.runs / name
        copy_of(trained, outs[name])
        processes[name] = stack.start(outs[name], "rl", {**small, **changes})
    for name, process in processes.items():
        assert stack.finish(process, outs[name]) == 0, stack.output(outs[name])
        assert Run.open(outs[name]).stages["rl"].status == "complete"
    return {name: trained_steps(out) for name, out in outs.items()}


def copy_of(trained: Path, out: Path) -> None:
    """A run that has the same supervised stage, and no other."""
    run = Run.open(trained)
    run.path, run.stages = out, {"sft": run.stages["sft"]}
    run.save()


def trained_steps(out: Path) -> list[dict[str, Any]]:
    """The lines of a reinforcement log that are about training."""
    return [m for m in read_metrics(out / "rl") if "optim/kl_sample_train_v2" in m]


def test_ppo_in_streamed_minibatches_and_substeps(ways: Mapping[str, Any]) -> None:
    assert [m["step"] for m in ways["ppo"]] == [0, 1]
    # The second sub-step trains on what the policy before the first one sampled.
    assert all(0 < m["optim/kl_sample_train_v2"] < 0.1 for m in ways["ppo"])


def test_cispo_with_a_kl_penalty_to_the_supervised_policy(ways: Mapping[str, Any]) -> None:
    before, after = (m["kl_policy_base"] for m in ways["cispo"])
    assert before == pytest.approx(0, abs=1e-4), "reinforcement starts from that policy"
    assert abs(after) > 1e-4
    assert [m["optim/kl_sample_train_v2"] for m in ways["cispo"]] == pytest.approx([0, 0], abs=1e-4)


def test_asynchronous_training_samples_from_the_weights_it_says(
    stack: Stack, ways: Mapping[str, Any]
) -> None:
    steps = ways["async"]
    assert Run.open(stack.runs / "async").stages["rl"].step == len(steps) >= 2
    for m in steps:
        assert m["step"] - m["sampling_client/step_min"] <= 1
        fresh = m["sampling_client/step_min"] == m["step"]
        assert (m["optim/kl_sample_train_v2"] < 1e-6) == fresh, m


STOPS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "kl": (
        {"loss": "ppo", "substeps": 2, "kl-warn": 1e-6, "kl-stop": 1e-5, "kl-patience": 2},
        "KL between sampler and trainer was above 1e-05 for 2 iterations",
    ),
    "cap": ({"max-tokens-total": 60_000}, "raise --max-tokens-total to go on"),
}
"""What stops a run before its end, and what it says."""


def test_a_watch_stops_a_run_with_a_checkpoint_and_a_sentence(stack: Stack, trained: Path) -> None:
    small = {"rl-iterations": 40, "rl-groups": 8, "rl-group-size": 4, "eval-examples": 16}
    processes = {}
    for name, (changes, _) in STOPS.items():
        out = stack.runs / f"stopped-{name}"
        copy_of(trained, out)
        processes[out] = stack.start(out, "rl", {**small, "rl-eval-every": 40, **changes})
    for (out, process), (_, said) in zip(processes.items(), STOPS.values(), strict=True):
        assert stack.finish(process, out) == 130, stack.output(out)
        stage = Run.open(out).stages["rl"]
        assert stage.status == "stopped" and said in stage.reason, stack.output(out)
        assert said in stack.output(out)
        assert 0 < stage.step == len(trained_steps(out)) < 40
        assert stage.state_path and stage.sampler_path


def test_ctrl_c_saves_a_checkpoint_and_says_where_it_stopped(stack: Stack) -> None:
    out = stack.runs / "interrupted"
    process = stack.start(out, "sft")
    stack.wait_for_step(process, out / "sft", 1)
    process.send_signal(signal.SIGINT)
    assert stack.finish(process, out) == 130, stack.output(out)
    stage = Run.open(out).stages["sft"]
    last = report_data(out)["sft"]["loss"][-1][0]
    assert stage.status == "stopped" and "SIGINT" in stage.reason
    assert stage.step == last + 1 < SFT_STEPS
    assert stage.state_path and stage.sampler_path


def test_the_trained_weights_play_as_an_agent(stack: Stack, trained: Path) -> None:
    data = load_dataset(stack.data, "validation")
    agent = create_agent(f"tinker:{trained}", AgentContext(data.taxonomy, data))
    decisions = agent.route([example.conversation for example in data])
    reward = Reward(data.taxonomy)
    scores = [
        reward.score_text(d.text, data.taxonomy.mask(e.labels.categories), truncated=d.truncated)
        for d, e in zip(decisions, data, strict=True)
    ]
    assert not any(decision.error for decision in decisions)
    assert all(d.usage is not None and d.usage.output_tokens > 0 for d in decisions)
    assert all(d.latency_s is not None and d.latency_s > 0 for d in decisions)
    mean = sum(score.total for score in scores) / len(scores)
    measured = Run.open(trained).stages["rl"].metrics["reward"]
    assert mean > measured - 0.12, "the likeliest answers are no worse than sampled ones"


def test_the_command_line_evaluates_the_run(stack: Stack, trained: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-c", "from memroute_eval.cli import main; main()", "eval",
        "--agent", f"tinker:{trained}", "--agent", "random",
        "--data", str(stack.data / "validation.jsonl"), "--json", str(tmp_path / "out.json"),
        "--concurrency", "64",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    agents = json.loads((tmp_path / "out.json").read_text())["agents"]
    assert len(agents) == 2


def test_sampler_and_trainer_agree_on_log_probabilities(stack: Stack, trained: Path) -> None:
    import numpy as np
    import tinker

    from memroute_agents.tinker.supervised import RoutingSupervisedBuilder

    run = Run.open(trained)
    builder = RoutingSupervisedBuilder(
        model_name=str(stack.model), renderer_name="llama3", data=str(stack.data)
    )
    datums, _ = builder.datums(8)

    async def compare() -> float:
        service = tinker.ServiceClient(base_url=stack.server.url)
        trainer = await service.create_training_client_from_state(run.stages["rl"].state_path)
        sampler: Any = await trainer.save_weights_and_get_sampling_client()
        forward = await trainer.forward(datums, "cross_entropy")
        worst = 0.0
        for datum, output in zip(datums, forward.loss_fn_outputs, strict=True):
            last = int(datum.loss_fn_inputs["target_tokens"].data[-1])
            sampled = await sampler.compute_logprobs(datum.model_input.append_int(last))
            difference = np.array(sampled[1:]) - np.array(output["logprobs"].data)
            worst = max(worst, float(np.abs(difference).max()))
        return worst

    assert asyncio.run(compare()) < 1e-4


def test_a_training_request_that_comes_twice_is_done_once(stack: Stack) -> None:
    import httpx
    import tinker

    trainer = tinker.ServiceClient(base_url=stack.server.url).create_lora_training_client(
        base_model=str(stack.model), rank=8
    )

    def step(number: int) -> str:
        request = {"model_id": trainer.get_info().model_id, "seq_id": number, "adam_params": {}}
        reply = httpx.post(f"{stack.server.url}/api/v1/optim_step", json=request, timeout=60)
        return str(reply.raise_for_status().json()["request_id"])

    first, again, next_one = step(101), step(101), step(102)
    assert first == again != next_one


def test_publishing_writes_adapter_and_card(stack: Stack, trained: Path) -> None:
    from memroute_agents.tinker.publish import publish_run

    folder = Path(publish_run(trained, "someone/memory-router", dry_run=True))
    names = {file.name for file in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= names
    card = (folder / "README.md").read_text()
    run = Run.open(trained)
    assert f"{run.stages['rl'].metrics['f1']:.3f}" in card
    assert run.data["train"]["sha256"] in card
    assert "library_name: peft" in card
    published = (folder / "memroute.json").read_text()
    assert stack.server.url not in published and str(stack.model.parent) not in published
