from __future__ import annotations

import asyncio
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
pytestmark = pytest.mark.filterwarnings("default")

from tinker_cookbook.completers import TokenCompleter, TokensWithLogprobs  # noqa: E402
from tinker_cookbook.rl.types import StopReason  # noqa: E402

from memroute_agents.tinker import envs  # noqa: E402
from memroute_agents.tinker.envs import (  # noqa: E402
    RoutingDatasetBuilder,
    RoutingEnv,
    RoutingGroupBuilder,
    make_renderer,
)
from memroute_agents.tinker.evaluate import play  # noqa: E402
from memroute_env import Reward  # noqa: E402
from memroute_env.conversation import Example  # noqa: E402
from memroute_env.datasets import load_dataset  # noqa: E402
from memroute_env.prompt import answer_text, build_messages  # noqa: E402
from memroute_env.taxonomy import Taxonomy  # noqa: E402


@pytest.fixture
def builder(examples: list[Example], taxonomy: Taxonomy, model_dir: str) -> RoutingGroupBuilder:
    return RoutingGroupBuilder(examples[0], taxonomy, "llama3", model_dir, group_size=4)


def make_envs(builder: RoutingGroupBuilder) -> list[RoutingEnv]:
    envs = asyncio.run(builder.make_envs())
    assert all(isinstance(env, RoutingEnv) for env in envs)
    return list(envs)  # type: ignore[arg-type]


def encode(env: RoutingEnv, text: str) -> list[int]:
    return env.renderer.tokenizer.encode(text, add_special_tokens=False)


def gold_text(env: RoutingEnv) -> str:
    return answer_text(env.gold, env.reward.taxonomy)


def test_the_gold_answer_scores_the_maximum(builder: RoutingGroupBuilder) -> None:
    env = make_envs(builder)[0]
    result = asyncio.run(env.step(encode(env, gold_text(env) + "<|eot_id|>")))
    assert result.reward == 1.0 and result.episode_done
    assert result.metrics["exact"] == 1.0
    assert result.metrics[f"stop/{StopReason.COMPLETED}"] == 1.0


@pytest.mark.parametrize("text", ["", "I would say brand", "none, user.role_context", "{}"])
def test_an_unreadable_answer_scores_the_malformed_reward(
    builder: RoutingGroupBuilder, text: str
) -> None:
    env = make_envs(builder)[0]
    result = asyncio.run(env.step(encode(env, text + "<|eot_id|>")))
    assert result.reward == -1.0
    assert result.metrics["malformed"] == 1.0
    assert result.metrics["f1"] == result.metrics["categories"] == 0.0


def test_reward_and_components_are_the_environments(
    examples: list[Example], builder: RoutingGroupBuilder, taxonomy: Taxonomy
) -> None:
    reward = Reward(taxonomy)
    for example in examples[:20]:
        env = make_envs(replace(builder, example=example))[0]
        answer = "company.brand_core, user.role_context"
        result = asyncio.run(env.step(encode(env, answer + "<|eot_id|>")))
        expected = reward.score_text(answer, taxonomy.mask(example.labels.categories))
        assert result.reward == expected.total
        assert result.metrics["temporal"] == expected.temporal
        assert result.metrics["parity"] == expected.parity


def test_an_answer_cut_off_loses_its_last_item_only(builder: RoutingGroupBuilder) -> None:
    env = make_envs(builder)[0]
    text = f"{gold_text(env)}, user.role_con"
    cut = asyncio.run(env.step(encode(env, text), extra={"stop_reason": "length"}))
    assert cut.reward == 1.0
    assert cut.metrics["truncated"] == 1.0
    assert cut.metrics[f"stop/{StopReason.MAX_TOKENS}"] == 1.0
    unknown = asyncio.run(make_envs(builder)[0].step(encode(env, text)))
    assert unknown.reward == 1.0, "no stop token and no reason given: cut off as well"


def test_a_group_shares_one_conversation_and_its_prompt(builder: RoutingGroupBuilder) -> None:
    envs = make_envs(builder)
    assert len(envs) == 4 and {env.example.id for env in envs} == {builder.example.id}
    prompt, stop = asyncio.run(envs[0].initial_observation())  # type: ignore[misc]
    text = str(envs[0].renderer.tokenizer.decode(prompt.to_ints()))
    for message in build_messages(builder.example.conversation, builder.taxonomy):
        assert message["content"] in text
    assert gold_text(envs[0]) not in text.rpartition("Conversation:")[2]
    assert stop == envs[0].renderer.get_stop_sequences()


def test_builders_pickle_and_still_build(builder: RoutingGroupBuilder) -> None:
    copy = pickle.loads(pickle.dumps(builder))
    assert copy == builder
    assert len(make_envs(copy)) == 4


