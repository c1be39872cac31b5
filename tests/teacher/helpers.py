"""Running the teacher: as a process of its own, or in this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from memroute_agents.cohere import CohereModel
from memroute_data_gen.teacher.cli import teach
from memroute_data_gen.teacher.pipeline import TeacherConfig, TeacherRun
from memroute_env.taxonomy import load_taxonomy
from tests.servers.cohere import KEY, MODEL

_PROGRAM = """
import typer
from memroute_data_gen.teacher.cli import teach
typer.run(teach)
"""


class Teacher:
    """`memroute data teach` as users run it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out.jsonl"

    def run(self, url: str, *arguments: str, key: str = KEY) -> tuple[int, str, str]:
        """The command in this process: exit status, standard output, standard error."""
        app = typer.Typer()
        app.command()(teach)
        environment = {"COHERE_API_KEY": key or None, "CO_API_URL": url or None}
        with contextlib.chdir(self.folder):
            result = CliRunner().invoke(app, ["--out", str(self.out), *arguments], env=environment)
        return result.exit_code, result.stdout, result.stderr

    def start(self, url: str, *arguments: str) -> subprocess.Popen[str]:
        """The command in a process of its own, to be killed."""
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "--out", str(self.out), *arguments],
            env={
                **os.environ,
                "COHERE_API_KEY": KEY,
                "CO_API_URL": url,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        out, err = process.communicate(timeout=50)
        return process.returncode, out, err

    def examples(self) -> list[dict[str, Any]]:
        return read_lines(self.out)

    def rejected(self) -> list[dict[str, Any]]:
        return read_lines(self.out.with_name("out.jsonl.rejected.jsonl"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_here(
    url: str, out: Path, num: int, *, timeout_s: float = 1.0, **options: Any
) -> TeacherRun:
    """A run in this process; `options` are fields of `TeacherConfig`."""

    async def work() -> TeacherRun:
        config = TeacherConfig(num=num, out=out, model=MODEL, **options)
        model = CohereModel(KEY, url, timeout_s=timeout_s, concurrency=config.concurrency)
        run = TeacherRun(config, load_taxonomy("marketing"), model)
        run.caller.base_s = 0.02
        try:
            await run.run()
        finally:
            await model.close()
        return run

    return asyncio.run(work())
