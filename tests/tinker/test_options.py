from __future__ import annotations

import json

import pytest

from memroute_agents.tinker.options import PRESETS, RLOptions, TrainOptions, WatchOptions, preset
from memroute_env.errors import OptionError


def test_the_paper_preset_is_the_published_training() -> None:
    paper = preset("paper")
    assert paper.base_model == "meta-llama/Llama-3.1-8B"
    assert paper.lora_rank == 32
    assert (paper.sft.steps, paper.sft.batch_size) == (100, 128)
    assert paper.sft.learning_rate == 2.86e-4
    assert (paper.rl.iterations, paper.rl.groups, paper.rl.group_size) == (30, 64, 32)
    assert (paper.rl.temperature, paper.rl.max_tokens) == (0.7, 100)
    assert (paper.rl.learning_rate, paper.rl.loss) == (2e-5, "importance_sampling")
    assert (paper.watch.kl_warn, paper.watch.kl_stop) == (0.005, 0.01)


def test_the_quick_preset_samples_less_than_a_tenth_of_the_paper() -> None:
    def samples(options: TrainOptions) -> int:
        return options.rl.iterations * options.rl.groups * options.rl.group_size

    assert samples(preset("quick")) * 10 < samples(preset("paper"))


@pytest.mark.parametrize("name", PRESETS)
def test_options_survive_json(name: str) -> None:
    options = preset(name)
    assert TrainOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_changes_reach_the_parts_and_none_changes_nothing() -> None:
    changed = preset("paper").with_changes(
        {"lora_rank": 8, "rl.groups": 16, "rl.loss": None, "watch.max_tokens_total": 10**6}
    )
    assert (changed.lora_rank, changed.rl.groups) == (8, 16)
    assert changed.rl.loss == "importance_sampling"
    assert changed.watch.max_tokens_total == 10**6
    assert changed.sft == preset("paper").sft


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rl.group_size": 1}, "group_size"),
        ({"rl.loss": "dpo"}, "importance_sampling, ppo, cispo"),
        ({"rl.substeps": 3}, "64 groups"),
        ({"rl.stream_minibatches": 0}, "stream_minibatches"),
        ({"rl.stream_minibatches": 5}, "64 groups"),
        ({"rl.max_steps_off_policy": -1}, "max_steps_off_policy"),
        ({"rl.eval_every": 0}, "eval_every"),
        ({"sft.eval_examples": 0}, "eval_examples"),
        ({"watch.kl_warn": 0.5}, "kl_warn"),
        ({"watch.max_tokens_total": 0}, "max_tokens_total"),
        ({"sft.steps": 0}, "steps"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"rl.colour": 1}, "colour"),
        ({"colour": 1}, "colour"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes: dict[str, object], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        preset("paper").with_changes(changes)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match="paper, quick"):
        preset("huge")


def test_every_loss_of_the_issue_is_accepted() -> None:
    assert [RLOptions(loss=loss).loss for loss in ("importance_sampling", "ppo", "cispo")]
    assert WatchOptions(kl_warn=0.02, kl_stop=0.02).kl_stop == 0.02
