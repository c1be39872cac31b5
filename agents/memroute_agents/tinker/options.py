"""Every setting of a training run, validated once, and the two presets.

`paper` is the published training (`memroute_eval.published.TRAINING`): 100 supervised steps of 128
conversations, then 30 iterations of 64 groups of 32 samples. `quick` is the same in small: an
afternoon's first look for about a fiftieth of the cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memroute_env.errors import OptionError

__all__ = ["LOSSES", "PRESETS", "RLOptions", "SFTOptions", "TrainOptions", "WatchOptions", "preset"]

LOSSES = ("importance_sampling", "ppo", "cispo")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise OptionError(message)


@dataclass(frozen=True)
class SFTOptions:
    """Supervised fine-tuning: cross-entropy on the answer alone."""

    steps: int = 100
    batch_size: int = 128
    learning_rate: float = 2.86e-4
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    eval_every: int = 10
    """Steps between measurements of the validation loss."""
    eval_examples: int = 256
    """Validation conversations whose loss is measured."""
    patience: int = 3
    """Measurements without a better loss after which training stops early; 0 never stops."""
    save_every: int = 20
    submit_ahead: int = 0
    """Batches sent before the previous one's result is in: overlaps client and server, but the
    step in flight when a run is stopped is missing from its curve."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        _check(self.steps >= 1 and self.batch_size >= 1, "sft: steps and batch_size must be >= 1")
        _check(self.learning_rate > 0, f"sft: learning_rate must be > 0, got {self.learning_rate}")
        cadence = (self.eval_every, self.eval_examples, self.save_every)
        _check(min(cadence) >= 1, "sft: eval_every, eval_examples and save_every must be >= 1")
        _check(min(self.patience, self.submit_ahead) >= 0, "sft: patience, submit_ahead are >= 0")


