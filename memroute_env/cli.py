"""`memroute envs`: what is registered, with its spaces."""

from __future__ import annotations

from typing import Annotated

import typer

from memroute_env.cli_support import fail_cleanly


def envs(
    dataset: Annotated[str, typer.Option(help="Dataset that the environments play.")] = "marketing",
) -> None:
    """List the registered environments with their spaces."""
    with fail_cleanly():
        import gymnasium as gym
        from rich.console import Console
        from rich.table import Table

        import memroute_env

        table = Table()
        table.add_column("id", no_wrap=True)  # an id is there to be copied
        for heading in ("observation", "action"):
            table.add_column(heading, overflow="fold")
        for env_id in memroute_env.ENV_IDS:
            env = gym.make(env_id, dataset=dataset)
            table.add_row(env_id, str(env.observation_space), str(env.action_space))
        Console().print(table)
