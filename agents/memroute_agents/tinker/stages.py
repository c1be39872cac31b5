"""What happens in each stage: the cookbook's config, its loop, and the final evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tinker
from tinker_cookbook import checkpoint_utils
from tinker_cookbook.eval.evaluators import TrainingClientEvaluator
from tinker_cookbook.rl import train as rl_train
from tinker_cookbook.supervised import train as sft_train
from tinker_cookbook.supervised.nll_evaluator import SamplerNLLEvaluator

from memroute_agents.tinker.evaluate import RoutingEvaluator
from memroute_agents.tinker.guard import Guard, StopTraining, guarded
from memroute_agents.tinker.run import StageResult, read_metrics

if TYPE_CHECKING:
    from memroute_agents.tinker.train import Plan

__all__ = ["ValidationLoss", "run_rl", "run_sft", "stage_result"]

logger = logging.getLogger(__name__)
KEEP_S = 7 * 24 * 3600
"""How long the service keeps a resume point; what a stage may end with is kept for good."""


class ValidationLoss(TrainingClientEvaluator):
    """Measures the validation loss, keeps the best weights, and ends training that only overfits.

    Called by the supervised loop before a step is submitted, so that the weights it sees (and
    saves) are those after the steps before.

    Args:
        data: Validation datums.
        guard: Of the stage.
        every: Steps between calls.
        patience: Calls without a better loss after which training stops; 0 never stops.
        start: The step that training begins with.
    """

    def __init__(self, data: Any, guard: Guard, every: int, patience: int, start: int) -> None:
        """See the class; earlier attempts' measurements are read from the log."""
        self.measure = SamplerNLLEvaluator(data, name="test")
        self.guard, self.patience, self.every = guard, patience, every
        self.step = -(-start // every) * every
        self.losses: dict[int, float] = {
            int(m["step"]): float(m["test/nll"])
            for m in read_metrics(guard.log_path)
            if "test/nll" in m and m.get("step", start) < start
        }

    @property
    def best_step(self) -> int:
        """The measurement with the lowest loss so far."""
        return min(self.losses, key=lambda step: (self.losses[step], step))

    async def __call__(self, training_client: tinker.TrainingClient) -> dict[str, float]:
        """Measure before step `self.step`.

        Raises:
            StopTraining: If the loss has not improved for `patience` measurements.
        """
        client = await training_client.save_weights_and_get_sampling_client_async()
        loss = await self.loss(client)
        step, self.step = self.step, self.step + self.every
        self.losses[step] = loss
        if step and self.best_step == step:
            await checkpoint_utils.save_checkpoint_async(
                training_client=training_client,
                name=f"best-{step:06d}",
                log_path=str(self.guard.log_path),
                loop_state={"epoch": 0, "batch": step, "best": True},
                kind="both",
            )
            self.guard.saved.add(step)
            self.guard.on_saved()
        since = sum(1 for later in self.losses if later > self.best_step)
        if self.patience and since >= self.patience:
            self.guard.append(step, {"test/nll": loss})
            if self.best_step == 0:  # untrained: not saved as the best
                self.guard.save(step)
            raise StopTraining(
                f"{_EARLY}: the validation loss is best after {self.best_step} steps "
                f"({self.losses[self.best_step]:.4f}) and has not improved in {since} measurements"
            )
        return {"test/nll": loss}

    async def loss(self, client: tinker.SamplingClient) -> float:
        """Mean negative log-likelihood of the answers under a client's weights."""
        self.guard.count(sum(d.model_input.length + 1 for d in self.measure.data))
        return (await self.measure(client))["test/nll"]


_EARLY = "early stopping"


def _last(log_path: Any, key: str) -> Mapping[str, Any]:
    record = checkpoint_utils.get_last_checkpoint(str(log_path), key)
    return record.to_dict() if record else {}


def _steps_in(record: Mapping[str, Any], total: int) -> int:
    """Steps whose updates a checkpoint holds; the supervised loop's last one says `epoch: 1`."""
    return total if record.get("epoch") else int(record.get("batch", 0))


def stage_result(guard: Guard, status: str, reason: str = "") -> StageResult:
    """The stage with its latest complete checkpoint (weights for both purposes)."""
    found = _last(guard.log_path, "sampler_path")
    return StageResult(
        status,
        reason,
        found.get("state_path", ""),
        found.get("sampler_path", ""),
        _steps_in(found, guard.total_steps),
    )


def _begin(plan: Plan, stage: str, guard: Guard) -> int:
    """Make the stage's folder ready and keep `run.json` up to date; returns the first step."""

    def record() -> None:
        plan.run.stages[stage] = stage_result(guard, "running")
        plan.run.save()

    guard.log_path.mkdir(parents=True, exist_ok=True)
    guard.on_saved = record
    record()
    start = _steps_in(_last(guard.log_path, "state_path"), guard.total_steps)
    if start:
        guard.say(f"{stage}: going on at step {start} of {guard.total_steps}")
    return start


async def run_sft(plan: Plan, guard: Guard) -> StageResult:
    """Supervised fine-tuning; the result is the best checkpoint by validation loss."""
    options = plan.run.options
    sft, log_path = options.sft, guard.log_path
    start = _begin(plan, "sft", guard)
    validation = ValidationLoss(plan.validation, guard, sft.eval_every, sft.patience, start)
    config = sft_train.Config(
        log_path=str(log_path),
        model_name=options.base_model,
        recipe_name="memroute_sft",
        renderer_name=plan.run.renderer,
        dataset_builder=plan.sft_data,
        learning_rate=sft.learning_rate,
        lr_schedule=sft.lr_schedule,
        num_epochs=1,
        lora_rank=options.lora_rank,
        base_url=options.base_url,
        evaluator_builders=[lambda: validation],
        eval_every=sft.eval_every,
        save_every=sft.save_every,
        submit_ahead=sft.submit_ahead,
        ttl_seconds=KEEP_S,
    )
    finished = ""
    with guarded(guard):
        try:
            await sft_train.main(config)
        except StopTraining as stop:
            if not str(stop).startswith(_EARLY):
                return stage_result(guard, "stopped", str(stop))
            finished = str(stop)
    service = tinker.ServiceClient(base_url=options.base_url)
    if not finished:
        final = _last(log_path, "sampler_path")
        client = await service.create_sampling_client(model_path=final["sampler_path"])
        validation.losses[sft.steps] = await validation.loss(client)
        guard.append(sft.steps, {"test/nll": validation.losses[sft.steps]})
    result = stage_result(guard, "complete", finished)
    records = checkpoint_utils.load_checkpoints_file(str(log_path))
    for record in records:
        if record.batch == validation.best_step and record.get("best"):
            result.state_path = record.state_path or ""
            result.sampler_path = record.sampler_path or ""
            result.step = validation.best_step
    result.metrics["test/nll"] = validation.losses.get(result.step, float("nan"))
    guard.say(f"sft: validation loss {result.metrics['test/nll']:.4f} after step {result.step}")
    return result


def _evaluator(plan: Plan, guard: Guard) -> RoutingEvaluator:
    options = plan.run.options
    return RoutingEvaluator(
        plan.held_out[: options.rl.eval_examples],
        plan.taxonomy,
        plan.run.renderer,
        options.base_model,
        max_tokens=options.rl.max_tokens,
        temperature=options.rl.eval_temperature,
        on_played=lambda played: guard.count(played.tokens),
    )


async def run_rl(plan: Plan, guard: Guard) -> StageResult:
    """Reinforcement learning from the supervised state; the result is the final checkpoint."""
    options = plan.run.options
    rl, log_path = options.rl, guard.log_path
    _begin(plan, "rl", guard)
    before = plan.run.stages["sft"]
    evaluator = _evaluator(plan, guard)
    streamed, lag = rl.stream_minibatches, rl.max_steps_off_policy
    config = rl_train.Config(
        log_path=str(log_path),
        model_name=options.base_model,
        recipe_name="memroute_rl",
        renderer_name=plan.run.renderer,
        dataset_builder=plan.rl_data,
        learning_rate=rl.learning_rate,
        load_checkpoint_path=before.state_path,
        lora_rank=options.lora_rank,
        base_url=options.base_url,
        max_tokens=rl.max_tokens,
        temperature=rl.temperature,
        loss_fn=rl.loss,  # type: ignore[arg-type]  # checked by RLOptions
        num_substeps=rl.substeps,
        kl_penalty_coef=rl.kl_penalty,
        kl_reference_config=rl_train.KLReferenceConfig(
            base_model=options.base_model, load_checkpoint_path=before.sampler_path
        ),
        async_config=None
        if lag is None
        else rl_train.AsyncConfig(max_steps_off_policy=lag, groups_per_batch=rl.groups),
        stream_minibatch_config=None
        if streamed is None
        else rl_train.StreamMinibatchConfig(groups_per_batch=rl.groups, num_minibatches=streamed),
        evaluator_builders=[lambda: evaluator],
        eval_every=rl.eval_every,
        save_every=rl.save_every,
        rolling_save_every=rl.rolling_save_every,
        rolling_ttl_seconds=KEEP_S,
        ttl_seconds=KEEP_S,
        num_groups_to_log=2,
    )
    with guarded(guard):
        try:
            await rl_train.main(config)
        except StopTraining as stop:
            return stage_result(guard, "stopped", str(stop))
    result = stage_result(guard, "complete")
    trained = 1 + max(m["step"] for m in read_metrics(log_path) if "optim/lr" in m)
    if trained < rl.iterations:
        # The asynchronous loop reads no more conversations than planned, so it ends early by what
        # it threw away as too old after the last of them was read.
        result.step = trained
        result.reason = (
            f"{trained} of {rl.iterations} iterations were trained; the last answers were older "
            f"than --max-steps-off-policy {lag} allows and were thrown away"
        )
    # The loop evaluates before an iteration, never after the last one.
    service = tinker.ServiceClient(base_url=options.base_url)
    client = await service.create_sampling_client(model_path=result.sampler_path)
    metrics = await evaluator(client)
    guard.append(result.step, {**metrics, "progress/done_frac": 1.0})
    assert evaluator.last is not None
    result.metrics = evaluator.last.metrics()
    result.intervals = evaluator.last.intervals()
    guard.say(
        f"rl: held-out reward {result.metrics['reward']:.3f}, F1 {result.metrics['f1']:.3f}, "
        f"exact {result.metrics['exact']:.1%}"
    )
    return result