@dataclass(frozen=True)
class RLOptions:
    """Reinforcement learning on the environment's reward."""

    iterations: int = 30
    groups: int = 64
    """Conversations an iteration."""
    group_size: int = 32
    """Answers to each of them; their mean reward is the baseline."""
    learning_rate: float = 2e-5
    loss: str = "importance_sampling"
    temperature: float = 0.7
    max_tokens: int = 100
    """New tokens an answer may have; a longer one is cut off and read as far as it goes."""
    kl_penalty: float = 0.0
    """Coefficient of the KL penalty to the policy that RL starts from."""
    substeps: int = 1
    """Optimizer steps an iteration."""
    max_steps_off_policy: int | None = None
    """Asynchronous training: how many steps old a sample may be. None trains synchronously."""
    stream_minibatches: int | None = None
    """Train on this many minibatches a sub-step as soon as they are sampled. None: all at once."""
    eval_every: int = 5
    """Iterations between held-out evaluations."""
    eval_examples: int = 200
    eval_temperature: float = 0.0
    """0 evaluates the likeliest answer; the training temperature evaluates the policy itself."""
    save_every: int = 5
    rolling_save_every: int = 1
    """Iterations between cheap resume points (state only; each replaces the last)."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        sizes = (self.iterations, self.groups, self.substeps, self.max_tokens)
        _check(min(sizes) >= 1, "rl: iterations, groups, substeps and max_tokens must be >= 1")
        cadence = (self.eval_every, self.eval_examples, self.save_every)
        _check(min(cadence) >= 1, "rl: eval_every, eval_examples and save_every must be >= 1")
        _check(self.group_size >= 2, "rl: group_size must be >= 2: the baseline is a group's mean")
        _check(self.loss in LOSSES, f"rl: loss {self.loss!r} is not one of {', '.join(LOSSES)}")
        _check(self.eval_temperature >= 0, "rl: eval_temperature must be >= 0")
        _check(self.temperature > 0, f"rl: temperature must be > 0, got {self.temperature}")
        _check(self.learning_rate > 0, f"rl: learning_rate must be > 0, got {self.learning_rate}")
        _check(self.kl_penalty >= 0, f"rl: kl_penalty must be >= 0, got {self.kl_penalty}")
        lag, streamed = self.max_steps_off_policy, self.stream_minibatches
        _check(lag is None or lag >= 0, f"rl: max_steps_off_policy must be >= 0, got {lag}")
        _check(streamed is None or streamed >= 1, "rl: stream_minibatches must be >= 1")
        _check(
            self.groups % (self.substeps * (self.stream_minibatches or 1)) == 0,
            f"rl: {self.groups} groups do not divide into {self.substeps} sub-steps of "
            f"{self.stream_minibatches or 1} minibatches",
        )

    @property
    def readings(self) -> int:
        """Times a sampled answer and its prompt are read.

        By the sampler, the trainer and, with a KL penalty, the policy it is penalised against.
        """
        return 3 if self.kl_penalty else 2


@dataclass(frozen=True)
class WatchOptions:
    """When a run is warned about or stopped."""

    kl_warn: float = 0.005
    """KL between sampler and trainer (the larger of the cookbook's two estimates): a warning."""
    kl_stop: float = 0.01
    """Above this for `kl_patience` iterations in a row: a clean stop."""
    kl_patience: int = 3
    max_tokens_total: int | None = None
    """Tokens (sampled, read and trained) after which no further step is begun."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        _check(0 < self.kl_warn <= self.kl_stop, "watch: 0 < kl_warn <= kl_stop is needed")
        _check(self.kl_patience >= 1, f"watch: kl_patience must be >= 1, got {self.kl_patience}")
        cap = self.max_tokens_total
        _check(cap is None or cap > 0, f"watch: max_tokens_total must be > 0, got {cap}")


@dataclass(frozen=True)
class TrainOptions:
    """A training run."""

    base_model: str = "meta-llama/Llama-3.1-8B"
    """Hub name, or folder, of the model that the server trains; its tokenizer is read from it."""
    renderer: str | None = None
    """tinker-cookbook's chat renderer; by default the one recommended for the model."""
    base_url: str | None = None
    """The server; by default Tinker's own service (`TINKER_BASE_URL`)."""
    lora_rank: int = 32
    data: str = "marketing"
    """A shipped dataset's name, or a folder with `train.jsonl` and `validation.jsonl`."""
    taxonomy: str | None = None
    """A taxonomy's name or file; by default the data's own."""
    eval_split: str = "validation"
    max_length: int = 4096
    """Longest prompt and answer in tokens; longer examples are left out, counted and named."""
    seed: int = 0
    sft: SFTOptions = SFTOptions()
    rl: RLOptions = RLOptions()
    watch: WatchOptions = WatchOptions()

    def __post_init__(self) -> None:
        """Check the numbers once."""
        _check(self.lora_rank >= 1, f"lora_rank must be >= 1, got {self.lora_rank}")
        _check(self.max_length >= 64, f"max_length must be >= 64, got {self.max_length}")
        _check(0 <= self.seed < 2**31, f"seed must be in [0, 2**31), got {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a run's `run.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainOptions:
        """The options of a `run.json`.

        Raises:
            OptionError: For an unknown key or an impossible value.
        """
        try:
            parts = {"sft": SFTOptions, "rl": RLOptions, "watch": WatchOptions}
            return cls(**{k: parts[k](**v) if k in parts else v for k, v in data.items()})
        except TypeError as error:
            raise OptionError(f"these are not a training run's options: {error}") from None

    def with_changes(self, changes: Mapping[str, Any]) -> TrainOptions:
        """A copy with some settings changed; `None` leaves a setting as it is.

        Args:
            changes: Keys are field names, those of a part with its name before a dot:
                `{"lora_rank": 8, "rl.groups": 16}`.

        Raises:
            OptionError: For an unknown key or an impossible value.
        """
        own: dict[str, Any] = {}
        parts: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            part, dot, name = key.rpartition(".")
            if value is None:
                continue
            if dot:
                parts.setdefault(part, {})[name] = value
            else:
                own[key] = value
        try:
            for part, values in parts.items():
                own[part] = dataclasses.replace(getattr(self, part), **values)
            return dataclasses.replace(self, **own)
        except (TypeError, AttributeError) as error:
            raise OptionError(f"unknown setting: {error}") from None


PRESETS: Mapping[str, TrainOptions] = {
    "paper": TrainOptions(),
    "quick": TrainOptions(
        base_model="meta-llama/Llama-3.2-1B",
        sft=SFTOptions(steps=30, batch_size=64, eval_every=5, eval_examples=128, save_every=10),
        rl=RLOptions(
            iterations=10, groups=16, group_size=16, learning_rate=4e-5, eval_examples=100
        ),
    ),
}


def preset(name: str) -> TrainOptions:
    """The options of a preset.

    Raises:
        OptionError: If there is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise OptionError(f"preset {name!r} is not one of {', '.join(PRESETS)}") from None
