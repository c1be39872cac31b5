"""The environment for tinker-cookbook: one conversation, one answer, the environment's own reward.

`RoutingDatasetBuilder` goes into any `rl.train.Config`; the answers of a group are all to the same
conversation, so that their mean is the baseline. Everything pickles, so rollouts may run in other
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import chz
import numpy as np
import tinker
from tinker_cookbook.completers import StopCondition
from tinker_cookbook.renderers import Renderer, get_renderer, get_text_content
from tinker_cookbook.rl.types import (
    Action,
    ActionExtra,
    Env,
    EnvGroupBuilder,
    Observation,
    RLDataset,
    RLDatasetBuilder,
    StepResult,
    StopReason,
)
from tinker_cookbook.tokenizer_utils import get_tokenizer
from tinker_cookbook.utils import logtree

from memroute_agents.tinker.lengths import LengthReport, keep_short
from memroute_env.conversation import Example
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.errors import OptionError
from memroute_env.parsing import ParseMode
from memroute_env.prompt import build_messages
from memroute_env.reward import Reward, RewardConfig
from memroute_env.taxonomy import Taxonomy

__all__ = [
    "RoutingDatasetBuilder",
    "RoutingEnv",
    "RoutingGroupBuilder",
    "RoutingRLDataset",
    "load_split",
    "make_renderer",
]


@lru_cache(maxsize=8)
def make_renderer(renderer: str, model: str) -> Renderer:
    """The renderer of that name with the model's tokenizer; one of each a process.

    Raises:
        OptionError: If the tokenizer cannot be read, or there is no such renderer.
    """
    try:
        tokenizer = get_tokenizer(model)
    except (OSError, ValueError) as error:
        raise OptionError(
            f"the tokenizer of {model!r} cannot be read: give a folder, or a name on the Hugging "
            f"Face hub that can be reached from here ({str(error).strip().splitlines()[0]})"
        ) from error
    try:
        return get_renderer(renderer, tokenizer, model_name=model)
    except (KeyError, ValueError) as error:
        raise OptionError(f"renderer {renderer!r}: {error}") from error


@lru_cache(maxsize=8)
def _reward(taxonomy: Taxonomy, config: RewardConfig) -> Reward:
    return Reward(taxonomy, config)


def load_split(data: str, split: str, taxonomy: str | None = None) -> Dataset:
    """A split of a dataset by name or folder, as `load_dataset` takes them."""
    return load_dataset(data, split, taxonomy)


class RoutingEnv(Env):
    """One conversation, one answer; use it once.

    An answer that the token limit cut off is read without its unfinished last item.

    Args:
        example: The conversation and its gold answer.
        reward: Scores answers in the example's taxonomy.
        renderer: Writes the chat prompt and reads the answer.
        parse: Reading of an answer that was not cut off.
    """

    def __init__(
        self, example: Example, reward: Reward, renderer: Renderer, parse: ParseMode = "strict"
    ) -> None:
        """See the class."""
        self.example, self.reward, self.renderer = example, reward, renderer
        self.parse: ParseMode = parse
        self.gold: int = reward.taxonomy.mask(example.labels.categories)
        self.predicted: int | None = None
        """The answer's mask after the step; None while there is none or it is malformed."""

    async def initial_observation(self) -> tuple[Observation, StopCondition]:
        """The chat prompt, and where an answer ends."""
        messages = build_messages(self.example.conversation, self.reward.taxonomy)
        prompt = self.renderer.build_generation_prompt(messages)  # type: ignore[arg-type]
        return prompt, self.renderer.get_stop_sequences()

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """Score an answer; `metrics` hold the reward's components and what the answer was like."""
        message, termination = self.renderer.parse_response(action)
        text = get_text_content(message)
        stopped = (extra or {}).get("stop_reason")
        truncated = stopped == "length" or (stopped is None and not termination.is_clean)
        score = self.reward.score_text(text, self.gold, self.parse, truncated=truncated)
        self.predicted = self.reward.parser(self.parse)(text, truncated=truncated).mask
        categories = 0 if self.predicted is None else max(1, self.predicted.bit_count())
        taxonomy = self.reward.taxonomy
        logtree.log_text(f"answer: {text!r}, gold: {', '.join(taxonomy.ids(self.gold))}")
        reason = StopReason.MAX_TOKENS if truncated else StopReason.COMPLETED
        return StepResult(
            reward=score.total,
            episode_done=True,
            next_observation=tinker.ModelInput.empty(),
            next_stop_condition=self.renderer.get_stop_sequences(),
            metrics={
                "f1": score.f1,
                "temporal": score.temporal,
                "parity": score.parity,
                "efficiency": score.efficiency,
                "exact": float(self.predicted == self.gold),
                "malformed": float(bool(score.malformed)),
                "truncated": float(truncated),
                "categories": float(categories),
                f"stop/{reason}": 1.0,
            },
            logs={"id": self.example.id, "answer": text, "malformed": score.malformed},
        )


