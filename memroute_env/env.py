"""The environment: an episode is one conversation, its action the answer where to remember it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from memroute_env.conversation import Example
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.errors import DataError, OptionError
from memroute_env.parsing import ParseMode
from memroute_env.render import render_ansi, render_human
from memroute_env.reward import Reward, RewardBreakdown, RewardConfig
from memroute_env.taxonomy import Taxonomy
from memroute_env.views import (
    ActionName,
    ObservationName,
    make_action_view,
    make_observation_view,
)

__all__ = ["MemoryRoutingEnv", "resolve_dataset"]

DatasetLike = Dataset | Sequence[Example] | str | PathLike[str]


def resolve_dataset(
    dataset: DatasetLike, split: str | None, taxonomy: Taxonomy | str | PathLike[str] | None
) -> Dataset:
    """What the `dataset`, `split` and `taxonomy` arguments of the environments stand for.

    Raises:
        DataError: If there is no such dataset or split, or an object has another taxonomy.
    """
    if isinstance(dataset, str | PathLike):
        return load_dataset(dataset, split, taxonomy)
    from memroute_env.taxonomy import load_taxonomy

    if isinstance(dataset, Dataset):
        if taxonomy is not None and load_taxonomy(taxonomy) != dataset.taxonomy:
            raise DataError(
                f"{dataset!r} is labelled in the taxonomy {dataset.taxonomy.name!r}, "
                f"not in {load_taxonomy(taxonomy).name!r}; leave the taxonomy argument out"
            )
        return dataset
    return Dataset(list(dataset), load_taxonomy(taxonomy or "marketing"))


def seek(dataset: Dataset, options: Mapping[str, Any] | None) -> int | None:
    """The position that `reset` options ask for, or None if they ask for nothing.

    Raises:
        OptionError: For an unknown key, both keys, or an index or id that does not exist.
    """
    if not options:
        return None
    unknown = set(options) - {"index", "id"}
    if unknown or len(options) > 1:
        raise OptionError(
            f"reset options may hold either 'index' or 'id', got {', '.join(map(repr, options))}"
        )
    if "id" in options:
        if not isinstance(options["id"], str):
            raise OptionError(f"reset option 'id': a string is needed, got {options['id']!r}")
        try:
            return dataset.index_of(options["id"])
        except DataError as error:
            raise OptionError(f"reset option 'id': {error}") from None
    index = options["index"]
    if isinstance(index, bool) or not isinstance(index, int | np.integer):
        raise OptionError(f"reset option 'index': a whole number is needed, got {index!r}")
    if not 0 <= index < len(dataset):
        raise OptionError(f"reset option 'index': {index} is not in [0, {len(dataset)})")
    return int(index)


class MemoryRoutingEnv(gym.Env[Any, Any]):
    """Decide which kinds of long-term memory a conversation belongs in.

    ## Description
    An assistant hears a lot, and must decide what to remember. The agent reads one conversation and
    answers with a set of memory categories: either one to several of those that store something
    (12 in the shipped `marketing` taxonomy), or the exclusive one (`none`: store nothing). It is a
    contextual bandit with structured actions: an episode is one conversation and one answer.

    ## Action Space
    `action="text"` (default): an `AnswerSpace`. Category ids separated by commas or new lines, read
    by the strict parser: case, white space, list markers, quotes and duplicates do not matter; an
    unknown item, `none` beside others, or nothing at all is *malformed*.

    | `action` | space (marketing) | meaning |
    |---|---|---|
    | `text` | `AnswerSpace` | the answer in words |
    | `multidiscrete` | `MultiDiscrete([2] * 12)` | entry i is 1: category i is in the set |
    | `multibinary` | `MultiBinary(12)` | the same as bits |
    | `discrete` | `Discrete(299)` | number of the set in `taxonomy.small_sets()` |

    In a numeric action the empty set means `none`, so no numeric action is malformed.

    ## Observation Space
    `observation="text"` (default): a `ConversationSpace`, `USER: …` and `ASSISTANT: …` lines.

    | `observation` | space | meaning |
    |---|---|---|
    | `text` | `ConversationSpace` | the conversation |
    | `features` | `Box(0, 1, (feature_dim,), float32)` | hashed word n-grams, unit length |
    | `index` | `Discrete(number of examples)` | the position in the dataset |

    ## Rewards
    `0.6·f1 + 0.2·temporal + 0.1·parity + 0.1·efficiency` in [0, 1]: the F1 of the predicted set
    against the gold set, the agreement of their most frequent horizons, the equality of their
    scopes, and 1.0 for at most three categories, falling to 0.0 at six. A malformed answer scores
    -1. Every number is a field of `RewardConfig`.

    ## Starting State
    An example of the dataset, uniformly at random from `np_random`. `reset(options={"index": i})`
    or `{"id": "…"}` picks one and draws nothing.

    ## Episode End
    Every episode terminates after its first step; it is never truncated. The observation after the
    step is the same conversation again. A further step raises `ResetNeeded`.

    ## Information
    `reset`: `index` (position in the dataset), `id`. `step`: these and `reward_f1`,
    `reward_temporal`, `reward_parity`, `reward_efficiency`, `predicted` (tuple of ids, empty if
    malformed), `gold` (tuple of ids), `malformed` (the reason, or empty). The gold set never
    appears before the step.

    ## Arguments
    ```python
    import gymnasium as gym
    import memroute_env

    env = gym.make("MemoryRouting-v0", split="validation", action="discrete")
    ```
    * `dataset`: name (`"marketing"`), path of a JSONL file, `Dataset`, or sequence of `Example`.
    * `split`: `"train"` (default), `"validation"`, `"test"`; ignored for a file or an object.
    * `taxonomy`: name, TOML path or `Taxonomy`; by default the dataset's own.
    * `reward_config`: a `RewardConfig`.
    * `observation`, `action`: see above. `feature_dim`: length of `features` (1024).
    * `parse`: `"strict"` (default) or `"lenient"` reading of text actions.
    * `render_mode`: `"ansi"` (`render` returns text) or `"human"` (printed at `reset` and `step`).

    ## Version History
    * v0: initial version.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # gymnasium leaves it mutable
        "render_modes": ["ansi", "human"],
        "render_fps": 1,
    }

    def __init__(
        self,
        dataset: DatasetLike = "marketing",
        split: str | None = "train",
        *,
        taxonomy: Taxonomy | str | PathLike[str] | None = None,
        reward_config: RewardConfig | None = None,
        observation: ObservationName = "text",
        action: ActionName = "text",
        feature_dim: int = 1024,
        parse: ParseMode = "strict",
        render_mode: str | None = None,
    ) -> None:
        """Build the environment; see the class for the arguments.

        Raises:
            DataError: If the dataset cannot be read.
            TaxonomyError: If the taxonomy cannot be read.
            OptionError: If an option has no such value.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise OptionError(
                f"render_mode {render_mode!r} is not one of "
                f"{', '.join(self.metadata['render_modes'])}"
            )
        self.render_mode = render_mode
        self.dataset = resolve_dataset(dataset, split, taxonomy)
        self.taxonomy = self.dataset.taxonomy
        self.reward = Reward(self.taxonomy, reward_config)
        self._observation = make_observation_view(observation, self.dataset, feature_dim)
        self._action = make_action_view(action, self.taxonomy, self.reward.parser(parse))
        self.observation_space = self._observation.space
        self.action_space = self._action.space
        self._gold: list[int] = self.dataset.gold_masks.tolist()
        self._gold_ids = [self.taxonomy.ids(mask) for mask in self._gold]
        self._example_ids = [example.id for example in self.dataset]
        self._index = -1
        self._answered = True
        self._last: tuple[Any, RewardBreakdown] | None = None

    @property
    def dataset_sha256(self) -> str:
        """Content hash of the dataset: what results should carry."""
        return self.dataset.sha256

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Draw (or pick) a conversation.

        Args:
            seed: Restarts the random draws.
            options: `{"index": i}` or `{"id": "…"}` picks the conversation and draws nothing.

        Returns:
            The observation, and `info` with `index` and `id`.

        Raises:
            OptionError: For any other option, or one that does not exist.
        """
        if seed is not None:
            super().reset(seed=seed)
        index = seek(self.dataset, options) if options else None
        if index is None:
            # One uniform number an episode; the vector environment draws the same ones in blocks.
            index = int(self.np_random.random() * len(self._gold))
        self._index, self._answered, self._last = index, False, None
        if self.render_mode == "human":
            self.render()
        return self._observation.one(index), {"index": index, "id": self._example_ids[index]}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Score the answer.

        Returns:
            The conversation again, the reward, `terminated=True`, `truncated=False`, and `info` as
            the class describes it.

        Raises:
            ResetNeeded: If the episode is over, or none has begun.
            InvalidAction: If a numeric action is outside its space.
        """
        if self._answered:
            raise ResetNeeded("the episode is over (one answer each): call reset() first")
        index = self._index
        gold = self._gold[index]
        answer = self._action.one(action)
        mask = answer.mask
        malformed = ""
        if mask is None:
            malformed = answer.malformed
            score = self.reward.malformed(malformed)
            predicted: tuple[str, ...] = ()
        else:
            score = self.reward._score_mask(mask, gold)
            predicted = self.taxonomy.ids(mask)
        self._answered = True
        info = {
            "index": index,
            "id": self._example_ids[index],
            "reward_f1": score.f1,
            "reward_temporal": score.temporal,
            "reward_parity": score.parity,
            "reward_efficiency": score.efficiency,
            "predicted": predicted,
            "gold": self._gold_ids[index],
            "malformed": malformed,
        }
        if self.render_mode is not None:
            self._last = (action, score._replace(malformed=malformed))
            if self.render_mode == "human":
                self.render()
        return self._observation.one(index), score.total, True, False, info

    def render(self) -> str | None:  # type: ignore[override]  # ansi returns text, human prints
        """The conversation and, after the step, answer, gold set and reward.

        Returns:
            Text in mode `ansi`; None in mode `human`, which prints instead.
        """
        if self.render_mode is None:
            gym.logger.warn(
                'render() needs a render_mode: gym.make("MemoryRouting-v0", render_mode="ansi")'
            )
            return None
        if self._index < 0:
            raise ResetNeeded("there is nothing to render yet: call reset() first")
        example = self.dataset[self._index]
        gold = self._gold_ids[self._index]
        if self.render_mode == "human":
            render_human(example, self._last, gold)
            return None
        return render_ansi(example, self._last, gold)
