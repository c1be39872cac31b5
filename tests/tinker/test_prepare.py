from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")
pytest.importorskip("torch", reason="needs torch")
pytestmark = pytest.mark.filterwarnings("default")

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
