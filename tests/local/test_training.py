"""Training: it learns, it repeats, it resumes, and it keeps its hands off the gold sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memroute_agents.baselines import best_constant
from memroute_agents.local.features import FeatureConfig
from memroute_agents.local.objectives import Loss
from memroute_agents.local.optimise import Optimiser, Schedule
from memroute_agents.local.play import hold_out
from memroute_agents.local.policy import LocalPolicy
from memroute_agents.local.training import TrainConfig, train_policy
from memroute_data_gen.compose import compose
from memroute_env import DataError, Dataset, OptionError, Taxonomy, load_dataset, load_taxonomy
from tests.conftest import make_example
from tests.local.conftest import QUICK

SHORT = replace(QUICK, supervised=replace(QUICK.supervised, epochs=3), gradient_iterations=2)


def same_parameters(one: LocalPolicy, two: LocalPolicy) -> bool:
    pairs = zip(one.parameters.arrays().values(), two.parameters.arrays().values(), strict=True)
    equal = all(np.array_equal(a, b) for a, b in pairs)
    return equal and all(map(np.array_equal, one.calibration, two.calibration))


def measured(policy: LocalPolicy) -> dict[str, float]:
    metrics: Any = policy.metadata["metrics"]
    return metrics


def test_it_beats_the_best_constant_by_far(trained: LocalPolicy, held_out: Dataset) -> None:
    assert measured(trained)["val_reward"] > best_constant(held_out)[1] + 0.05


def test_the_default_settings_learn_from_a_few_hundred_conversations() -> None:
    few, validation = (
        Dataset(load_dataset("marketing", split)[::step], load_taxonomy("marketing"), name=split)
        for split, step in (("train", 60), ("validation", 4))
    )
    assert len(few) < 400
    measures = measured(
        train_policy(few, validation, replace(TrainConfig(), estimator="none")).policy
    )
    assert measures["val_reward"] > best_constant(validation)[1] + 0.2
    assert measures["val_exact"] > 0.2


def test_of_few_conversations_rare_words_are_kept(train: Dataset, held_out: Dataset) -> None:
    few = Dataset(train[:100], train.taxonomy, name="few")

    def columns(min_count: int) -> int:
        config = replace(SHORT, min_count=min_count)
        return len(train_policy(few, held_out, config).policy.encoder.columns)

    assert columns(1) > columns(8) == columns(2)


def test_it_fits_what_it_saw(trained: LocalPolicy, train: Dataset) -> None:
    batch = trained.encoder([example.conversation for example in train])
    decided = trained.decide(batch)
    assert (decided == train.gold_masks).mean() > 0.8


@pytest.mark.parametrize("estimator", ["none", "exact", "sampled"])
def test_equal_seeds_give_equal_parameters(
    estimator: Any, train: Dataset, held_out: Dataset
) -> None:
    config = replace(SHORT, estimator=estimator)
    one, two = (train_policy(train, held_out, config) for _ in range(2))
    assert same_parameters(one.policy, two.policy)
    assert one.metrics == two.metrics
    other = train_policy(train, held_out, replace(config, seed=1))
    assert not same_parameters(one.policy, other.policy)


def test_the_policy_gradient_never_makes_validation_worse(
    train: Dataset, held_out: Dataset
) -> None:
    before = train_policy(train, held_out, replace(SHORT, estimator="none"))
    after = train_policy(train, held_out, replace(SHORT, gradient_iterations=6))
    steps = [m["val_reward"] for m in after.metrics if m["stage"] == "policy gradient"]
    assert len(steps) == 6
    assert measured(after.policy)["val_reward"] >= measured(before.policy)["val_reward"]


def test_the_log_has_a_line_an_epoch(train: Dataset, held_out: Dataset, tmp_path: Path) -> None:
    result = train_policy(train, held_out, SHORT, out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.metrics
    assert [(m["stage"], m["step"]) for m in lines] == [
        ("supervised", 1), ("supervised", 2), ("supervised", 3),
        ("policy gradient", 1), ("policy gradient", 2),
    ]  # fmt: skip
    assert lines[2]["loss"] < lines[0]["loss"]
    assert {"val_reward", "val_f1", "val_exact", "val_loss", "entropy", "kl"} <= lines[0].keys()
    meta: Any = result.policy.metadata
    assert meta["train"][0]["sha256"] == train.sha256
    assert meta["validation"]["sha256"] == held_out.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "policy.npz"]


# Resuming -----------------------------------------------------------------------------------------


class Stop(Exception):
    """Stands for Ctrl-C at a chosen moment."""


def stop_at(stage: str, step: int) -> Callable[[str, int, int], None]:
    def report(at: str, done: int, planned: int) -> None:
        if (at, done) == (stage, step):
            raise Stop

    return report


SCRATCH = replace(QUICK, from_scratch=True, scratch_epochs=3)


@pytest.mark.parametrize(
    ("config", "stage", "step"),
    [
        (SHORT, "supervised", 0),
        (SHORT, "supervised", 1),
        (SHORT, "supervised", 2),
        (SHORT, "supervised", 3),
        (SHORT, "policy gradient", 1),
        (SHORT, "policy gradient", 2),
        pytest.param(
            SCRATCH,
            "from scratch",
            2,
        ),
    ],
)
def test_resuming_gives_what_an_uninterrupted_run_gives(
    config: TrainConfig, stage: str, step: int, train: Dataset, held_out: Dataset, tmp_path: Path
) -> None:
    whole = train_policy(train, held_out, config, out=tmp_path / "whole")
    with pytest.raises(Stop):
        train_policy(train, held_out, config, out=tmp_path / "cut", report=stop_at(stage, step))
    assert not (tmp_path / "cut" / "policy.npz").exists()
    again = train_policy(train, held_out, config, out=tmp_path / "cut", resume=True)
    assert same_parameters(whole.policy, again.policy)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_resuming_with_other_data_or_settings_is_refused(
    train: Dataset, held_out: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        train_policy(train, held_out, SHORT, out=tmp_path, report=stop_at("supervised", 2))
    for changed in (
        (held_out, held_out, SHORT),
        (train, train, SHORT),
        (train, held_out, replace(SHORT, seed=9)),
    ):
        with pytest.raises(DataError, match="state.npz: was saved by a run with other data"):
            train_policy(*changed, out=tmp_path, resume=True)


def test_resuming_from_another_start_is_refused(
    train: Dataset, held_out: Dataset, trained: LocalPolicy, tmp_path: Path
) -> None:
    stop = stop_at("supervised", 2)
    with pytest.raises(Stop):
        train_policy(train, held_out, SHORT, out=tmp_path, report=stop, warm_start=trained)
    other = replace(trained, pooling=0.9)
    with pytest.raises(DataError, match="state.npz"):
        train_policy(train, held_out, SHORT, out=tmp_path, resume=True, warm_start=other)


def test_without_resume_a_run_starts_anew(
    train: Dataset, held_out: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        train_policy(train, held_out, SHORT, out=tmp_path, report=stop_at("supervised", 2))
    result = train_policy(train, held_out, SHORT, out=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(result.metrics) == 5


def test_resuming_a_finished_run_does_not_double_its_log(
    train: Dataset, held_out: Dataset, tmp_path: Path
) -> None:
    for resume in (False, True):
        train_policy(train, held_out, SHORT, out=tmp_path, resume=resume)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


# From rewards alone -------------------------------------------------------------------------------


def test_from_scratch_learns_from_rewards(train: Dataset, held_out: Dataset) -> None:
    config = replace(SCRATCH, scratch_epochs=16, group_size=16)
    result = train_policy(train, held_out, config)
    rewards = [m["reward"] for m in result.metrics]
    assert rewards[-1] > rewards[0] + 0.03


def test_from_scratch_never_touches_a_gold_set(
    train: Dataset, held_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gold sets that no reward depends on change nothing: the environment is all that pays."""
    from memroute_agents.local import training

    class Constant:
        """Pays by the answer alone, whatever the gold set."""

        def __init__(self, examples: Any, family: Any) -> None:
            self.paid = np.random.default_rng(0).random(len(family))

        def __call__(self, chosen: np.ndarray, answers: np.ndarray) -> np.ndarray:
            return self.paid[answers]

    monkeypatch.setattr(training, "EnvironmentPlay", Constant)
    ids = train.taxonomy.ids
    masks = np.random.default_rng(1).permutation(train.gold_masks)
    lied = [
        e.model_copy(
            update={
                "labels": e.labels.model_copy(update={"categories": ids(int(m)), "evidence": {}})
            }
        )
        for e, m in zip(train, masks, strict=True)
    ]
    liars = Dataset(lied, train.taxonomy)
    assert (liars.gold_masks != train.gold_masks).mean() > 0.5
    one, two = (train_policy(data, held_out, SCRATCH).policy for data in (train, liars))
    assert same_parameters(one, two)


