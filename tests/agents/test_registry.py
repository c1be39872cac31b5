"""How agents are named, plugged in, and held to their contract."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

from memroute_agents import Agent, RoutingDecision, agent, agent_names, create_agent, register_agent
from memroute_agents.agent import AgentContext, checked_route
from memroute_env import (
    AgentError,
    Conversation,
    Dataset,
    MissingDependencyError,
    OptionError,
    Taxonomy,
)


class Fixed:
    """Answers with whatever it was given, or raises it."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def context(marketing: Taxonomy, small: Dataset) -> AgentContext:
    return AgentContext(marketing, small, load_train=lambda: small)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the registry, so that a test leaves nothing behind."""
    monkeypatch.setattr(agent, "_FACTORIES", dict(agent._FACTORIES))
    yield


@pytest.mark.usefixtures("registry")
def test_a_registered_name_builds_an_agent_with_its_argument(context: AgentContext) -> None:
    seen: list[tuple[str, AgentContext]] = []

    def factory(argument: str, given: AgentContext) -> Agent:
        seen.append((argument, given))
        return Fixed()

    register_agent("mine", factory)
    register_agent("mine", factory)  # the same again is no conflict
    assert isinstance(create_agent("mine", context), Fixed)
    create_agent("mine:a:b", context)
    assert seen == [("", context), ("a:b", context)]
    assert "mine" in agent_names()


@pytest.mark.usefixtures("registry")
def test_a_name_can_be_taken_once() -> None:
    register_agent("mine", lambda argument, context: Fixed())
    with pytest.raises(AgentError, match="'mine' is already registered"):
        register_agent("mine", lambda argument, context: Fixed())
    assert {"random", "constant", "keyword", "oracle", "local", "cohere", "tinker"} <= set(
        agent_names()
    )


@pytest.mark.usefixtures("registry")
def test_a_built_in_name_is_always_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    agent._FACTORIES.pop("cohere", None)
    with pytest.raises(AgentError, match="'cohere' is already registered"):
        register_agent("cohere", lambda argument, context: Fixed())


@pytest.mark.parametrize("name", ["", "two words", "a:b", "a.b", "9lives"])
def test_a_name_must_be_a_plain_word(name: str) -> None:
    with pytest.raises(AgentError, match="plain word"):
        register_agent(name, lambda argument, context: Fixed())


def test_a_factory_must_be_callable() -> None:
    with pytest.raises(AgentError, match="not callable"):
        register_agent("mine", "theirs:make")  # type: ignore[arg-type]


@pytest.mark.usefixtures("registry")
def test_a_factory_that_raises_is_named(context: AgentContext) -> None:
    def broken(argument: str, context: AgentContext) -> Agent:
        raise {"os": OSError("no disc"), "own": OptionError("own words")}[argument]

    register_agent("mine", broken)
    with pytest.raises(AgentError, match="'mine:os' cannot be built: OSError: no disc"):
        create_agent("mine:os", context)
    with pytest.raises(OptionError, match="^own words$"):
        create_agent("mine:own", context)


@pytest.mark.usefixtures("registry")
def test_an_entry_point_that_cannot_be_imported_is_named(
    context: AgentContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("theirs", "no_such_module_at_all:make", "memroute.agents")
    monkeypatch.setattr(agent, "entry_points", lambda **wanted: [point])
    said = "'theirs' cannot be built: ModuleNotFoundError: No module named 'no_such_module_at_all'"
    with pytest.raises(AgentError, match=said):
        create_agent("theirs", context)


@pytest.mark.parametrize("library", ["scipy", "platformdirs"])
@pytest.mark.parametrize("command", [["route"], ["train", "local", "--out", "run"]])
def test_without_the_extra_local_its_commands_say_so_in_one_line(
    library: str, command: list[str], tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"sys.argv = {['memroute', *command]!r}\n"
        "from memroute_eval.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input="USER: keep it short with me",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    remedy = f'error: {library} is not installed: pip install "memroute-env[local]"'
    assert result.stderr.splitlines() == [remedy]


def test_an_unknown_name_lists_the_known_ones(context: AgentContext) -> None:
    with pytest.raises(AgentError, match="no agent is called 'nobody'; known: .*keyword.*oracle"):
        create_agent("nobody", context)
    with pytest.raises(AgentError, match="no agent is called"):
        create_agent("", context)


# package.module:Class -----------------------------------------------------------------------------


def test_any_importable_class_will_do(context: AgentContext) -> None:
    assert isinstance(create_agent(f"{__name__}:Fixed", context), Fixed)


class WantsTaxonomy(Fixed):
    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.taxonomy = taxonomy


def make_agent() -> Fixed:
    return Fixed()


READY = Fixed()
NOT_AN_AGENT = object()


def test_a_class_may_ask_for_the_taxonomy(context: AgentContext, marketing: Taxonomy) -> None:
    made = create_agent(f"{__name__}:WantsTaxonomy", context)
    assert isinstance(made, WantsTaxonomy)
    assert made.taxonomy == marketing


def test_a_function_or_a_ready_object_will_do(context: AgentContext) -> None:
    assert isinstance(create_agent(f"{__name__}:make_agent", context), Fixed)
    assert create_agent(f"{__name__}:READY", context) is READY


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{__name__}:Nobody", "has no 'Nobody'"),
        (f"{__name__}:NOT_AN_AGENT", r"no method route\(conversations\)"),
        (f"{__name__}:Path", "no method route"),
        ("absent.module:Class", "'absent.module' cannot be imported.*PYTHONPATH"),
    ],
)
def test_what_is_no_agent_is_named(name: str, said: str, context: AgentContext) -> None:
    with pytest.raises(AgentError, match=said):
        create_agent(name, context)


def test_an_error_inside_the_module_is_told(
    context: AgentContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenpack").mkdir()
    (tmp_path / "brokenpack" / "mod.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AgentError, match="brokenpack.mod:X.*ZeroDivisionError"):
        create_agent("brokenpack.mod:X", context)


# Entry points -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registry")
def test_an_installed_distribution_brings_its_agent(
    context: AgentContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "their_agents-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-agents\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[memroute.agents]\ntheirs = their_agents:make\n")
    (tmp_path / "their_agents.py").write_text(
        "class Theirs:\n"
        "    def __init__(self, argument): self.argument = argument\n"
        "    def route(self, conversations): return []\n"
        "def make(argument, context): return Theirs(argument)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert entry_points(group="memroute.agents", name="theirs")
    assert "theirs" in agent_names()
    made: Any = create_agent("theirs:deluxe", context)
    assert made.argument == "deluxe"
    monkeypatch.delitem(sys.modules, "their_agents")


# The contract of route ----------------------------------------------------------------------------


CONVERSATIONS = [Conversation.model_validate([{"role": "user", "content": "hi"}])] * 3
FINE = RoutingDecision(("none",))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ValueError("boom"), "raised ValueError: boom"),
        (KeyError("key"), "raised KeyError: 'key'"),
        ([FINE] * 2, "answered 2 for 3 conversations"),
        ([FINE] * 4, "answered 4 for 3"),
        ([], "answered 0 for 3"),
        (None, "answered NoneType for 3"),
        ((FINE,) * 3, "route must return a list"),
        ("abc", "route must return a list"),
        ([FINE, "none", FINE], "returned str"),
        ([FINE, None, FINE], "returned NoneType"),
    ],
)
def test_a_broken_contract_names_the_agent(answer: Any, said: str) -> None:
    with pytest.raises(AgentError, match=said) as caught:
        checked_route(Fixed(answer), CONVERSATIONS, "theirs.mod:Bad")
    assert "'theirs.mod:Bad'" in str(caught.value)


def test_the_projects_own_errors_and_interrupts_pass_through() -> None:
    missing = MissingDependencyError("cohere", "cohere")
    with pytest.raises(MissingDependencyError):
        checked_route(Fixed(missing), CONVERSATIONS, "x")
    with pytest.raises(KeyboardInterrupt):
        checked_route(Fixed(KeyboardInterrupt()), CONVERSATIONS, "x")


def test_a_kept_contract_passes_the_decisions_on() -> None:
    decisions = [FINE, RoutingDecision(text="none"), RoutingDecision(error="down")]
    assert checked_route(Fixed(decisions), CONVERSATIONS, "x") is decisions


def test_a_decision_acts_with_its_text_if_it_has_one() -> None:
    assert RoutingDecision(("a.b", "c.d")).action == "a.b, c.d"
    assert RoutingDecision(("a.b",), text="said").action == "said"
    assert RoutingDecision(("a.b",), text="").action == ""
    assert RoutingDecision().action == ""
