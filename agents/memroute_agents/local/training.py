"""Training the local policy: supervised, then policy gradient, then calibration.

One run writes into one folder: `metrics.jsonl` (a line an epoch), `state.npz` (to resume), and at
the end `policy.npz`. Everything is chosen on validation data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from memroute_agents.local.calibration import calibrate, reluctance
from memroute_agents.local.checkpoint import save_policy
from memroute_agents.local.encoding import Encoded, Encoder, Grouped
from memroute_agents.local.features import FeatureConfig
from memroute_agents.local.forms import (
    cross_entropy,
    exact_reward,
    reference_of,
    sampled_reward,
)
from memroute_agents.local.objectives import GroupReward, Objective
from memroute_agents.local.optimise import EpochReport, Optimiser, Schedule
from memroute_agents.local.play import EnvironmentPlay
from memroute_agents.local.policy import Calibration, LocalPolicy
from memroute_agents.local.run_folder import RunFolder
from memroute_agents.local.sets import family_of
from memroute_agents.local.supervision import Supervision
from memroute_env.conversation import Example
from memroute_env.datasets import Dataset
from memroute_env.errors import DataError, OptionError
from memroute_env.taxonomy import Taxonomy

__all__ = ["Estimator", "TrainConfig", "TrainResult", "train_policy"]

Estimator = Literal["sampled", "exact", "none"]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run; the default is what ships, chosen on the validation split."""

    seed: int = 0
    features: FeatureConfig = field(default_factory=FeatureConfig)
    min_count: int = 8
    """A bucket is kept if it occurs in at least so many training conversations, or in at least one
    in 2,000 of them, if that is fewer; but in 2."""
    pooling: float = 0.3
    supervised: Schedule = field(
        default_factory=lambda: Schedule(
            epochs=6, rate=384.0, batch_size=256, warm_up=60, min_steps=100, evidence_weight=1.0
        )
    )
    smoothing: float = 0.15
    """Label noise: see `CrossEntropy`."""
    balance: float = 0.5
    """Class imbalance: an example's weight is the inverse frequency of its set's rarest category
    to this power (0: none, 1: full)."""
    whole_weight: float = 3.0
    """Weight of conversations written in one piece, relative to composed ones."""
    pairs: float = 1.0
    """Pairs of these conversations that are also read as one, as a share of their number."""
    calibrate_sizes: bool = True
    """Fit the biases of set sizes to validation data, beside the temperature."""
    none_precision: float = 0.9
    """How often the exclusive answer is to be right on validation data: see `reluctance`; 0: as
    often as it comes."""
    estimator: Estimator = "sampled"
    """Policy gradient: `sampled` groups through the environment, `exact`, or `none`."""
    gradient_iterations: int = 30
    groups: int = 64
    group_size: int = 32
    gradient_rate: float = 16.0
    kl_weight: float = 0.05
    max_kl: float = 0.1
    """The policy gradient stops when the mean KL from the supervised policy exceeds it."""
    from_scratch: bool = False
    """Never see a gold set: rewards only."""
    scratch_epochs: int = 12
    scratch_rate: float = 400.0
    scratch_entropy: float = 0.02


@dataclass
class TrainResult:
    """A trained policy and what was measured on the way."""

    policy: LocalPolicy
    metrics: list[dict[str, Any]]
    seconds: float


def train_policy(
    train: Dataset | Sequence[Dataset],
    validation: Dataset,
    config: TrainConfig | None = None,
    *,
    out: Path | None = None,
    resume: bool = False,
    warm_start: LocalPolicy | None = None,
    fresh: Dataset | None = None,
    report: Report | None = None,
) -> TrainResult:
    """Train a policy.

    Args:
        train: Training data: one or several datasets of one taxonomy.
        validation: Data that everything is chosen on; never trained on.
        config: Settings.
        out: Folder for `metrics.jsonl`, `state.npz` and `policy.npz`; nothing is written without.
        resume: Go on from `state.npz` in `out`.
        warm_start: Start from this policy's encoder and parameters.
        fresh: Conversations that only the policy gradient sees: half of its groups come from here,
            in order, so that it is also paid on what the supervised stage has not fitted.
        report: Called with a stage name, epochs done and epochs planned.

    Returns:
        The policy with its metrics.

    Raises:
        DataError: If datasets have different taxonomies or the saved state is of another run.
        OptionError: If fresh conversations are given and there is no policy gradient.
        KeyboardInterrupt: Passed on; the state of the last finished epoch is saved.
    """
    run = _Run(
        [train] if isinstance(train, Dataset) else list(train),
        validation,
        config or TrainConfig(),
        out,
        resume,
        warm_start,
        fresh,
        report or (lambda stage, done, planned: None),
    )
    return run()


def _refuse_idle_options(config: TrainConfig, fresh: Dataset | None) -> None:
    """Raise OptionError for what was asked for and would not be done."""
    if fresh is not None and (config.from_scratch or config.estimator == "none"):
        raise OptionError(
            "fresh conversations are for the policy gradient, which this run does not have; "
            "leave them out, or choose the estimator 'sampled' or 'exact'"
        )


