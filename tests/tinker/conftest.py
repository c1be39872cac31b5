"""A tokenizer of our own and a few conversations, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from memroute_agents.tinker.local_server.tiny_model import compose_splits, tiny_recipe
from memroute_data_gen.compose import Composer
from memroute_env.conversation import Example
from memroute_env.taxonomy import Taxonomy, load_taxonomy


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    return load_taxonomy("marketing")


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    compose = Composer(3, "train", tiny_recipe())
    return [compose(i) for i in range(60)]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose_splits(tmp_path_factory.mktemp("data"), {"train": 40, "validation": 20})


@pytest.fixture(scope="session")
def model_dir(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Example], taxonomy: Taxonomy
) -> str:
    """A folder with a tokenizer: as much of a model as prompts need."""
    pytest.importorskip("transformers", reason="needs transformers: install memroute-env[tinker]")
    from memroute_agents.tinker.local_server.tiny_model import train_tokenizer

    folder = tmp_path_factory.mktemp("model")
    train_tokenizer(examples, taxonomy, 600).save_pretrained(folder)
    return str(folder)
