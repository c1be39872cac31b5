"""`--help` everywhere, each with an example."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer

from memroute_eval.cli import app
from tests.cli.conftest import Memroute


def leaves(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path
        return
    for name, child in inner.items():
        yield from leaves(child, (*path, name))


COMMANDS = sorted(leaves(typer.main.get_command(app)))


def test_the_specified_commands_are_there() -> None:
    wanted = {"demo", "eval", "score", "route", "envs", "train local"} | {
        f"data {name}" for name in ("compose", "import", "check", "split")
    }
    assert wanted <= {" ".join(command) for command in COMMANDS}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            command,
        )
        if command == ("envs",)
        else command
        for command in COMMANDS
    ],
    ids=" ".join,
)
def test_help_has_an_example_of_the_command_itself(
    command: tuple[str, ...], memroute: Memroute
) -> None:
    result = memroute(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    _, found, example = result.stdout.partition("Example: ")
    assert found
    assert f"memroute {' '.join(command)}" in " ".join(example.split())


def test_without_a_command_the_help_is_shown(memroute: Memroute) -> None:
    result = memroute()
    assert "Usage: " in result.output
    assert "eval" in result.output


def test_an_unknown_command_is_named(memroute: Memroute) -> None:
    result = memroute("evaluate")
    assert result.exit_code == 2
    assert "evaluate" in result.stderr
