from __future__ import annotations

import pytest

from memroute_agents.tinker.estimate import PRICES, Prices, estimate
from memroute_agents.tinker.lengths import LengthReport, keep_short
from memroute_agents.tinker.options import preset
from memroute_env.conversation import Example
from memroute_env.errors import DataError

PROMPTS = LengthReport(4096, 2000, 2000 * 700, 900)
EXAMPLES = LengthReport(4096, 2000, 2000 * 710, 915)


def test_the_paper_costs_what_its_numbers_multiply_to() -> None:
    found = estimate(preset("paper"), ("sft", "rl"), PROMPTS, EXAMPLES)
    sft, rl = found.stages
    assert sft.train_tokens == 100 * 128 * 710
    assert sft.prefill_tokens == 11 * 256 * 710
    samples, played = 30 * 64 * 32, 7 * 200
    assert rl.prefill_tokens == (samples + played) * 700
    assert rl.sample_tokens == (samples + played) * 10
    assert rl.train_tokens == samples * 710
    prices = PRICES["meta-llama/Llama-3.1-8B"]
    assert rl.dollars(prices) == pytest.approx(
        (rl.prefill_tokens * 0.13 + rl.sample_tokens * 0.4 + rl.train_tokens * 0.4) / 1e6
    )


def test_a_first_step_is_counted_with_the_evaluation_before_it() -> None:
    sft, rl = estimate(preset("paper"), ("sft", "rl"), PROMPTS, EXAMPLES).stages
    assert sft.first_step_tokens == (256 + 128) * 710
    assert rl.first_step_tokens == (200 + 2 * 64 * 32) * (700 + 100)
    sft, rl = estimate(preset("paper"), ("sft", "rl"), PROMPTS, EXAMPLES, held_out=50).stages
    assert sft.first_step_tokens == (50 + 128) * 710
    assert rl.first_step_tokens == (50 + 2 * 64 * 32) * (700 + 100)


def test_a_kl_penalty_reads_every_answer_once_more() -> None:
    plain = estimate(preset("paper"), ("rl",), PROMPTS, EXAMPLES).stages[0]
    options = preset("paper").with_changes({"rl.kl_penalty": 0.1})
    found = estimate(options, ("rl",), PROMPTS, EXAMPLES).stages[0]
    assert found.prefill_tokens == plain.prefill_tokens + 30 * 64 * 32 * 710


def test_the_paper_takes_as_long_as_the_published_run() -> None:
    sft, rl = estimate(preset("paper"), ("sft", "rl"), PROMPTS, EXAMPLES).stages
    assert sft.seconds == pytest.approx(17 * 60)
    assert rl.seconds == pytest.approx(3.2 * 3600)


def test_a_model_without_a_known_price_says_so_and_takes_one() -> None:
    options = preset("paper").with_changes({"base_model": "me/mine"})
    assert "--price" in estimate(options, ("rl",), PROMPTS, EXAMPLES).lines()[-1]
    priced = estimate(options, ("rl",), PROMPTS, EXAMPLES, Prices(1, 1, 1))
    assert f"{priced.tokens / 1e6:,.2f}" in priced.lines()[-1]


def test_examples_that_are_too_long_are_counted_and_named(examples: list[Example]) -> None:
    lengths = {example.id: 10 + i for i, example in enumerate(examples)}
    kept, report = keep_short(examples, lambda e: lengths[e.id], 12)
    assert [example.id for example in kept] == [example.id for example in examples[:3]]
    assert (report.kept, report.tokens, report.longest) == (3, 33, 12)
    assert report.too_long == tuple((e.id, lengths[e.id]) for e in examples[3:])
    sentence = report.sentence()
    assert f"{len(examples) - 3} of {len(examples)}" in sentence and examples[3].id in sentence
    with pytest.raises(DataError, match="shortest has 10"):
        keep_short(examples, lambda e: lengths[e.id], 5)