@dataclass(frozen=True)
class RoutingGroupBuilder(EnvGroupBuilder):
    """A group of environments over one conversation; pickles as names and data."""

    example: Example
    taxonomy: Taxonomy
    renderer: str
    model: str
    group_size: int
    parse: ParseMode = "strict"
    reward_config: RewardConfig = RewardConfig()

    async def make_envs(self) -> Sequence[Env]:
        """`group_size` environments."""
        reward = _reward(self.taxonomy, self.reward_config)
        renderer = make_renderer(self.renderer, self.model)
        return [
            RoutingEnv(self.example, reward, renderer, self.parse) for _ in range(self.group_size)
        ]

    def logging_tags(self) -> list[str]:
        """Difficulty and number of gold labels: `["hard", "labels_2"]`."""
        labels = self.taxonomy.mask(self.example.labels.categories).bit_count()
        difficulty = self.example.metadata.difficulty
        return [*([difficulty] if difficulty else []), f"labels_{labels}"]


class RoutingRLDataset(RLDataset):
    """Batches of groups; batch i depends on (data, seed, i) alone, so a run can be resumed.

    Every conversation comes up once before any comes up again.

    Args:
        examples: To draw from.
        builder: A group builder of any example: the batches' are copies with theirs.
        batches: How many there are.
        groups: Groups a batch.
        seed: Of the order.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        builder: RoutingGroupBuilder,
        batches: int,
        groups: int,
        seed: int = 0,
    ) -> None:
        """See the class."""
        self.examples, self.builder = examples, builder
        self.batches, self.groups, self.seed = batches, groups, seed

    def __len__(self) -> int:
        """Number of batches."""
        return self.batches

    def get_batch(self, index: int) -> list[RoutingGroupBuilder]:
        """The groups of batch `index`."""
        from dataclasses import replace

        chosen = draw(len(self.examples), index * self.groups, self.groups, self.seed)
        return [replace(self.builder, example=self.examples[i]) for i in chosen]


def draw(size: int, start: int, count: int, seed: int) -> list[int]:
    """Positions `start` to `start + count - 1` of an endless sequence of shuffled passes."""
    drawn: list[int] = []
    for number in range(start, start + count):
        epoch, place = divmod(number, size)
        drawn.append(_shuffled(size, seed, epoch)[place])
    return drawn


@lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(size).tolist())


def prompt_length(example: Example, taxonomy: Taxonomy, renderer: Renderer) -> int:
    """Tokens of the chat prompt of an example."""
    messages = build_messages(example.conversation, taxonomy)
    return renderer.build_generation_prompt(messages).length  # type: ignore[arg-type]


@lru_cache(maxsize=4)
def fitting(
    builder: tuple[str, str, str | None, str, str],
    length: Callable[[Example, Taxonomy, Renderer], int],
    limit: int,
    count: int | None = None,
) -> tuple[Sequence[Example], Taxonomy, LengthReport]:
    """A split's examples that are short enough; measured once a process, since it takes a while.

    Args:
        builder: Data, split, taxonomy, renderer and model, as a dataset builder has them.
        length: Tokens of an example.
        limit: Longest that is kept.
        count: Only the first ones; by default all.
    """
    data, split, taxonomy, renderer_name, model = builder
    dataset, renderer = load_split(data, split, taxonomy), make_renderer(renderer_name, model)
    examples, report = keep_short(
        dataset[:count], lambda example: length(example, dataset.taxonomy, renderer), limit
    )
    return examples, dataset.taxonomy, report


@chz.chz
class RoutingDatasetBuilder(RLDatasetBuilder):
    """Builds the training dataset of `rl.train.Config`; evaluation has its own evaluator."""

    model_name: str
    renderer_name: str
    data: str = "marketing"
    split: str = "train"
    taxonomy: str | None = None
    iterations: int = 30
    groups: int = 64
    group_size: int = 32
    parse: str = "strict"
    max_prompt_tokens: int = 4096
    seed: int = 0

    def load(self) -> tuple[RoutingRLDataset, LengthReport]:
        """The dataset, and which examples were too long for it."""
        source = self.data, self.split, self.taxonomy, self.renderer_name, self.model_name
        examples, taxonomy, report = fitting(source, prompt_length, self.max_prompt_tokens)
        builder = RoutingGroupBuilder(
            example=examples[0],
            taxonomy=taxonomy,
            renderer=self.renderer_name,
            model=self.model_name,
            group_size=self.group_size,
            parse="lenient" if self.parse == "lenient" else "strict",
        )
        return (
            RoutingRLDataset(examples, builder, self.iterations, self.groups, self.seed),
            report,
        )

    async def __call__(self) -> tuple[RLDataset, RLDataset | None]:
        """The training dataset, and no other."""
        return self.load()[0], None
