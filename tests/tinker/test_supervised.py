from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
pytestmark = pytest.mark.filterwarnings("default")

from memroute_agents.tinker.envs import make_renderer  # noqa: E402
from memroute_agents.tinker.supervised import (  # noqa: E402
    RoutingSupervisedBuilder,
    chat_messages,
    make_datum,
)
from memroute_env.conversation import Example  # noqa: E402
from memroute_env.prompt import answer_text  # noqa: E402
from memroute_env.taxonomy import Taxonomy  # noqa: E402


@pytest.mark.parametrize("name", ["llama3", "role_colon"])
def test_the_loss_is_on_the_answer_alone(
    name: str, examples: list[Example], taxonomy: Taxonomy, model_dir: str
) -> None:
    renderer = make_renderer(name, model_dir)
    for example in examples:
        datum = make_datum(example, taxonomy, renderer)
        weights = datum.loss_fn_inputs["weights"].data
        targets = datum.loss_fn_inputs["target_tokens"].data
        learnt = [int(t) for t, w in zip(targets, weights, strict=True) if w > 0]
        text = str(renderer.tokenizer.decode(learnt))
        answer = answer_text(taxonomy.mask(example.labels.categories), taxonomy)
        assert text.startswith((answer, " " + answer))
        ending = text.strip()[len(answer) :]
        assert ending.strip() in ("<|eot_id|>", "User:", "")
        assert sum(weights) == pytest.approx(1.0)


def test_inputs_and_targets_are_the_whole_chat_shifted_by_one(
    examples: list[Example], taxonomy: Taxonomy, model_dir: str
) -> None:
    renderer = make_renderer("llama3", model_dir)
    for example in examples[:10]:
        chat, _ = renderer.build_supervised_example(chat_messages(example, taxonomy))
        datum = make_datum(example, taxonomy, renderer)
        tokens = chat.to_ints()
        assert datum.model_input.to_ints() == tokens[:-1]
        assert [int(t) for t in datum.loss_fn_inputs["target_tokens"].data] == tokens[1:]


def build(model_dir: str, data_dir: Path, **changes: object) -> RoutingSupervisedBuilder:
    options = {
        "model_name": model_dir, "renderer_name": "llama3", "data": str(data_dir),
        "steps": 5, "batch_size": 8, "seed": 5, **changes,
    }  # fmt: skip
    return RoutingSupervisedBuilder(**options)  # type: ignore[arg-type]


def test_nothing_is_cut_and_what_is_too_long_is_counted_and_named(
    model_dir: str, data_dir: Path
) -> None:
    _, whole = build(model_dir, data_dir).load()
    assert whole.too_long == () and whole.kept == 40
    limit = whole.longest - 1
    dataset, report = build(model_dir, data_dir, max_length=limit).load()
    assert 1 <= len(report.too_long) == 40 - report.kept
    assert all(length > limit for _, length in report.too_long)
    assert report.too_long[0][0] in report.sentence()
    kept = {example.id for example in dataset.examples}
    assert kept.isdisjoint(name for name, _ in report.too_long)
    longest = max(d.model_input.length + 1 for i in range(5) for d in dataset.get_batch(i))
    assert longest == report.longest <= limit


def test_a_batch_depends_on_its_index_alone(model_dir: str, data_dir: Path) -> None:
    dataset, _ = build(model_dir, data_dir).load()
    again, _ = build(model_dir, data_dir).load()
    again.set_epoch(7)
    assert len(dataset) == 5
    for index in (3, 0, 3):
        ours = [d.model_input.to_ints() for d in dataset.get_batch(index)]
        assert ours == [d.model_input.to_ints() for d in again.get_batch(index)]


def test_validation_datums_are_the_first_of_the_split(model_dir: str, data_dir: Path) -> None:
    builder = build(model_dir, data_dir, split="validation")
    datums, report = builder.datums(7)
    assert len(datums) == report.kept == 7