def test_tags_are_difficulty_and_label_count(
    examples: list[Example], builder: RoutingGroupBuilder, taxonomy: Taxonomy
) -> None:
    for example in examples:
        labels = taxonomy.mask(example.labels.categories).bit_count()
        tags = replace(builder, example=example).logging_tags()
        assert tags == [example.metadata.difficulty, f"labels_{labels}"]


def rl_builder(model_dir: str, data_dir: Path, **changes: object) -> RoutingDatasetBuilder:
    options = {
        "model_name": model_dir, "renderer_name": "llama3", "data": str(data_dir),
        "iterations": 6, "groups": 8, "group_size": 2, "seed": 5, **changes,
    }  # fmt: skip
    return RoutingDatasetBuilder(**options)  # type: ignore[arg-type]


def test_a_batch_depends_on_its_index_and_all_come_up_before_any_again(
    model_dir: str, data_dir: Path
) -> None:
    dataset, report = rl_builder(model_dir, data_dir).load()
    again, _ = rl_builder(model_dir, data_dir).load()
    assert len(dataset) == 6 and report.too_long == ()
    assert [b.example.id for b in again.get_batch(4)] == [
        b.example.id for b in dataset.get_batch(4)
    ]
    first_pass = [b.example.id for i in range(5) for b in dataset.get_batch(i)]
    assert len(set(first_pass)) == 40 == len(dataset.examples)
    other, _ = rl_builder(model_dir, data_dir, seed=6).load()
    assert [b.example.id for b in other.get_batch(0)] != first_pass[:8]


def test_prompts_that_are_too_long_are_left_out_and_named(model_dir: str, data_dir: Path) -> None:
    _, whole = rl_builder(model_dir, data_dir).load()
    dataset, report = rl_builder(model_dir, data_dir, max_prompt_tokens=whole.longest - 1).load()
    assert report.too_long and report.kept + len(report.too_long) == whole.kept
    kept = {example.id for example in dataset.examples}
    assert kept.isdisjoint(name for name, _ in report.too_long)


class Says(TokenCompleter):
    """Answers every prompt with the same text."""

    def __init__(self, tokens: list[int], stop: str = "stop") -> None:
        self.answer = TokensWithLogprobs(tokens, [0.0] * len(tokens), stop)  # type: ignore[arg-type]

    async def __call__(
        self, model_input: object, stop: object, *, max_tokens: int | None = None
    ) -> TokensWithLogprobs:
        return self.answer


def test_the_evaluator_measures_a_policy_that_stores_nothing(
    examples: list[Example], taxonomy: Taxonomy, model_dir: str
) -> None:
    renderer = make_renderer("llama3", model_dir)
    envs = [RoutingEnv(example, Reward(taxonomy), renderer) for example in examples]
    played = asyncio.run(play(Says(encode(envs[0], "none<|eot_id|>")), envs))
    nothing = sum(env.gold == 0 for env in envs) / len(envs)
    metrics = played.metrics()
    assert 0 < nothing < 1
    assert metrics["exact"] == metrics["f1"] == metrics["none_precision"] == nothing
    assert metrics["none_recall"] == 1.0
    assert metrics["categories"] == 1.0
    low, high = played.intervals(resamples=200)["exact"]
    assert low < nothing < high


def test_the_evaluator_counts_malformed_answers_as_wrong(
    examples: list[Example], taxonomy: Taxonomy, model_dir: str
) -> None:
    renderer = make_renderer("llama3", model_dir)
    envs = [RoutingEnv(example, Reward(taxonomy), renderer) for example in examples[:5]]
    metrics = asyncio.run(play(Says(encode(envs[0], "well<|eot_id|>")), envs)).metrics()
    assert metrics["malformed"] == 1.0 and metrics["reward"] == -1.0
    assert metrics["exact"] == metrics["f1"] == metrics["none_recall"] == 0.0


def test_the_example_of_the_readme_builds_what_it_says(
    model_dir: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinker_cookbook.rl import train

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = re.findall(r"```python\n(import asyncio\n.*?)```", readme, re.DOTALL)[0]
    assert len(code.splitlines()) <= 20
    given: list[train.Config] = []

    async def main(config: train.Config) -> None:
        given.append(config)

    monkeypatch.setattr(train, "main", main)
    monkeypatch.setattr(envs, "load_split", lambda *_: load_dataset(data_dir, "train"))
    exec(code.replace("meta-llama/Llama-3.2-1B", model_dir), {})
    dataset, _ = asyncio.run(given[0].dataset_builder())
    assert len(dataset) == 10
    assert len(dataset.get_batch(9)) == 16
