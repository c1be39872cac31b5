"""Training the local policy: supervised, then policy gradient, then calibration.

One run writes into one folder: `metrics.jsonl` (a line an epoch), `state.npz` (to resume), and at
the end `policy.npz`. Everything is chosen on validation data.
"""

from __future__ import annotations

import json
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from memroute_agents.local.checkpoint import save_policy
from memroute_agents.local.features import FeatureConfig, extract
from memroute_agents.local.objectives import CrossEntropy, ExactReward, Objective, SampledReward
from memroute_agents.local.optimise import EpochReport, Optimiser, Schedule
from memroute_agents.local.policy import Encoded, Encoder, LocalPolicy, softmax
from memroute_agents.local.sets import SetFamily
from memroute_env.conversation import Example
from memroute_env.datasets import Dataset
from memroute_env.env import MemoryRoutingEnv
from memroute_env.errors import DataError
from memroute_env.prompt import answer_text
from memroute_env.taxonomy import Taxonomy

__all__ = ["Estimator", "TrainConfig", "TrainResult", "hold_out", "train_policy"]

Estimator = Literal["sampled", "exact", "none"]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run; the default is what ships, chosen on the validation split."""

    seed: int = 0
    features: FeatureConfig = field(default_factory=FeatureConfig)
    min_count: int = 4
    """A bucket is kept if it occurs in at least so many training conversations."""
    pooling: float = 0.5
    supervised: Schedule = field(
        default_factory=lambda: Schedule(epochs=14, rate=128.0, evidence_weight=0.5)
    )
    smoothing: float = 0.1
    """Label noise: see `CrossEntropy`."""
    balance: float = 0.5
    """Class imbalance: an example's weight is the inverse frequency of its set's rarest category
    to this power (0: none, 1: full)."""
    authored_weight: float = 3.0
    """Weight of conversations written in one piece, relative to composed ones."""
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
        report: Called with a stage name, epochs done and epochs planned.

    Returns:
        The policy with its metrics.

    Raises:
        DataError: If datasets have different taxonomies or the saved state is of another run.
        KeyboardInterrupt: Passed on; the state of the last finished epoch is saved.
    """
    run = _Run(
        [train] if isinstance(train, Dataset) else list(train),
        validation,
        config or TrainConfig(),
        out,
        resume,
        warm_start,
        report or (lambda stage, done, planned: None),
    )
    return run()


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
        report: Report,
    ) -> None:
        self.started = time.perf_counter()
        self.taxonomy: Taxonomy = validation.taxonomy
        for dataset in train:
            if dataset.taxonomy != self.taxonomy:
                raise DataError(
                    f"{dataset!r} is labelled in {dataset.taxonomy.name!r}, the validation data "
                    f"in {self.taxonomy.name!r}; all data of a run need one taxonomy"
                )
        self.train, self.validation, self.config = train, validation, config
        self.out, self.resume, self.report = out, resume, report
        self.examples: list[Example] = [e for dataset in train for e in dataset]
        self.gold = np.concatenate([dataset.gold_masks for dataset in train])
        self.family = SetFamily(self.taxonomy)
        self.metrics: list[dict[str, Any]] = []
        start = warm_start and [
            warm_start.pooling,
            sha256(warm_start.encoder.columns.tobytes()).hexdigest(),
            sha256(warm_start.parameters.linear.tobytes()).hexdigest(),
        ]
        self.fingerprint = json.dumps(
            [[d.sha256 for d in train], validation.sha256, asdict(config), start], sort_keys=True
        )
        features = extract([e.conversation for e in self.examples], config.features)
        if warm_start is None:
            encoder = Encoder.fit(features, config.features, config.min_count)
            self.policy = LocalPolicy.untrained(self.family, encoder, config.pooling)
        else:
            if warm_start.taxonomy != self.taxonomy:
                raise DataError("the checkpoint to start from has another taxonomy than the data")
            encoder = warm_start.encoder
            self.policy = replace(
                warm_start, parameters=warm_start.parameters.copy(), temperature=1.0
            )
        self.data = encoder.encode(features)
        del features
        self.held_out = encoder([e.conversation for e in validation])
        self.targets = self.family.closest(self.gold)
        self.done: dict[str, int] = {}
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            self._prepare_folder(out)

    def _prepare_folder(self, out: Path) -> None:
        log, state = out / "metrics.jsonl", out / "state.npz"
        if not self.resume or not state.exists():
            log.unlink(missing_ok=True)
            state.unlink(missing_ok=True)
        elif log.exists():
            self.metrics = [json.loads(line) for line in log.read_text().splitlines()]

    def __call__(self) -> TrainResult:
        config = self.config
        if config.from_scratch:
            self._scratch()
        else:
            self._supervised()
            self._calibrate()
            if config.estimator != "none":
                self._policy_gradient()
        self._calibrate()
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
            (self.out / "state.npz").unlink(missing_ok=True)
        return TrainResult(self.policy, self.metrics, seconds)

    # Stages -------------------------------------------------------------------------------------

    def _supervised(self) -> None:
        config = self.config
        objective = CrossEntropy(
            self.targets, self._weights(), self.family.payoff_KK, config.smoothing
        )
        self._epochs("supervised", objective, config.supervised, self._evidence())

    def _scratch(self) -> None:
        config = self.config
        objective = SampledReward(
            self._environment(),
            config.group_size,
            (config.seed, 2),
            entropy_weight=config.scratch_entropy,
        )
        schedule = Schedule(epochs=config.scratch_epochs, rate=config.scratch_rate)
        self._epochs("from scratch", objective, schedule, None)

    def _epochs(
        self,
        stage: str,
        objective: Objective,
        schedule: Schedule,
        evidence: npt.NDArray[np.bool_] | None,
    ) -> None:
        """Epochs of one objective; the state is saved after each."""
        optimiser = Optimiser(self.policy, self.data, schedule, self.config.seed, evidence)
        self._restore(stage, optimiser)
        while optimiser.epoch < schedule.epochs:
            self.report(stage, optimiser.epoch, schedule.epochs)
            if isinstance(objective, SampledReward):
                objective.start_epoch(optimiser.epoch)
            self._log(stage, optimiser.run_epoch(objective))
            self._save(stage, optimiser)
        self.report(stage, schedule.epochs, schedule.epochs)

    def _policy_gradient(self) -> None:
        """Iterations of a few groups each, stopped at the KL bound, kept only if they help."""
        config = self.config
        start = self.policy.parameters.copy()
        reference = np.log(softmax(self._logits(self.data)) + 1e-12)
        before = self.evaluate()["val_reward"]
        objective: ExactReward | SampledReward
        if config.estimator == "exact":
            objective = ExactReward(
                self.targets, self.family.payoff_KK, reference, config.kl_weight
            )
        else:
            objective = SampledReward(
                self._environment(),
                config.group_size,
                (config.seed, 1),
                reference,
                config.kl_weight,
            )
        schedule = Schedule(
            epochs=1, rate=config.gradient_rate, batch_size=config.groups, warm_up=1
        )
        optimiser = Optimiser(self.policy, self.data, schedule, config.seed)
        rng = np.random.default_rng([config.seed, 3])
        best, best_reward = start, before
        for iteration in range(1, config.gradient_iterations + 1):
            chosen = rng.choice(self.data.size, min(config.groups, self.data.size), replace=False)
            loss = optimiser.step(objective, np.sort(chosen))
            self._log(
                "policy gradient",
                EpochReport(iteration, loss.value, loss.reward, loss.entropy, loss.kl),
            )
            self.report("policy gradient", iteration, config.gradient_iterations)
            if self.metrics[-1]["val_reward"] > best_reward:
                best, best_reward = self.policy.parameters.copy(), self.metrics[-1]["val_reward"]
            if loss.kl > config.max_kl:
                break
        # The supervised policy is a candidate like any iterate: validation decides.
        self.policy.parameters = best

    def _calibrate(self) -> None:
        """The temperature with the lowest validation negative log-likelihood."""
        self.policy.temperature = 1.0
        logits = self.policy.forward(self.held_out).logits
        gold = self.family.closest(self.validation.gold_masks)
        candidates = np.exp(np.linspace(np.log(0.3), np.log(5), 60))
        losses = [
            -np.log(softmax(logits / t)[np.arange(len(gold)), gold] + 1e-12).mean()
            for t in candidates
        ]
        self.policy.temperature = float(candidates[int(np.argmin(losses))])

    # Pieces -------------------------------------------------------------------------------------

    def _weights(self) -> npt.NDArray[np.float32]:
        """Weight of each example: rare categories and authored conversations count more."""
        bits = self.family.indicator_KC[self.targets] > 0
        frequency = bits.mean(axis=0)
        rarest = np.where(bits, frequency, np.inf).min(axis=1)
        weights = rarest**-self.config.balance
        authored = np.array([e.metadata.source == "authored" for e in self.examples])
        weights = weights * np.where(authored, self.config.authored_weight, 1.0)
        return (weights / weights.mean()).astype(np.float32)

    def _evidence(self) -> npt.NDArray[np.bool_]:
        """(S, C): rows of the user's sentences whose turn is named as evidence."""
        marked = np.zeros((len(self.data.turns), self.family.indicator_KC.shape[1]), np.bool_)
        column = {c: i for i, c in enumerate(self.taxonomy.all_ids)}
        for n, example in enumerate(self.examples):
            for category_id, turns in example.labels.evidence.items():
                rows = slice(self.data.starts[n], self.data.starts[n + 1])
                marked[rows, column[category_id]] |= np.isin(self.data.turns[rows], turns)
        return marked

    def _environment(self) -> Callable[..., npt.NDArray[np.float64]]:
        """Plays answers through the native vector environment: only rewards come back."""
        dataset = Dataset(
            [e.model_copy(update={"id": f"{n}"}) for n, e in enumerate(self.examples)],
            self.taxonomy,
            checked=True,
        )
        return EnvironmentPlay(dataset, self.family)

    def _logits(self, data: Encoded, block: int = 2048) -> npt.NDArray[np.float32]:
        parts = [
            self.policy.forward(data.take(np.arange(s, min(s + block, data.size)))).logits
            for s in range(0, data.size, block)
        ]
        return np.concatenate(parts)

    def evaluate(self) -> dict[str, float]:
        """Validation metrics of the policy as it stands, decoded for reward."""
        probabilities = self.policy.probabilities(self.held_out)
        masks = self.policy.decide(probabilities)
        gold = self.validation.gold_masks
        scores = self.family.reward.score_masks(masks, gold, components=True)
        position = self.family.closest(gold)
        picked = probabilities[np.arange(len(gold)), position]
        return {
            "val_loss": float(-np.log(picked + 1e-12).mean()),
            "val_reward": float(scores.total.mean()),
            "val_f1": float(scores.f1.mean()),
            "val_exact": float((masks == gold).mean()),
            "val_reward_temporal": float(scores.temporal.mean()),
            "val_reward_parity": float(scores.parity.mean()),
            "val_reward_efficiency": float(scores.efficiency.mean()),
        }

    def _log(self, stage: str, epoch: EpochReport) -> None:
        line = {
            "stage": stage,
            "step": epoch.epoch,
            "loss": epoch.loss,
            "reward": epoch.reward,
            "entropy": epoch.entropy,
            "kl": epoch.kl,
            **self.evaluate(),
        }
        self.metrics.append(line)
        if self.out is not None:
            with (self.out / "metrics.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")

    def _save(self, stage: str, optimiser: Optimiser) -> None:
        if self.out is None:
            return
        path = self.out / "state.npz"
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            allow_pickle=False,
            stage=np.array(stage),
            fingerprint=np.array(self.fingerprint),
            **optimiser.state(),  # type: ignore[arg-type]
        )
        partial.replace(path)

    def _restore(self, stage: str, optimiser: Optimiser) -> None:
        path = self.out / "state.npz" if self.out is not None else None
        if not self.resume or path is None or not path.exists():
            return
        try:
            with np.load(path, allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
            stage_of, fingerprint = str(state["stage"]), str(state["fingerprint"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{path}: is damaged ({type(error).__name__}); start anew without --resume"
            ) from None
        if fingerprint != self.fingerprint:
            raise DataError(
                f"{path}: was saved by a run with other data or settings; "
                "use the same ones, or start anew without --resume"
            )
        if stage_of == stage:
            optimiser.restore(state)
        kept = [m for m in self.metrics if m["stage"] == stage and m["step"] <= optimiser.epoch]
        self.metrics = kept
        assert self.out is not None
        (self.out / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in kept))


def hold_out(datasets: Sequence[Dataset], share: float = 0.1) -> tuple[list[Dataset], Dataset]:
    """Set a share of the examples aside for validation; equal conversations stay together.

    Args:
        datasets: Training data of one taxonomy.
        share: Of the examples, by a hash of what the user says.

    Returns:
        The datasets without the held-out examples, and those.

    Raises:
        DataError: If nothing is left on one of the sides.
    """
    kept: list[list[Example]] = [[] for _ in datasets]
    aside: list[Example] = []
    for dataset, rest in zip(datasets, kept, strict=True):
        for example in dataset:
            text = " ".join(example.conversation.user_texts).lower()
            place = int.from_bytes(
                sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big"
            )
            (aside if place < share * 2**32 else rest).append(example)
    if not aside or not any(kept):
        raise DataError(
            f"{sum(map(len, datasets))} examples are too few to set {share:.0%} aside; "
            "give validation data with --validation"
        )
    taxonomy = datasets[0].taxonomy
    unique = {example.id: example for example in aside}
    return (
        [
            Dataset(rest, taxonomy, name=dataset.name, split=dataset.split, checked=True)
            for dataset, rest in zip(datasets, kept, strict=True)
            if rest
        ],
        Dataset(list(unique.values()), taxonomy, name="held out", checked=True),
    )


class EnvironmentPlay:
    """Answers to conversations, paid by the environment; nothing but rewards comes back.

    Args:
        dataset: What is played.
        family: Its sets are the answers, given as text like a language model's.
    """

    def __init__(self, dataset: Dataset, family: SetFamily) -> None:
        """See the class."""
        self._env = MemoryRoutingEnv(dataset)
        self._answers = [answer_text(int(mask), family.taxonomy) for mask in family.masks]

    def __call__(
        self, chosen: npt.NDArray[np.int64], answers: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Rewards of answering the set `answers[i]` to conversation `chosen[i]`: shape (M,)."""
        env, texts = self._env, self._answers
        rewards = np.empty(len(chosen))
        for i, (index, answer) in enumerate(zip(chosen.tolist(), answers.tolist(), strict=True)):
            env.reset(options={"index": index})
            rewards[i] = env.step(texts[answer])[1]
        return rewards