# Data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_fresh_conversations_reach_the_policy_gradient_alone(
    estimator: Any, train: Dataset, held_out: Dataset
) -> None:
    """Other labels of the fresh conversations change the policy gradient and nothing before it."""
    config = replace(SHORT, estimator=estimator)
    fresh = Dataset(list(compose(40, seed=9)), train.taxonomy)
    others = [
        e.model_copy(
            update={"labels": e.labels.model_copy(update={"categories": ("none",), "evidence": {}})}
        )
        for e in fresh
    ]
    one, two = (
        train_policy(train, held_out, config, fresh=data).metrics
        for data in (fresh, Dataset(others, train.taxonomy))
    )
    supervised = config.supervised.epochs
    assert one[:supervised] == two[:supervised]
    assert [m["reward"] for m in one[supervised:]] != [m["reward"] for m in two[supervised:]]


def test_a_warm_start_goes_on_from_the_checkpoint(
    train: Dataset, held_out: Dataset, trained: LocalPolicy
) -> None:
    before = {k: v.copy() for k, v in trained.parameters.arrays().items()}
    still = replace(SHORT, supervised=Schedule(epochs=0, rate=1.0), estimator="none")
    same = train_policy(train, held_out, still, warm_start=trained)
    assert same_parameters(same.policy, trained)
    train_policy(train, held_out, SHORT, warm_start=trained)
    for name, array in trained.parameters.arrays().items():
        assert np.array_equal(array, before[name])


