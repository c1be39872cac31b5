from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memroute_agents.agent import AgentContext, create_agent
from memroute_env.errors import AgentError, MissingDependencyError, OptionError
from memroute_env.taxonomy import load_taxonomy

HEAVY = ("torch", "tinker", "tinker_cookbook", "transformers", "matplotlib")


def test_importing_the_package_and_its_command_line_is_light() -> None:
    code = (
        "import memroute_agents, memroute_agents.tinker.cli, memroute_agents.tinker.router, "
        "memroute_agents.tinker.estimate, sys\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["tinker", "tinker_cookbook"])
def test_a_missing_library_names_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from memroute_agents.tinker import require

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"memroute-env\[tinker\]"):
        require(module)


def test_the_agent_is_registered_and_asks_for_a_run() -> None:
    context = AgentContext(load_taxonomy("marketing"))
    with pytest.raises(AgentError, match="tinker:RUN_DIR"):
        create_agent("tinker", context)


@pytest.mark.parametrize("name", ["tinker://run/weights", "tinker:tinker://run/weights"])
def test_an_address_is_not_taken_for_a_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    options = {"base_url": "http://127.0.0.1:9"}
    with pytest.raises(AgentError, match="no server answers"):
        create_agent(name, AgentContext(load_taxonomy("marketing"), options=options))


def test_an_option_that_is_no_number_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
    context = AgentContext(load_taxonomy("marketing"), options={"max_tokens": "many"})
    with pytest.raises(OptionError, match="max_tokens"):
        create_agent(f"tinker:{tmp_path}", context)
