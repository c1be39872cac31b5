"""The native vector environment: many episodes at once, scored in numpy.

It agrees with `SyncVectorEnv` over the scalar environment example by example: sub-environment i of
a reset with seed s draws the same conversations as a scalar environment with seed s + i. Tables,
texts and features are shared within a process; everything that is returned is a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from memroute_env.env import DatasetLike, resolve_dataset, seek
from memroute_env.errors import OptionError
from memroute_env.parsing import ParseMode
from memroute_env.reward import Reward, RewardConfig
from memroute_env.taxonomy import Taxonomy
from memroute_env.views import (
    ActionName,
    ObservationName,
    make_action_view,
    make_observation_view,
)

__all__ = ["MemoryRoutingVectorEnv"]

_STEP_KEYS = (
    "index",
    "id",
    "reward_f1",
    "reward_temporal",
    "reward_parity",
    "reward_efficiency",
    "predicted",
    "gold",
    "malformed",
)
_MASK_OF = {key: f"_{key}" for key in _STEP_KEYS}

_BLOCK = 256
"""Uniform numbers drawn at a time for each sub-environment."""


class MemoryRoutingVectorEnv(VectorEnv[Any, Any, Any]):
    """`num_envs` independent episodes of `MemoryRoutingEnv`, stepped together.

    Observations, actions, rewards and information are those of `MemoryRoutingEnv`, batched the way
    Gymnasium batches them: texts as tuples of strings, numbers as arrays, every `info` key as an
    array with its mask `_key`.

    ## Autoreset
    Every episode ends with its first step. `SAME_STEP` (default) starts the next episode within
    the step: the returned observation is the new conversation, the finished one is in
    `info["final_obs"]` (object array) and its information in `info["final_info"]` (a dictionary of
    arrays with masks). `NEXT_STEP` spends every second step on the reset (reward 0, the action is
    ignored); `DISABLED` expects `reset(options={"reset_mask": mask})`.

    Args:
        num_envs: Number of sub-environments.
        dataset: As in `MemoryRoutingEnv`; so are `split`, `taxonomy`, `reward_config`,
            `observation`, `action`, `feature_dim` and `parse`.
        autoreset_mode: An `AutoresetMode` or its value (`"SameStep"`, `"NextStep"`, `"Disabled"`).

    Raises:
        OptionError: If `num_envs` is below 1 or an option has no such value.
    """

    metadata: dict[str, Any] = {
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
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
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        """See the class."""
        if num_envs < 1:
            raise OptionError(f"num_envs must be at least 1, got {num_envs}")
        if render_mode is not None:
            raise OptionError(
                "the vector environment does not render; make a single environment for that"
            )
        self.num_envs = num_envs
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            raise OptionError(
                f"autoreset_mode {autoreset_mode!r} is not one of "
                f"{', '.join(mode.value for mode in AutoresetMode)}"
            ) from None
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.dataset = resolve_dataset(dataset, split, taxonomy)
        self.taxonomy = self.dataset.taxonomy
        self.reward = Reward(self.taxonomy, reward_config)
        self._observation = make_observation_view(observation, self.dataset, feature_dim)
        self._action = make_action_view(action, self.taxonomy, self.reward.parser(parse))
        self.single_observation_space = self._observation.space
        self.single_action_space = self._action.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._gold = self.dataset.gold_masks
        self._ids = np.array([example.id for example in self.dataset], dtype=object)
        self._gold_ids = self.taxonomy.ids_of_masks(self._gold)
        self._generators: list[np.random.Generator] | None = None
        self._seeds: list[int] = []
        self._uniform_BN = np.empty((_BLOCK, num_envs))
        self._drawn_N = np.full(num_envs, _BLOCK)
        self._cursor: int | None = _BLOCK
        """How many numbers everybody has drawn of the block; None once they differ."""
        self._no_reason_N = np.full(num_envs, "", dtype=object)
        self._rows_N = np.arange(num_envs)
        self._index_N = np.full(num_envs, -1, np.intp)
        self._answered_N = np.ones(num_envs, np.bool_)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]  # one each, as in SyncVectorEnv
        """Seeds of the sub-environments, -1 where unknown."""
        self._ensure_generators()
        return tuple(self._seeds)

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]  # as in SyncVectorEnv
        """Generators of the sub-environments.

        They run up to 256 draws ahead of the episodes: numbers are drawn in blocks.
        """
        return tuple(self._ensure_generators())

    def _ensure_generators(self) -> list[np.random.Generator]:
        if self._generators is None:
            self._seed([None] * self.num_envs)
        assert self._generators is not None
        return self._generators

    def _seed(self, seeds: Sequence[int | None]) -> None:
        """Restart the generators that have a seed; make those that do not exist yet."""
        if self._generators is None:
            made = [seeding.np_random(seed) for seed in seeds]
            self._generators = [generator for generator, _ in made]
            self._seeds = [int(seed) for _, seed in made]
            self._cursor = _BLOCK
            return
        if self._cursor is not None:
            self._drawn_N[:], self._cursor = self._cursor, None
        for i, seed in enumerate(seeds):
            if seed is not None:
                self._generators[i], self._seeds[i] = seeding.np_random(seed)
                self._drawn_N[i] = _BLOCK
        if (self._drawn_N == _BLOCK).all():
            self._cursor = _BLOCK

    def _draw(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """The next random positions for these sub-environments."""
        if self._cursor is not None:
            if rows is self._rows_N:
                return self._draw_together()
            self._drawn_N[:], self._cursor = self._cursor, None
        drawn = self._drawn_N.take(rows)
        if (drawn >= _BLOCK).any():
            generators = self._ensure_generators()
            for i in rows[drawn >= _BLOCK]:
                self._uniform_BN[:, i] = generators[i].random(_BLOCK)
                self._drawn_N[i] = 0
            drawn = self._drawn_N.take(rows)
        self._drawn_N[rows] = drawn + 1
        uniform = self._uniform_BN[drawn, rows]
        uniform *= len(self._gold)
        return uniform.astype(np.intp)

    def _draw_together(self) -> npt.NDArray[np.intp]:
        """`_draw` for everybody while all have drawn equally often: one row of the block."""
        cursor = self._cursor
        if cursor is None or cursor >= _BLOCK:
            for i, generator in enumerate(self._ensure_generators()):
                self._uniform_BN[:, i] = generator.random(_BLOCK)
            cursor = 0
        self._cursor = cursor + 1
        return (self._uniform_BN[cursor] * len(self._gold)).astype(np.intp)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start new episodes, in all sub-environments or in those of `options["reset_mask"]`.

        Args:
            seed: An int s seeds sub-environment i with s + i; a sequence gives one each.
            options: `reset_mask` (bool array of shape (num_envs,)), and `index` or `id` as in
                `MemoryRoutingEnv.reset`, which then hold for every sub-environment that resets.

        Raises:
            OptionError: For an unknown or malformed option or a wrong number of seeds.
        """
        options = dict(options or {})
        reset_mask = options.pop("reset_mask", None)
        rows = self._rows_N if reset_mask is None else self._masked_rows(reset_mask)
        picked = seek(self.dataset, options)
        if seed is not None:
            seeds = (
                [seed + i for i in range(self.num_envs)]
                if isinstance(seed, int | np.integer)
                else list(seed)
            )
            if len(seeds) != self.num_envs:
                raise OptionError(f"{self.num_envs} seeds are needed, got {len(seeds)}")
            chosen = set(rows.tolist())
            self._seed([s if i in chosen else None for i, s in enumerate(seeds)])
        self._index_N[rows] = self._draw(rows) if picked is None else picked
        self._answered_N[rows] = False
        if (self._index_N < 0).any():
            raise ResetNeeded("the first reset must be of all sub-environments")
        present = np.zeros(self.num_envs, np.bool_)
        present[rows] = True
        return self._observation.many(self._index_N), self._reset_info(rows, present)

    def _masked_rows(self, reset_mask: Any) -> npt.NDArray[np.intp]:
        valid = isinstance(reset_mask, np.ndarray) and reset_mask.dtype == np.bool_
        if not valid or reset_mask.shape != (self.num_envs,) or not reset_mask.any():
            raise OptionError(
                f"reset option 'reset_mask': a bool array of shape ({self.num_envs},) with at "
                f"least one True is needed, got {reset_mask!r}"
            )
        return np.flatnonzero(reset_mask)

    def step(
        self, actions: Any
    ) -> tuple[
        Any, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]
    ]:
        """Score one answer in every sub-environment.

        Args:
            actions: A batch of actions: a sequence of `num_envs` strings, or an array.

        Returns:
            Observations, rewards (float64), terminations, truncations (bool), each of shape
            (num_envs,), and `info`.

        Raises:
            ResetNeeded: If an episode is over and the autoreset mode does not start the next.
            InvalidAction: If a numeric action is outside its space.
            OptionError: If there are not `num_envs` actions.
        """
        if len(actions) != self.num_envs:
            raise OptionError(f"{self.num_envs} actions are needed, got {len(actions)}")
        mode = self.autoreset_mode
        if mode is AutoresetMode.NEXT_STEP and self._index_N[0] >= 0:
            return self._step_or_reset(actions)
        if self._answered_N.any():
            raise ResetNeeded(
                f"{int(self._answered_N.sum())} of {self.num_envs} episodes are over: call reset()"
            )
        everyone = np.ones(self.num_envs, np.bool_)
        rewards, info = self._score(actions, self._rows_N, everyone)
        terminations, truncations = everyone.copy(), np.zeros(self.num_envs, np.bool_)
        if mode is AutoresetMode.DISABLED:
            self._answered_N[:] = True
            return self._observation.many(self._index_N), rewards, terminations, truncations, info
        final_obs = self._observation.objects(self._index_N)
        self._index_N = self._draw(self._rows_N)
        merged = {
            "final_obs": final_obs,
            "_final_obs": everyone.copy(),
            "final_info": info,
            "_final_info": everyone.copy(),
            **self._reset_info(self._rows_N, everyone),
        }
        return self._observation.many(self._index_N), rewards, terminations, truncations, merged

    def _step_or_reset(self, actions: Any) -> Any:
        """One step in mode NEXT_STEP: finished episodes are reset, the others are scored."""
        resetting = self._answered_N.copy()
        rewards = np.zeros(self.num_envs)
        info: dict[str, Any] = {}
        if not resetting.all():
            scored, info = self._score(actions, np.flatnonzero(~resetting), ~resetting)
            rewards[~resetting] = scored[~resetting]
        if resetting.any():
            rows = np.flatnonzero(resetting)
            self._index_N[rows] = self._draw(rows)
            fresh = self._reset_info(rows, resetting)
            if info:
                for key in ("index", "id"):
                    info[key][rows] = fresh[key][rows]
                    info[f"_{key}"][rows] = True
            else:
                info = fresh
        self._answered_N = ~resetting
        zeros = np.zeros(self.num_envs, np.bool_)
        return self._observation.many(self._index_N), rewards, ~resetting, zeros, info

    def _reset_info(
        self, rows: npt.NDArray[np.intp], present: npt.NDArray[np.bool_]
    ) -> dict[str, Any]:
        if rows is self._rows_N:
            index, ids = self._index_N.astype(np.int64), self._ids[self._index_N]
        else:
            index = np.where(present, self._index_N, 0)
            ids = np.full(self.num_envs, None, dtype=object)
            ids[present] = self._ids[self._index_N[present]]
        return {"index": index, "_index": present.copy(), "id": ids, "_id": present.copy()}

    def _score(
        self, actions: Any, rows: npt.NDArray[np.intp], present: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Rewards (N,) and the step's info of some rows; the others hold nothing.

        `present` is the mask of `rows`.
        """
        everyone = rows is self._rows_N
        masks, reasons = self._action.many(actions if everyone else _pick(actions, rows))
        index = self._index_N if everyone else self._index_N[rows]
        scores = self.reward._components(masks, self._gold[index])
        predicted = self.taxonomy.ids_of_masks(masks)
        if reasons is None:
            malformed = self._no_reason_N[: len(rows)].copy()
        else:
            malformed = np.array(reasons, dtype=object)
            bad = np.flatnonzero([bool(reason) for reason in reasons])
            for column in scores:
                column[bad] = 0.0
            scores.total[bad] = self.reward.config.malformed
            for i in bad:
                predicted[i] = ()
        columns: tuple[npt.NDArray[Any], ...] = (
            index.astype(np.int64),
            self._ids[index],
            *scores[1:],
            predicted,
            self._gold_ids[index],
            malformed,
        )
        info: dict[str, Any] = {}
        masks_KN = np.empty((len(columns), self.num_envs), np.bool_)
        masks_KN[:] = present
        for key, values, mask in zip(_STEP_KEYS, columns, masks_KN, strict=True):
            info[key] = values if everyone else self._spread(values, rows)
            info[_MASK_OF[key]] = mask
        return scores.total if everyone else self._spread(scores.total, rows), info

    def _spread(self, values: npt.NDArray[Any], rows: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Values of some rows in an array of all; the others are None or 0."""
        full = np.full(self.num_envs, None if values.dtype == object else 0, dtype=values.dtype)
        full[rows] = values
        return full


def _pick(actions: Any, rows: npt.NDArray[np.intp]) -> Any:
    if isinstance(actions, np.ndarray):
        return actions[rows]
    return [actions[i] for i in rows]
