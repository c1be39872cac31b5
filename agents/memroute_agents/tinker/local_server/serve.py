"""Runs SkyRL's Tinker server behind the adapter; executed by the server's own Python.

    python serve.py api --port 8001 --base-model DIR --backend-config '{…}' …   (SkyRL's options)

Three things differ from SkyRL's own start: its API starts the engine with `uv run`, here the engine
is this file again under the same Python; on Python 3.11 pydantic needs `typing_extensions`'
TypedDict where SkyRL imports the one of `typing`; and the engine waits for a wave of sampling
requests to arrive before it samples, since a batch costs the same however few are in it.
"""

from __future__ import annotations

import argparse
import sys
import typing

import typing_extensions

typing.TypedDict = typing_extensions.TypedDict  # type: ignore[misc]


def run_api(argv: list[str]) -> None:
    """The HTTP server; it starts the engine as its child."""
    import uvicorn
    from adapter import Adapter
    from skyrl.tinker import api
    from skyrl.tinker.config import EngineConfig, add_model, config_to_argv

    parser = argparse.ArgumentParser()
    add_model(parser, EngineConfig)
    parser.add_argument("--port", type=int, required=True)
    options = vars(parser.parse_args(argv))
    port = options.pop("port")
    api.app.state.engine_config = EngineConfig.model_validate(options)
    api._build_uv_run_cmd_engine = lambda _, config: [
        sys.executable, __file__, "engine", *config_to_argv(config)
    ]  # fmt: skip
    uvicorn.run(Adapter(api.app), host="127.0.0.1", port=port, log_level="warning")


def run_engine(argv: list[str]) -> None:
    """The process that computes."""
    from skyrl.tinker import engine

    find = engine.TinkerEngine.find_batchable_sample
    seen = 0

    def find_all_of_a_wave(self: typing.Any, session: typing.Any) -> dict[str, typing.Any]:
        nonlocal seen
        found = find(self, session)
        growing = len(found) > seen and len(found) < self.backend.config.sample_max_num_sequences
        seen = len(found) if growing else 0
        return {} if growing else found

    engine.TinkerEngine.find_batchable_sample = find_all_of_a_wave  # type: ignore[method-assign]
    sys.argv = ["engine", *argv]
    engine.main()


if __name__ == "__main__":
    role, rest = sys.argv[1], sys.argv[2:]
    {"api": run_api, "engine": run_engine}[role](rest)
