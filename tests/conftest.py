"""Shared fixtures: small data that the tests make themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from memroute_env import Dataset, Example, Taxonomy, load_taxonomy

# A busy machine is no bug: no example of a property has a time limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

EXTERNAL = Path(__file__).parents[2] / "shared" / "data" / "external_marketing_896.jsonl"

SUPPORT_TOML = """
name = "support"
scopes = ["customer", "shop"]
[[category]]
id = "customer.address"
description = "Where to deliver."
scope = "customer"
horizon = "medium"
lifetime_days = 365
[[category]]
id = "customer.tone"
description = "How they want to be spoken to."
scope = "customer"
horizon = "evolving"
lifetime_days = "never"
[[category]]
id = "customer.open_case"
description = "What they are waiting for."
scope = "customer"
horizon = "short"
lifetime_days = 14
[[category]]
id = "shop.policy"
description = "Rules on returns and refunds."
scope = "shop"
horizon = "long"
lifetime_days = "never"
[[category]]
id = "shop.stock"
description = "What is available."
scope = "shop"
horizon = "rolling"
lifetime_days = 30
[[category]]
id = "nothing"
description = "Nothing to keep."
exclusive = true
"""


def make_example(identifier: str, categories: list[str], *texts: str) -> Example:
    turns = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": text}
        for i, text in enumerate(texts or ("hello there", "hi", "thanks"))
    ]
    return Example.model_validate(
        {"id": identifier, "conversation": turns, "labels": {"categories": categories}}
    )


@pytest.fixture
def marketing() -> Taxonomy:
    return load_taxonomy("marketing")


@pytest.fixture
def support(tmp_path: Path) -> Taxonomy:
    path = tmp_path / "support.toml"
    path.write_text(SUPPORT_TOML)
    return load_taxonomy(path)


@pytest.fixture
def small(marketing: Taxonomy) -> Dataset:
    """Twelve single-label examples, one `none`, one of three labels."""
    examples = [
        make_example(c.id, [c.id], f"message about {c.id.replace('.', ' ')}", "noted", "good")
        for c in marketing.categories
    ]
    three = [c.id for c in marketing.storing[:3]]
    return Dataset([*examples, make_example("three", three, "a lot", "yes", "ok")], marketing)


@pytest.fixture
def external() -> Path:
    if not EXTERNAL.is_file():
        pytest.skip(f"the external data set is not at {EXTERNAL}: it is not part of this project")
    return EXTERNAL
