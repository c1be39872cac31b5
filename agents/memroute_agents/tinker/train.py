"""The two stages of a run, driven by the cookbook's own loops.

`sft` is `tinker_cookbook.supervised.train`, `rl` is `tinker_cookbook.rl.train` from the supervised
*state*. Ours are the data, the evaluators, the guard and what is kept in `run.json`. A run that was
killed or stopped goes on where its last checkpoint is when `train` is called on its folder again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from memroute_agents.tinker import require
from memroute_agents.tinker.options import TrainOptions
from memroute_agents.tinker.run import STAGES, Run, StageResult, repair
from memroute_agents.tinker.service import check_model, connect, in_one_line
from memroute_env.errors import DataError, MissingDependencyError, OptionError

__all__ = ["Plan", "prepare", "resolve_renderer", "train"]

Say = Callable[[str], None]
LIBRARIES = ("memroute-env", "tinker", "tinker-cookbook", "transformers", "torch")
MAY_CHANGE = ("base_url", "watch")
"""Options that may differ when a run is taken up again; so may those of a stage not begun."""


def resolve_renderer(options: TrainOptions) -> str:
    """The chat renderer's name: given, or recommended for the model.

    Raises:
        OptionError: If none is given and the cookbook does not know the model.
    """
    if options.renderer:
        return options.renderer
    model_info = require("tinker_cookbook.model_info")
    try:
        return str(model_info.get_recommended_renderer_name(options.base_model))
    except Exception as error:
        raise OptionError(
            f"no chat renderer is known for {options.base_model!r}; name one with --renderer "
            "(llama3, qwen3, role_colon, …)"
        ) from error


class Plan:
    """A run that is ready to start: its data is read, nothing has been sent.

    Attributes:
        run: The run.
        stages: What will be done, in order.
        estimate: Tokens, cost, time.
        validation: Datums whose loss is measured.
        held_out: Held-out conversations whose prompts are short enough, in order.
        taxonomy: The data's.
        notes: What the user should know: examples that are too long.
    """

    def __init__(self, run: Run, stages: tuple[str, ...], prices: Any = None) -> None:
        """Read the data and estimate; see `prepare`."""
        from memroute_agents.tinker.envs import (
            RoutingDatasetBuilder,
            fitting,
            load_split,
            prompt_length,
        )
        from memroute_agents.tinker.estimate import estimate
        from memroute_agents.tinker.supervised import RoutingSupervisedBuilder

        self.run, self.stages = run, stages
        options = run.options
        common: dict[str, Any] = {
            "model_name": options.base_model,
            "renderer_name": run.renderer,
            "data": options.data,
            "taxonomy": options.taxonomy,
            "seed": options.seed,
        }
        self.sft_data = RoutingSupervisedBuilder(
            **common,
            steps=options.sft.steps,
            batch_size=options.sft.batch_size,
            max_length=options.max_length,
        )
        validation_data = RoutingSupervisedBuilder(
            **common, split=options.eval_split, max_length=options.max_length
        )
        self.rl_data = RoutingDatasetBuilder(
            **common,
            iterations=options.rl.iterations,
            groups=options.rl.groups,
            group_size=options.rl.group_size,
            max_prompt_tokens=options.max_length - options.rl.max_tokens,
        )
        train_data = load_split(options.data, "train", options.taxonomy)
        held_out = load_split(options.data, options.eval_split, options.taxonomy)
        data: dict[str, Any] = {
            "name": options.data,
            "taxonomy": train_data.taxonomy.name,
            "train": {"examples": len(train_data), "sha256": train_data.sha256},
            options.eval_split: {"examples": len(held_out), "sha256": held_out.sha256},
        }
        if run.begun():
            _check_same_data(run, data)
        run.data = data

        _, examples = self.sft_data.load()
        _, prompts = self.rl_data.load()
        self.validation, measured = validation_data.datums(options.sft.eval_examples)
        source = options.data, options.eval_split, options.taxonomy, run.renderer
        self.held_out, self.taxonomy, played = fitting(
            (*source, options.base_model), prompt_length, self.rl_data.max_prompt_tokens
        )
        data["too_long"] = [name for name, _ in examples.too_long]
        data[options.eval_split]["kept"] = played.kept
        self.estimate = estimate(options, stages, prompts, examples, prices, played.kept)
        reports = (
            *(("train", report) for report in (examples, prompts)),
            *((options.eval_split, report) for report in (measured, played)),
        )
        sentences = (
            f"{split}: {report.sentence()}" for split, report in reports if report.too_long
        )
        self.notes = list(dict.fromkeys(sentences))


def prepare(
    run_dir: str | os.PathLike[str],
    options: TrainOptions,
    stage: str = "all",
    prices: Any = None,
) -> Plan:
    """Read data and estimate; nothing is sent, and nothing written.

    Args:
        run_dir: The run's folder: a new one, or one to go on with.
        options: The run's. Going on, only `base_url`, `watch` and the options of a stage that has
            not begun may have changed.
        stage: `sft`, `rl` or `all`.
        prices: See `estimate`.

    Raises:
        OptionError: If the run was begun with other options or on other data, `rl` has no
            supervised state to start from, or the token cap does not allow a single step.
        MissingDependencyError: Without tinker and tinker-cookbook.
    """
    if stage not in ("sft", "rl", "all"):
        raise OptionError(f"stage {stage!r} is not one of sft, rl, all")
    if not sys.stderr.isatty():
        # Read when tqdm is imported: progress bars in a log file are noise.
        os.environ.setdefault("TQDM_DISABLE", "1")
    for module in ("tinker", "tinker_cookbook", "torch", "transformers"):
        require(module)
    stages = ("sft", "rl") if stage == "all" else (stage,)
    path = Path(run_dir)
    if (path / "run.json").is_file():
        run = Run.open(path)
        _check_same(run, options)
        run.options = options
    else:
        run = Run(path, options, resolve_renderer(options))
    before = run.stages.get("sft") or StageResult()
    if stage == "rl" and (before.status == "running" or not before.state_path):
        raise OptionError(
            f"{path}: there is no supervised state for RL to start from; run --stage sft (or all) "
            "on this folder first"
        )
    plan = Plan(run, stages, prices)
    cap, first = options.watch.max_tokens_total, plan.estimate.stages[0].first_step_tokens
    if cap is not None and cap < first:
        raise OptionError(
            f"--max-tokens-total {cap:,} does not allow a single step, which may take about "
            f"{first:,} tokens; raise it, or make batches smaller"
        )
    run.versions = dict(_versions())
    return plan


def _check_same(run: Run, options: TrainOptions) -> None:
    before, after = run.options.to_dict(), options.to_dict()
    free = {*MAY_CHANGE, *STAGES} - run.begun()
    changed = [k for k in before if before[k] != after[k] and k not in free]
    if changed:
        raise OptionError(
            f"{run.path}: was begun with other options ({', '.join(changed)} differ); give the "
            "same, or a new folder"
        )


def _check_same_data(run: Run, data: Mapping[str, Any]) -> None:
    for split in ("train", run.options.eval_split):
        before, after = run.data[split]["sha256"], data[split]["sha256"]
        if before != after:
            raise OptionError(
                f"{run.path}: was begun on other data: {data['name']}:{split} has changed since "
                f"(SHA-256 {before[:12]}, now {after[:12]}); put it back, or give another --out"
            )


def _versions() -> Iterator[tuple[str, str]]:
    for library in LIBRARIES:
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue


def train(plan: Plan, say: Say = print, *, verbose: bool = False) -> Mapping[str, StageResult]:
    """Run the plan's stages; each ends complete, or stopped with a checkpoint and a reason.

    A first Ctrl-C (or SIGTERM) stops after the step in progress, with a checkpoint; a second one at
    once.

    Args:
        plan: From `prepare`.
        say: Told how it goes, a line at a time.
        verbose: Let the cookbook print its own tables too.

    Returns:
        The run's stages.

    Raises:
        AgentError: If the server is not there, or refuses or fails on the way.
        OptionError: If the server does not have the model, or a key is missing.
    """
    options = plan.run.options
    waiting = [name for name in plan.stages if not plan.run.is_complete(name)]
    if waiting:
        check_model(connect(options.base_url), options.base_model, options.base_url)
    from memroute_agents.tinker import stages
    from memroute_agents.tinker.curves import draw_curves
    from memroute_agents.tinker.guard import Guard

    plan.run.save()
    for expected in plan.estimate.stages:
        stage = expected.name
        if stage not in waiting:
            say(f"{stage}: already complete")
            continue
        log_path = plan.run.stage_dir(stage)
        repair(log_path)
        guard = Guard(
            log_path,
            options.watch,
            say,
            options.sft.steps if stage == "sft" else options.rl.iterations,
            submit_ahead=options.sft.submit_ahead if stage == "sft" else 0,
            tokens=plan.run.tokens(),
            readings=options.rl.readings,
            verbose=verbose,
        )
        work = stages.run_sft if stage == "sft" else stages.run_rl
        if reason := guard.cap(expected.first_step_tokens):
            result = stages.stage_result(guard, "stopped", reason)
        else:
            with _stop_on_signal(guard, say), in_one_line(f"{stage} broke off"):
                result = asyncio.run(work(plan, guard))
        plan.run.stages[stage] = result
        plan.run.save()
        say(f"{stage}: {result.status}{': ' + result.reason if result.reason else ''}")
        try:
            draw_curves(plan.run.path)
        except (MissingDependencyError, DataError) as error:
            say(f"no picture of the curves: {error}")
        if result.status != "complete":
            break
    return plan.run.stages


@contextmanager
def _stop_on_signal(guard: Any, say: Say) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handler(number: int, _: Any) -> None:
        if guard.requested:
            raise KeyboardInterrupt
        guard.requested = f"interrupted ({signal.Signals(number).name})"
        say("stopping after this step, with a checkpoint; once more to stop at once")

    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
