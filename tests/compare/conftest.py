"""Results of baselines on composed conversations."""

from __future__ import annotations

import pytest

from memroute_data_gen.compose import Composer
from memroute_env.datasets import Dataset
from memroute_eval.evaluate import evaluate

AGENTS = ["constant:company.brand_core", "oracle", "random:uniform"]


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    composer = Composer(0, "test")
    return Dataset([composer(i) for i in range(60)], composer.taxonomy, name="composed-60")


@pytest.fixture(scope="session")
def results(dataset):
    return evaluate(AGENTS, dataset, resamples=100)
