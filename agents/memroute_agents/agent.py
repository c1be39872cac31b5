"""What an agent is, how it is named, and how others plug theirs in.

An agent answers conversations in batches: `route(conversations)` returns one `RoutingDecision`
each. On the command line it is named `name` or `name:argument` (`random`, `keyword`, `local:DIR`,
`cohere:MODEL`, `tinker:PATH`), or `package.module:Class` for any importable class. A distribution
registers its own names through the entry-point group `memroute.agents`; the entry point is a
*factory*, called with the argument (text after the colon) and an `AgentContext`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from memroute_env.conversation import Conversation
from memroute_env.datasets import Dataset
from memroute_env.errors import AgentError, MemrouteError
from memroute_env.parsing import format_answer
from memroute_env.taxonomy import Taxonomy

__all__ = [
    "Agent",
    "AgentContext",
    "AgentFactory",
    "RoutingDecision",
    "TokenUsage",
    "agent_names",
    "checked_route",
    "close_agent",
    "create_agent",
    "register_agent",
]

ENTRY_POINT_GROUP = "memroute.agents"


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What one decision used of a paid model."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    """None where no price is known."""


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """An agent's answer to one conversation."""

    categories: tuple[str, ...] = ()
    """Category ids; empty if only `text` is given, or the call failed."""
    text: str | None = None
    """What a language model said; where it is set it is what is scored."""
    truncated: bool = False
    """The text was cut off by the token limit."""
    scores: Mapping[str, float] | None = None
    """Probability of each category (the exclusive one included), each in [0, 1]."""
    evidence: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Category to the indices of the turns that show it."""
    latency_s: float | None = None
    """Seconds that this decision took, where the agent measures it."""
    usage: TokenUsage | None = None
    error: str = ""
    """Why there is no answer: the call failed. Never counted as an empty answer."""

    @property
    def action(self) -> str:
        """The answer as a text action of the environment."""
        return self.text if self.text is not None else format_answer(self.categories)


@runtime_checkable
class Agent(Protocol):
    """Anything that routes conversations.

    `version` (optional) goes into results; `close()` (optional) is called at the end.
    """

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """One decision for each conversation, in order."""
        ...


@dataclass
class AgentContext:
    """What a factory may use to build an agent."""

    taxonomy: Taxonomy
    dataset: Dataset | None = None
    """The data that will be played; only the oracle may look at its labels."""
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings from the command line or the caller, by agent-specific name."""
    load_train: Callable[[], Dataset] | None = None
    """Loads the training split, for agents that fit or show examples."""

    def train(self) -> Dataset:
        """The training split.

        Raises:
            AgentError: If there is none for this taxonomy.
        """
        if self.load_train is None:
            raise AgentError(
                f"no training data is known for the taxonomy {self.taxonomy.name!r}; "
                "name it with --train-data"
            )
        return self.load_train()


AgentFactory: TypeAlias = Callable[[str, AgentContext], Agent]

_FACTORIES: dict[str, AgentFactory] = {}
_BUILT_IN = {
    "random": "memroute_agents.baselines",
    "constant": "memroute_agents.baselines",
    "keyword": "memroute_agents.baselines",
    "oracle": "memroute_agents.baselines",
    "majority": "memroute_agents.baselines",
    "local": "memroute_agents.local.router",
    "cohere": "memroute_agents.cohere",
    "chat": "memroute_agents.chat",
    "tinker": "memroute_agents.tinker.router",
}
"""Name to the module that registers it when imported."""


def register_agent(name: str, factory: AgentFactory) -> None:
    """Make `name` and `name:argument` build an agent.

    Raises:
        AgentError: If the name is taken by another factory, is not a plain word, or the factory is
            not callable.
    """
    if not name.isidentifier():
        raise AgentError(f"agent name {name!r} is not a plain word (letters, digits, '_')")
    if not callable(factory):
        raise AgentError(f"agent {name!r}: the factory {factory!r} is not callable")
    home = getattr(factory, "__module__", None)
    if _FACTORIES.get(name, factory) is not factory or _BUILT_IN.get(name, home) != home:
        raise AgentError(f"agent name {name!r} is already registered; choose another")
    _FACTORIES[name] = factory


def agent_names() -> tuple[str, ...]:
    """Every name that can be used, built in or registered by an installed distribution."""
    others = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    return tuple(sorted({*_BUILT_IN, *_FACTORIES, *others}))


def create_agent(name: str, context: AgentContext) -> Agent:
    """Build the agent of that name.

    Args:
        name: `name`, `name:argument`, or `package.module:Class`.
        context: Taxonomy, data and seed.

    Raises:
        AgentError: If there is no such agent or it cannot be built; the message says why.
        MissingDependencyError: If a library is missing; the message names the extra.
    """
    head, _, argument = name.partition(":")
    try:
        factory = _find_factory(head)
        if factory is not None:
            return factory(argument, context)
        if argument and ("." in head or _importable(head)):
            return _from_class(head, argument, context)
    except MemrouteError:
        raise
    except Exception as error:
        raise AgentError(
            f"agent {name!r} cannot be built: {type(error).__name__}: {error}"
        ) from error
    raise AgentError(
        f"no agent is called {head!r}; known: {', '.join(agent_names())}, "
        "or package.module:Class for your own"
    )


def _find_factory(head: str) -> AgentFactory | None:
    if head not in _FACTORIES and head in _BUILT_IN:
        import_module(_BUILT_IN[head])
    if head not in _FACTORIES:
        for point in entry_points(group=ENTRY_POINT_GROUP, name=head):
            register_agent(head, point.load())
    return _FACTORIES.get(head)


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """A console script does not look for modules where it is called; people expect it to."""
    here = str(Path.cwd())
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _importable(module: str) -> bool:
    with _working_folder_importable():
        return module.isidentifier() and find_spec(module) is not None


def _from_class(module_name: str, class_name: str, context: AgentContext) -> Agent:
    try:
        with _working_folder_importable():
            target = getattr(import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise AgentError(
            f"module {module_name!r} cannot be imported ({error}); is it on PYTHONPATH?"
        ) from error
    except AttributeError:
        raise AgentError(f"module {module_name!r} has no {class_name!r}") from None
    if isinstance(target, type) or inspect.isroutine(target):
        accepts = inspect.signature(target).parameters
        target = target(taxonomy=context.taxonomy) if "taxonomy" in accepts else target()
    if not isinstance(target, Agent):
        raise AgentError(
            f"{module_name}:{class_name} has no method route(conversations); see the Agent protocol"
        )
    return target


def checked_route(
    agent: Agent, conversations: Sequence[Conversation], name: str
) -> list[RoutingDecision]:
    """Call an agent and hold it to the contract.

    Raises:
        AgentError: If it raises, or returns anything but one `RoutingDecision` a conversation.
    """
    try:
        decisions = agent.route(conversations)
    except MemrouteError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise AgentError(f"agent {name!r} raised {type(error).__name__}: {said}") from error
    if not isinstance(decisions, list) or len(decisions) != len(conversations):
        got = len(decisions) if isinstance(decisions, Sequence) else type(decisions).__name__
        raise AgentError(
            f"agent {name!r} answered {got} for {len(conversations)} conversations; "
            "route must return a list with one RoutingDecision each"
        )
    for decision in decisions:
        if not isinstance(decision, RoutingDecision):
            raise AgentError(
                f"agent {name!r} returned {type(decision).__name__}; "
                "route must return RoutingDecision objects"
            )
    return decisions


def close_agent(agent: Agent) -> None:
    """Call the agent's `close`, if it has one."""
    close = getattr(agent, "close", None)
    if callable(close):
        close()
