from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
pytest.importorskip("torch", reason="needs torch")
pytestmark = pytest.mark.filterwarnings("default")

from memroute_agents.tinker.envs import make_renderer, prompt_length  # noqa: E402
from memroute_agents.tinker.local_server.tiny_model import compose_splits  # noqa: E402
from memroute_agents.tinker.options import TrainOptions, preset  # noqa: E402
from memroute_agents.tinker.run import StageResult  # noqa: E402
from memroute_agents.tinker.train import prepare  # noqa: E402
from memroute_env.errors import DataError, MemrouteError, OptionError  # noqa: E402


@pytest.fixture
def options(model_dir: str, data_dir: Path) -> TrainOptions:
    return preset("quick").with_changes(
        {"base_model": model_dir, "renderer": "llama3", "data": str(data_dir)}
    )


def test_nothing_is_written_before_training(tmp_path: Path, options: TrainOptions) -> None:
    plan = prepare(tmp_path / "run", options)
    assert plan.stages == ("sft", "rl")
    assert plan.estimate.tokens > 0
    assert not (tmp_path / "run").exists()


def test_a_stage_that_has_begun_keeps_its_options(tmp_path: Path, options: TrainOptions) -> None:
    run = prepare(tmp_path, options).run
    run.stages["sft"] = StageResult("complete", state_path="tinker://a", sampler_path="tinker://b")
    run.save()
    changed = options.with_changes({"rl.loss": "ppo", "watch.kl_stop": 0.5, "base_url": "http://b"})
    assert prepare(tmp_path, changed, "rl").run.options == changed
    with pytest.raises(OptionError, match=r"\(sft differ\)"):
        prepare(tmp_path, options.with_changes({"sft.steps": 3}))
    run.stages["rl"] = StageResult()
    run.save()
    with pytest.raises(OptionError, match=r"\(rl differ\)"):
        prepare(tmp_path, changed, "rl")


def test_reinforcement_needs_a_supervised_state(tmp_path: Path, options: TrainOptions) -> None:
    with pytest.raises(OptionError, match="--stage sft"):
        prepare(tmp_path, options, "rl")


def test_a_cap_that_allows_no_step_is_refused(tmp_path: Path, options: TrainOptions) -> None:
    with pytest.raises(OptionError, match="--max-tokens-total 10 "):
        prepare(tmp_path, options.with_changes({"watch.max_tokens_total": 10}))


def test_a_stage_that_the_cap_kept_from_starting_keeps_no_options(
    tmp_path: Path, options: TrainOptions
) -> None:
    run = prepare(tmp_path, options).run
    run.stages["sft"] = StageResult("complete", state_path="tinker://a", sampler_path="tinker://b")
    run.stages["rl"] = StageResult("stopped", "the cap")
    run.save()
    smaller = options.with_changes({"rl.groups": 4})
    assert prepare(tmp_path, smaller).run.options == smaller
    (tmp_path / "rl").mkdir()
    with pytest.raises(OptionError, match=r"\(rl differ\)"):
        prepare(tmp_path, smaller)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_is_not_gone_on_with_on_changed_data(
    tmp_path: Path, options: TrainOptions, split: str
) -> None:
    data = compose_splits(tmp_path / "data", {"train": 12, "validation": 6})
    options = options.with_changes({"data": str(data)})
    run = prepare(tmp_path / "run", options).run
    run.save()
    lines = (data / f"{split}.jsonl").read_text().splitlines(keepends=True)
    (data / f"{split}.jsonl").write_text("".join(lines[1:]))
    assert prepare(tmp_path / "run", options).run.data != run.data, "nothing was begun"
    run.stages["sft"] = StageResult()
    run.save()
    with pytest.raises(OptionError, match=rf"data:{split} has changed .*another --out"):
        prepare(tmp_path / "run", options)


def test_reinforcement_does_not_start_from_a_stage_that_was_killed(
    tmp_path: Path, options: TrainOptions
) -> None:
    run = prepare(tmp_path, options).run
    run.stages["sft"] = StageResult("running", state_path="tinker://a", sampler_path="tinker://b")
    run.save()
    with pytest.raises(OptionError, match="--stage sft"):
        prepare(tmp_path, options, "rl")


def test_held_out_conversations_that_are_too_long_are_left_out_and_named(
    tmp_path: Path, options: TrainOptions
) -> None:
    whole = prepare(tmp_path, options)
    assert whole.notes == [] and len(whole.held_out) == 20
    renderer = make_renderer("llama3", options.base_model)
    lengths = {e.id: prompt_length(e, whole.taxonomy, renderer) for e in whole.held_out}
    limit = sorted(lengths.values())[9]
    plan = prepare(tmp_path, options.with_changes({"max_length": limit + options.rl.max_tokens}))
    assert [e.id for e in plan.held_out] == [i for i, n in lengths.items() if n <= limit]
    left_out = next(i for i, n in lengths.items() if n > limit)
    (note,) = (note for note in plan.notes if note.startswith("validation: "))
    assert f"than {limit} tokens" in note and f"{left_out} ({lengths[left_out]})" in note
    assert plan.run.data["validation"]["kept"] == len(plan.held_out)
    shortest = prepare(tmp_path, options.with_changes({"max_length": limit, "rl.max_tokens": 1}))
    assert any(f"validation: {20 - len(shortest.validation)} of 20" in n for n in shortest.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model": "/no/such/folder"}, "tokenizer of '/no/such/folder'"),
        ({"renderer": "no_such"}, "renderer 'no_such'"),
        ({"data": "/no/such/data"}, "/no/such/data"),
        ({"max_length": 64, "rl.max_tokens": 60}, "no example fits"),
    ],
)
def test_wrong_inputs_are_named(
    tmp_path: Path, options: TrainOptions, changes: dict[str, object], words: str
) -> None:
    with pytest.raises((OptionError, DataError)) as raised:
        prepare(tmp_path, options.with_changes(changes))
    assert words in str(raised.value)
    assert isinstance(raised.value, MemrouteError)
    assert "\n" not in str(raised.value)