class _Run:
    """One training run: the stages share encoded data and a log."""

    def __init__(
        self,
        train: list[Dataset],
        validation: Dataset,
        config: TrainConfig,
        out: Path | None,
        resume: bool,
        warm_start: LocalPolicy | None,
        fresh: Dataset | None,
        report: Report,
    ) -> None:
        self.started = time.perf_counter()
        self.taxonomy: Taxonomy = validation.taxonomy
        for dataset in train if fresh is None else [*train, fresh]:
            if dataset.taxonomy != self.taxonomy:
                raise DataError(
                    f"{dataset!r} is labelled in {dataset.taxonomy.name!r}, the validation data "
                    f"in {self.taxonomy.name!r}; all data of a run need one taxonomy"
                )
        if warm_start is not None and warm_start.taxonomy != self.taxonomy:
            raise DataError("the checkpoint to start from has another taxonomy than the data")
        _refuse_idle_options(config, fresh)
        self.train, self.validation, self.config = train, validation, config
        self.fresh, self.out, self.report = fresh, out, report
        self.examples: list[Example] = [e for dataset in train for e in dataset]
        self.gold = np.concatenate([dataset.gold_masks for dataset in train])
        self.family = family_of(self.taxonomy)
        start = warm_start and [
            warm_start.pooling,
            sha256(warm_start.encoder.columns.tobytes()).hexdigest(),
            sha256(warm_start.parameters.linear.tobytes()).hexdigest(),
        ]
        identity = [[d.sha256 for d in train], validation.sha256, asdict(config), start]
        identity += [fresh.sha256] if fresh is not None else []
        self.folder = RunFolder(out, json.dumps(identity, sort_keys=True), resume)
        conversations = [e.conversation for e in self.examples]
        if warm_start is None:
            min_count = min(config.min_count, max(2, len(conversations) // 2_000))
            encoder = Encoder.fit(conversations, config.features, min_count)
            self.policy = LocalPolicy.untrained(self.family, encoder, config.pooling)
        else:
            encoder = warm_start.encoder
            self.policy = replace(
                warm_start,
                parameters=warm_start.parameters.copy(),
                calibration=Calibration.none(self.family.num_sizes),
            )
        self.data = encoder(conversations)
        self.held_out = encoder([e.conversation for e in validation])
        self.targets = self.family.closest(self.gold)

    def __call__(self) -> TrainResult:
        config = self.config
        if config.from_scratch:
            self._scratch()
            self._settle()
        else:
            self._supervised()
            self._settle()
            if config.estimator != "none":
                self._policy_gradient()
        seconds = time.perf_counter() - self.started
        self.policy.metadata = {
            "train": [
                {"name": d.name, "split": d.split, "sha256": d.sha256, "n": len(d)}
                for d in self.train
            ],
            "validation": {"name": self.validation.name, "sha256": self.validation.sha256},
            "config": asdict(config),
            "metrics": self.evaluate(),
        }
        if self.out is not None:
            save_policy(self.policy, self.out / "policy.npz")
        self.folder.finish()
        return TrainResult(self.policy, self.folder.metrics, seconds)

    # Stages -------------------------------------------------------------------------------------

    def _supervised(self) -> None:
        config, family = self.config, self.family
        known = Supervision.of(self.data, self.examples, self.gold, family)
        known = known.with_pairs(config.pairs, config.seed)
        weights = known.weights(family, config.balance, config.whole_weight)
        objective = cross_entropy(family, family.closest(known.gold), weights, config.smoothing)
        self._epochs("supervised", objective, config.supervised, known.data, known.evidence)

    def _scratch(self) -> None:
        config = self.config
        objective = sampled_reward(
            self.family,
            EnvironmentPlay(self.examples, self.family),
            config.group_size,
            (config.seed, 2),
            entropy_weight=config.scratch_entropy,
        )
        schedule = Schedule(epochs=config.scratch_epochs, rate=config.scratch_rate)
        self._epochs("from scratch", objective, schedule, self.data, None)

    def _epochs(
        self,
        stage: str,
        objective: Objective,
        schedule: Schedule,
        data: Encoded | Grouped,
        evidence: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Epochs of one objective; the state is saved after each."""
        optimiser = Optimiser(self.policy, data, schedule, self.config.seed, evidence)
        self.folder.restore(stage, optimiser)
        while optimiser.epoch < optimiser.epochs:
            self.report(stage, optimiser.epoch, optimiser.epochs)
            if isinstance(objective, GroupReward):
                objective.start_epoch(optimiser.epoch)
            self._log(stage, optimiser.run_epoch(objective))
            self.folder.save(stage, optimiser)
        self.report(stage, optimiser.epochs, optimiser.epochs)

    def _policy_gradient(self) -> None:
        """Iterations of a few groups each, stopped at the KL bound, kept only if they help."""
        config = self.config
        data, targets, examples = self.data, self.targets, self.examples
        if self.fresh is not None:
            fresh = self.policy.encoder([e.conversation for e in self.fresh])
            data = Encoded.joined([data, fresh])
            targets = np.concatenate([targets, self.family.closest(self.fresh.gold_masks)])
            examples = [*examples, *self.fresh]
        start = self.policy.parameters.copy()
        reference = self._reference(data)
        before = self.evaluate()["val_reward"]
        objective: Objective
        if config.estimator == "exact":
            objective = exact_reward(self.family, targets, reference, config.kl_weight)
        else:
            play, draws = EnvironmentPlay(examples, self.family), (config.seed, 1)
            objective = sampled_reward(
                self.family, play, config.group_size, draws, reference, config.kl_weight
            )
        schedule = Schedule(
            epochs=1,
            rate=config.gradient_rate,
            batch_size=config.groups,
            warm_up=1,
            min_steps=config.gradient_iterations,
        )
        optimiser = Optimiser(self.policy, data, schedule, config.seed)
        rng = np.random.default_rng([config.seed, 3])
        best, best_reward, calibration = start, before, self.policy.calibration
        for iteration in range(1, config.gradient_iterations + 1):
            loss = optimiser.step(objective, self._groups(rng, iteration - 1))
            self._log(
                "policy gradient",
                EpochReport(iteration, loss.value, loss.reward, loss.entropy, loss.kl),
            )
            self.report("policy gradient", iteration, config.gradient_iterations)
            reached = self.folder.metrics[-1]["val_reward"]
            if reached > best_reward:
                best, best_reward = self.policy.parameters.copy(), reached
            if loss.kl > config.max_kl:
                break
        # The supervised policy is a candidate like any iterate: validation decides.
        self.policy.parameters = best.copy()
        self._settle()
        if self.evaluate()["val_reward"] < before:
            self.policy.parameters, self.policy.calibration = start, calibration

    def _groups(self, rng: np.random.Generator, iteration: int) -> npt.NDArray[np.int64]:
        """Positions of one iteration's conversations: fitted ones, then the next fresh ones."""
        fresh = 0 if self.fresh is None else min(self.config.groups // 2, len(self.fresh))
        fitted = min(self.config.groups - fresh, self.data.size)
        chosen = np.sort(rng.choice(self.data.size, fitted, replace=False))
        if not fresh:
            return chosen
        following = (iteration * fresh + np.arange(fresh)) % len(self.fresh or ())
        return np.concatenate([chosen, self.data.size + following])

    def _settle(self) -> None:
        """Round to what a checkpoint keeps, and calibrate that on validation data.

        What learns from rewards alone gets no more from gold sets here than a temperature.
        """
        self.policy.parameters = self.policy.parameters.rounded()
        gold = self.family.closest(self.validation.gold_masks)
        likelihood = cross_entropy(self.family, gold, np.ones(len(gold), np.float32))
        sizes = self.config.calibrate_sizes and not self.config.from_scratch
        self.policy.calibration = calibrate(self.policy, self.held_out, likelihood, sizes=sizes)
        wanted = 0.0 if self.config.from_scratch else self.config.none_precision
        found = reluctance(self.policy, self.held_out, self.validation.gold_masks, wanted)
        self.policy.calibration = self.policy.calibration._replace(reluctance=found)

    # Pieces -------------------------------------------------------------------------------------

    def _reference(self, data: Encoded, block: int = 2048) -> npt.NDArray[np.float32]:
        """The policy as it stands, as the estimators compare with it."""
        logits = [
            self.policy.forward(data.take(np.arange(s, min(s + block, data.size)))).logits
            for s in range(0, data.size, block)
        ]
        return reference_of(self.family, np.concatenate(logits))

    def evaluate(self) -> dict[str, float]:
        """Validation metrics of the policy as it stands, decoded for reward."""
        logits = self.policy.logits(self.held_out)
        masks = self.policy.answers(logits)
        gold = self.validation.gold_masks
        scores = self.family.reward.score_masks(masks, gold, components=True)
        return {
            "val_loss": float(-self.family.log_prob(logits, self.family.closest(gold)).mean()),
            "val_reward": float(scores.total.mean()),
            "val_f1": float(scores.f1.mean()),
            "val_exact": float((masks == gold).mean()),
            "val_reward_temporal": float(scores.temporal.mean()),
            "val_reward_parity": float(scores.parity.mean()),
            "val_reward_efficiency": float(scores.efficiency.mean()),
        }

    def _log(self, stage: str, epoch: EpochReport) -> None:
        self.folder.log(
            {
                "stage": stage,
                "step": epoch.epoch,
                "loss": epoch.loss,
                "reward": epoch.reward,
                "entropy": epoch.entropy,
                "kl": epoch.kl,
                **self.evaluate(),
            }
        )