def test_a_warm_start_keeps_the_features_of_its_checkpoint(
    train: Dataset, held_out: Dataset, trained: LocalPolicy
) -> None:
    still = replace(SHORT, supervised=Schedule(epochs=0, rate=1.0), estimator="none")
    other = replace(still, features=FeatureConfig(word_orders=(1,), bits=17))
    same = train_policy(train, held_out, other, warm_start=trained).policy
    assert same.encoder.config == trained.encoder.config
    learnt = replace(SHORT, features=other.features)
    assert same_parameters(
        train_policy(train, held_out, learnt, warm_start=trained).policy,
        train_policy(train, held_out, SHORT, warm_start=trained).policy,
    )


def test_what_would_not_be_done_is_refused(train: Dataset, held_out: Dataset) -> None:
    for config in (replace(SHORT, estimator="none"), replace(SHORT, from_scratch=True)):
        with pytest.raises(OptionError, match="fresh conversations"):
            train_policy(train, held_out, config, fresh=held_out)


def test_the_policy_gradients_steps_shrink_over_its_iterations(
    train: Dataset, held_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[tuple[int, int]] = []
    step = Optimiser.step

    def watched(self: Optimiser, *rest: Any) -> Loss:
        planned.append((self.epochs, self.steps_per_epoch))
        return step(self, *rest)

    still = Schedule(epochs=0, rate=1.0)
    many = replace(SHORT, supervised=still, gradient_iterations=50, groups=32, max_kl=9.0)
    monkeypatch.setattr(Optimiser, "step", watched)
    train_policy(train, held_out, many)
    assert len(planned) == 50
    epochs, steps = planned[0]
    assert 50 <= epochs * steps < 50 + steps


def test_all_data_of_a_run_need_one_taxonomy(
    train: Dataset, held_out: Dataset, support: Taxonomy
) -> None:
    shop = Dataset([make_example("a", ["shop.policy"])], support)
    with pytest.raises(DataError, match="'support'.*'marketing'.*one taxonomy"):
        train_policy([train, shop], held_out)
    with pytest.raises(DataError, match="one taxonomy"):
        train_policy(train, shop)


def test_it_trains_on_another_taxonomy(support: Taxonomy) -> None:
    words = {"customer.address": "street", "shop.policy": "refund", "nothing": "thanks"}
    examples = [
        make_example(f"{c}{i}", [c], f"about the {word} number {i} please", "ok", "fine")
        for c, word in words.items()
        for i in range(20)
    ]
    data = Dataset(examples, support)
    policy = train_policy(data, data, replace(QUICK, estimator="none")).policy
    assert measured(policy)["val_exact"] == 1.0


def test_holding_out_keeps_equal_conversations_together(train: Dataset) -> None:
    twins = [e.model_copy(update={"id": f"twin-{e.id}"}) for e in train]
    doubled = Dataset([*train, *twins], train.taxonomy)
    (kept,), aside = hold_out([doubled], 0.2)
    texts = [{e.conversation.to_text() for e in part} for part in (kept, aside)]
    assert not texts[0] & texts[1]
    assert len(kept) + len(aside) == len(doubled)
    assert 0.1 < len(aside) / len(doubled) < 0.3
    with pytest.raises(DataError, match="too few to set 10% aside.*--validation"):
        hold_out([Dataset(train[:1], train.taxonomy)])
