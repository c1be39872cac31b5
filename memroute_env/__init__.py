"""memroute: a Gymnasium environment for deciding what an assistant should remember.

Importing this package registers the environments and nothing else; every public name is loaded
when it is first used, so that the import costs little more than Gymnasium's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register, registry

if TYPE_CHECKING:
    from memroute_env.conversation import Conversation, Example, Labels, Metadata, Turn
    from memroute_env.datasets import Dataset, load_dataset, shipped_datasets
    from memroute_env.env import MemoryRoutingEnv
    from memroute_env.errors import (
        AgentError,
        DataError,
        MemrouteError,
        MissingDependencyError,
        OptionError,
        TaxonomyError,
        UnknownCategoryError,
    )
    from memroute_env.importer import import_older_layout
    from memroute_env.parsing import AnswerParser, MalformedReason, ParsedAnswer, parse_answer
    from memroute_env.prompt import build_messages
    from memroute_env.reward import BatchScores, Reward, RewardBreakdown, RewardConfig
    from memroute_env.taxonomy import Category, Horizon, Taxonomy, load_taxonomy
    from memroute_env.vector import MemoryRoutingVectorEnv

__version__ = "0.1.0"

_HOMES = {
    "conversation": ("Conversation", "Example", "Labels", "Metadata", "Turn"),
    "datasets": ("Dataset", "load_dataset", "shipped_datasets"),
    "env": ("MemoryRoutingEnv",),
    "errors": (
        "AgentError",
        "DataError",
        "MemrouteError",
        "MissingDependencyError",
        "OptionError",
        "TaxonomyError",
        "UnknownCategoryError",
    ),
    "importer": ("import_older_layout",),
    "parsing": ("AnswerParser", "MalformedReason", "ParsedAnswer", "parse_answer"),
    "prompt": ("build_messages",),
    "reward": ("BatchScores", "Reward", "RewardBreakdown", "RewardConfig"),
    "taxonomy": ("Category", "Horizon", "Taxonomy", "load_taxonomy"),
    "vector": ("MemoryRoutingVectorEnv",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604  # literal for type checkers, tested against _HOMES
    "AgentError",
    "AnswerParser",
    "BatchScores",
    "Category",
    "Conversation",
    "DataError",
    "Dataset",
    "Example",
    "Horizon",
    "Labels",
    "MalformedReason",
    "MemoryRoutingEnv",
    "MemoryRoutingVectorEnv",
    "MemrouteError",
    "Metadata",
    "MissingDependencyError",
    "OptionError",
    "ParsedAnswer",
    "Reward",
    "RewardBreakdown",
    "RewardConfig",
    "Taxonomy",
    "TaxonomyError",
    "Turn",
    "UnknownCategoryError",
    "build_messages",
    "import_older_layout",
    "load_dataset",
    "load_taxonomy",
    "parse_answer",
    "shipped_datasets",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module at first use (PEP 562)."""
    if name in _HOME_OF:
        value = getattr(import_module(f"memroute_env.{_HOME_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'memroute_env' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


_VIEWS: dict[str, dict[str, str]] = {
    "MemoryRouting-v0": {},
    "MemoryRoutingFeatures-v0": {"observation": "features", "action": "multidiscrete"},
    "MemoryRoutingBinary-v0": {"observation": "features", "action": "multibinary"},
    "MemoryRoutingDiscrete-v0": {"observation": "features", "action": "discrete"},
    "MemoryRoutingIndex-v0": {"observation": "index", "action": "discrete"},
}

ENV_IDS = tuple(_VIEWS)
"""Ids of the registered environments: the default (text) view and ready-made numeric ones."""

for _id, _kwargs in _VIEWS.items():
    if _id not in registry:
        register(
            id=_id,
            entry_point="memroute_env.env:MemoryRoutingEnv",
            vector_entry_point="memroute_env.vector:MemoryRoutingVectorEnv",
            kwargs=_kwargs,
            # The environment itself refuses a step out of turn, and the tests run Gymnasium's
            # checker on every id: two wrappers less on a step that takes two microseconds.
            order_enforce=False,
            disable_env_checker=True,
        )
