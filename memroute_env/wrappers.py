"""Gymnasium wrappers that give an existing text environment a numeric side.

    env = gym.make("MemoryRouting-v0")
    env = MultiBinaryAction(FeatureObservation(env))

The same spaces, observations and rewards come faster, and for the vector environment too, from the
arguments `observation=` and `action=` of the environment (see `memroute_env.views`): it computes
the features of a dataset once, where a wrapper has only the text that it is handed. Wrappers are
for environments that somebody else made, or that other wrappers stand around already.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

from memroute_env.errors import OptionError
from memroute_env.masks import pack_masks
from memroute_env.parsing import AnswerParser, format_answer
from memroute_env.spaces import AnswerSpace, ConversationSpace
from memroute_env.taxonomy import Taxonomy
from memroute_env.views import hash_features, make_action_view

__all__ = [
    "DiscreteAction",
    "FeatureObservation",
    "MultiBinaryAction",
    "MultiDiscreteAction",
    "hash_features",
    "pack_masks",
]


class FeatureObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Conversations as hashed word n-grams: float32 of shape (feature_dim,), in [0, 1].

    Equal to the environment's own view `observation="features"`.

    Args:
        env: An environment whose observations are conversations as text.
        feature_dim: Length of the vector.

    Raises:
        OptionError: If the environment shows no text, or `feature_dim` is below 1.
    """

    def __init__(self, env: gym.Env[Any, Any], feature_dim: int = 1024) -> None:
        """See the class."""
        RecordConstructorArgs.__init__(self, feature_dim=feature_dim)
        super().__init__(env)
        if not isinstance(env.observation_space, ConversationSpace):
            raise OptionError(
                f"FeatureObservation needs text observations, not {env.observation_space}; "
                "make the environment with observation='text'"
            )
        if feature_dim < 1:
            raise OptionError(f"feature_dim must be at least 1, got {feature_dim}")
        self.feature_dim = feature_dim
        self.observation_space = Box(0.0, 1.0, (feature_dim,), np.float32)

    def observation(self, observation: str) -> npt.NDArray[np.float32]:
        """The features of one conversation."""
        return hash_features([observation], self.feature_dim)[0]


class _NumericAction(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Numeric actions, put into words for an environment that reads text."""

    _view_name: str

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not isinstance(env.action_space, AnswerSpace):
            raise OptionError(
                f"{type(self).__name__} needs text actions, not {env.action_space}; "
                "make the environment with action='text'"
            )
        self._taxonomy: Taxonomy = env.action_space.taxonomy
        self._view = make_action_view(self._view_name, self._taxonomy, AnswerParser(self._taxonomy))
        self.action_space = self._view.space

    def action(self, action: Any) -> str:
        """The answer in words; InvalidAction if the action is outside the space."""
        mask = self._view.one(action).mask
        assert mask is not None, "no numeric action is malformed"
        return format_answer(self._taxonomy.ids(mask))


class MultiBinaryAction(_NumericAction):
    """Actions of shape (num_storing,), 0 or 1 a category; all zeros is the exclusive answer.

    Equal to the environment's own view `action="multibinary"`.

    Args:
        env: An environment whose actions are answers as text.

    Raises:
        OptionError: If the environment reads no text.
    """

    _view_name = "multibinary"


class MultiDiscreteAction(_NumericAction):
    """`MultiBinaryAction` for libraries that know only `MultiDiscrete([2] * num_storing)`.

    Args:
        env: An environment whose actions are answers as text.

    Raises:
        OptionError: If the environment reads no text.
    """

    _view_name = "multidiscrete"


class DiscreteAction(_NumericAction):
    """The number of a set in `taxonomy.small_sets()`: in [0, 299) for marketing.

    Equal to the environment's own view `action="discrete"`.

    Args:
        env: An environment whose actions are answers as text.

    Raises:
        OptionError: If the environment reads no text.
    """

    _view_name = "discrete"
