"""Public names and signatures: changing one is a decision, made here as well."""

from __future__ import annotations

import inspect
import pickle

import pytest

import memroute_agents
import memroute_env
from memroute_agents.agent import RoutingDecision, TokenUsage
from memroute_env import errors

NAMES = """
AgentError AnswerParser BatchScores Category Conversation DataError Dataset Example Horizon Labels
MalformedReason MemoryRoutingEnv MemoryRoutingVectorEnv MemrouteError Metadata
MissingDependencyError OptionError ParsedAnswer Reward RewardBreakdown RewardConfig Taxonomy
TaxonomyError Turn UnknownCategoryError build_messages import_older_layout load_dataset
load_taxonomy parse_answer shipped_datasets
""".split()

SIGNATURES = {
    "AnswerParser": ["taxonomy", "mode=strict"],
    "Category": ["id", "description", "scope", "horizon", "lifetime_days", "exclusive=False"],
    "Dataset": ["examples", "taxonomy", "*name=custom", "*split=", "*version=", "*checked=False"],
    "MemoryRoutingEnv": [
        "dataset=marketing",
        "split=train",
        "*taxonomy=None",
        "*reward_config=None",
        "*observation=text",
        "*action=text",
        "*feature_dim=1024",
        "*parse=strict",
        "*render_mode=None",
    ],
    "MemoryRoutingVectorEnv": [
        "num_envs=1",
        "dataset=marketing",
        "split=train",
        "*taxonomy=None",
        "*reward_config=None",
        "*observation=text",
        "*action=text",
        "*feature_dim=1024",
        "*parse=strict",
        "*render_mode=None",
        "*autoreset_mode=AutoresetMode.SAME_STEP",
    ],
    "MemoryRoutingEnv.reset": ["self", "*seed=None", "*options=None"],
    "MemoryRoutingEnv.step": ["self", "action"],
    "MemoryRoutingVectorEnv.reset": ["self", "*seed=None", "*options=None"],
    "MemoryRoutingVectorEnv.step": ["self", "actions"],
    "Reward": ["taxonomy", "config=None"],
    "Reward.score": ["self", "predicted", "gold"],
    "Reward.score_text": ["self", "text", "gold", "parse=strict", "*truncated=False"],
    "Reward.score_masks": ["self", "predicted_N", "gold_N", "components=False"],
    "Reward.score_actions": ["self", "bits_NC", "gold_N"],
    "Taxonomy": ["name", "categories", "version=1.0", "description=", "scopes=('company', 'user')"],
    "Taxonomy.mask": ["self", "categories"],
    "Taxonomy.ids": ["self", "mask"],
    "Taxonomy.horizon": ["self", "categories"],
    "Taxonomy.scope": ["self", "categories"],
    "Taxonomy.small_sets": ["self", "max_size=3"],
    "build_messages": ["conversation", "taxonomy"],
    "import_older_layout": ["path", "taxonomy=None"],
    "load_dataset": ["name_or_path=marketing", "split=None", "taxonomy=None"],
    "load_taxonomy": ["name_or_path=marketing"],
    "parse_answer": ["text", "taxonomy", "mode=strict", "*truncated=False"],
    "shipped_datasets": [],
}

FIELDS = {
    "BatchScores": ["total", "f1", "temporal", "parity", "efficiency"],
    "RewardBreakdown": ["total", "f1", "temporal", "parity", "efficiency", "malformed"],
    "ParsedAnswer": ["mask", "reason", "item", "dropped"],
    "Turn": ["role", "content"],
    "Conversation": ["turns"],
    "Labels": ["categories", "evidence", "rationale"],
    "Metadata": ["domain", "difficulty", "source", "distractors"],
    "Example": ["id", "conversation", "labels", "metadata"],
    "RewardConfig": [
        "f1_weight",
        "temporal_weight",
        "parity_weight",
        "efficiency_weight",
        "efficiency",
        "adjacent",
        "adjacent_score",
        "malformed",
    ],
}


def written(target: object) -> list[str]:
    """Parameters as `name`, `name=default`, `*keyword_only=default`."""
    found = []
    for parameter in inspect.signature(target).parameters.values():  # type: ignore[arg-type]
        star = "*" if parameter.kind is parameter.KEYWORD_ONLY else ""
        default = "" if parameter.default is parameter.empty else f"={parameter.default}"
        found.append(f"{star}{parameter.name}{default}")
    return found


def test_public_names() -> None:
    assert sorted(memroute_env.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(memroute_env))
    for name in NAMES:
        value = getattr(memroute_env, name)
        assert value.__name__ == name
        assert value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        memroute_env.Nonsense  # noqa: B018


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    head, _, method = name.partition(".")
    target = getattr(memroute_env, head)
    assert written(getattr(target, method) if method else target) == SIGNATURES[name]


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    target = getattr(memroute_env, name)
    for attribute in ("_fields", "model_fields", "__dataclass_fields__"):
        if hasattr(target, attribute):
            assert list(getattr(target, attribute)) == FIELDS[name]
            return
    raise AssertionError(f"{name} has no fields")


def test_registered_ids() -> None:
    assert memroute_env.ENV_IDS == (
        "MemoryRouting-v0",
        "MemoryRoutingFeatures-v0",
        "MemoryRoutingBinary-v0",
        "MemoryRoutingDiscrete-v0",
        "MemoryRoutingIndex-v0",
    )


def test_names_of_the_agents_package() -> None:
    assert sorted(memroute_agents.__all__) == [
        "Agent", "AgentContext", "RoutingDecision", "TokenUsage", "agent_names", "create_agent",
        "load", "register_agent",
    ]  # fmt: skip
    assert list(RoutingDecision.__dataclass_fields__) == [
        "categories", "text", "truncated", "scores", "evidence", "latency_s", "usage", "error",
    ]  # fmt: skip
    assert list(TokenUsage.__dataclass_fields__) == ["input_tokens", "output_tokens", "cost_usd"]
    assert written(memroute_agents.create_agent) == ["name", "context"]
    assert written(memroute_agents.load) == ["name=local", "*taxonomy=None", "*seed=0"]
    assert written(memroute_agents.register_agent) == ["name", "factory"]


STANDARD = {
    "TaxonomyError": ValueError,
    "UnknownCategoryError": KeyError,
    "DataError": ValueError,
    "OptionError": ValueError,
    "AgentError": RuntimeError,
}


@pytest.mark.parametrize("name", STANDARD)
def test_errors_are_the_projects_and_standard_and_pickle(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.MemrouteError)
    assert issubclass(kind, STANDARD[name])
    again = pickle.loads(pickle.dumps(kind("what to do")))
    assert type(again) is kind
    assert str(again) == "what to do"


def test_a_missing_library_names_its_extra() -> None:
    error = pickle.loads(pickle.dumps(errors.MissingDependencyError("cohere", "cohere")))
    assert isinstance(error, ImportError)
    assert str(error) == 'cohere is not installed: pip install "memroute-env[cohere]"'


def test_the_environments_docstring_is_its_documentation_page() -> None:
    page = inspect.getdoc(memroute_env.MemoryRoutingEnv) or ""
    for heading in (
        "Description", "Action Space", "Observation Space", "Rewards", "Starting State",
        "Episode End", "Information", "Arguments", "Version History",
    ):  # fmt: skip
        assert f"## {heading}" in page
