"""Runs SkyRL's Tinker server behind the adapter; executed by the server's own Python.

    python serve.py api --port 8001 --base-model DIR --backend-config '{…}' …   (SkyRL's options)

Four things differ from SkyRL's own start: its API starts the engine with `uv run`, here the engine
is this file again under the same Python; on Python 3.11 pydantic needs `typing_extensions`'
TypedDict where SkyRL imports the one of `typing`; the engine waits for a wave of sampling requests
to arrive before it samples, since a batch costs the same however few are in it; and what is sampled
lies in adapter slots of its own. SkyRL's JAX backend samples from the slot that is being trained:
there an older client samples newer weights or, worse, puts older weights back under the optimizer,
and a model's checkpoints cannot be sampled any more once it is unloaded. Of the models in training
the one that was left alone for longest makes room for a new one.
"""

from __future__ import annotations

import argparse
import sys
import typing
from collections import OrderedDict

import typing_extensions

typing.TypedDict = typing_extensions.TypedDict  # type: ignore[misc]

SAMPLER_SLOTS = 3
"""Adapter slots, the last ones, that hold what is sampled. The others are trained, but the first,
which is the base model's: a slot costs time in every step, whether it is used or not."""


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

    sample_in_waves(engine.TinkerEngine)
    sample_from_own_slots(engine.TinkerEngine)
    make_room_for_new_models()
    sys.argv = ["engine", *argv]
    engine.main()


def sample_in_waves(engine: typing.Any) -> None:
    """Wait until no more sampling requests arrive, or a batch is full."""
    find = engine.find_batchable_sample
    seen = 0

    def find_all_of_a_wave(self: typing.Any, session: typing.Any) -> dict[str, typing.Any]:
        nonlocal seen
        found = find(self, session)
        growing = len(found) > seen and len(found) < self.backend.config.sample_max_num_sequences
        seen = len(found) if growing else 0
        if growing:
            return {}
        several = OrderedDict.fromkeys(model for model, _ in found.values())
        fitting = set(list(several)[:SAMPLER_SLOTS])
        return {key: request for key, request in found.items() if request[0] in fitting}

    engine.find_batchable_sample = find_all_of_a_wave


def sample_from_own_slots(engine: typing.Any) -> None:
    """Load every checkpoint that is sampled into one of the last slots, the oldest used first."""
    from cloudpathlib import AnyPath
    from skyrl.backends.jax import JaxBackendImpl
    from skyrl.tinker import types
    from skyrl.tinker.db_models import ModelDB
    from skyrl.tx.layers.lora import init_lora_adapter
    from skyrl.tx.utils.models import load_lora_checkpoint
    from sqlmodel import Session

    start, valid, sample = (
        JaxBackendImpl.__init__,
        engine._filter_valid_requests,
        engine.process_sample,
    )
    slots: OrderedDict[tuple[str, str], int] = OrderedDict()
    shapes: dict[int, types.LoraConfig] = {}
    configs: dict[str, types.LoraConfig] = {}

    def reserve_slots(self: typing.Any, *args: typing.Any, **kwargs: typing.Any) -> None:
        start(self, *args, **kwargs)
        unused = types.LoraConfig(rank=1, alpha=1.0, seed=0)
        for number in range(SAMPLER_SLOTS):
            index = self.config.max_lora_adapters - 1 - number
            self.models[f"(sampler {number})"] = types.ModelMetadata(
                adapter_index=index, lora_config=unused
            )
            slots["", str(number)] = index

    def slot(self: typing.Any, model_id: str, checkpoint_id: str, path: str) -> int:
        key = model_id, checkpoint_id
        if key not in slots:
            _, index = slots.popitem(last=False)
            free = "", str(index)  # still the first to be taken, should anything below fail
            slots[free] = index
            slots.move_to_end(free, last=False)
            config = configs[model_id]
            if shapes.get(index) != config:
                init_lora_adapter(self.model, index, config)
                shapes[index] = config
            load_lora_checkpoint(self.model, config, index, AnyPath(path))
            del slots[free]
            slots[key] = index
        slots.move_to_end(key)
        return slots[key]

    def load_sampler_weights(self: typing.Any, batch: typing.Any) -> list[int]:
        wanted = zip(
            batch.all_model_ids, batch.all_checkpoint_ids, batch.all_checkpoint_paths, strict=True
        )
        return [slot(self, *one) if one[0] else 0 for one in wanted]

    def also_unloaded(self: typing.Any, requests: dict[str, typing.Any]) -> tuple[dict, dict]:
        errors, fine = valid(self, requests)
        for key, (model_id, request) in requests.items():
            if key in errors and model_id and isinstance(request, types.SampleInput):
                del errors[key]  # the API has made sure that there is such a checkpoint
                fine[key] = model_id, request
        return errors, fine

    def sample_with_configs(self: typing.Any, requests: dict[str, typing.Any]) -> typing.Any:
        for model_id in {model_id for model_id, _ in requests.values()} - {"", *configs}:
            with Session(self.db_engine) as session:
                found = types.LoraConfig.model_validate(session.get(ModelDB, model_id).lora_config)
            configs[model_id] = found.model_copy(update={"seed": 0})
        return sample(self, requests)

    JaxBackendImpl.__init__ = reserve_slots
    JaxBackendImpl.load_sampler_weights = load_sampler_weights
    engine._filter_valid_requests = also_unloaded
    engine.process_sample = sample_with_configs


def make_room_for_new_models() -> None:
    """Unload the model that was trained longest ago (a killed client's?) where none fits."""
    from skyrl.backends.jax import JaxBackendImpl

    create, step = JaxBackendImpl.create_model, JaxBackendImpl.optim_step
    used: OrderedDict[str, None] = OrderedDict()

    def create_with_room(self: typing.Any, model_id: str, *args: typing.Any, **more: typing.Any):
        trained = [name for name in used if name in self.models]
        if trained and len(self.models) >= self.config.max_lora_adapters - 1:
            self.delete_model(trained[0])
        create(self, model_id, *args, **more)
        used[model_id] = None

    def noted_step(self: typing.Any, model_id: str, request_data: typing.Any) -> typing.Any:
        used.move_to_end(model_id)
        return step(self, model_id, request_data)

    JaxBackendImpl.create_model = create_with_room
    JaxBackendImpl.optim_step = noted_step


if __name__ == "__main__":
    role, rest = sys.argv[1], sys.argv[2:]
    {"api": run_api, "engine": run_engine}[role](rest)
