"""`memroute train tinker` and `memroute publish`, and the curves that `memroute report` draws."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memroute_agents.tinker.run import report_data
from memroute_env.cli_support import EXIT_INTERRUPTED, fail_cleanly, note

__all__ = ["publish", "report_data", "train_tinker"]


def train_tinker(
    out: Annotated[Path, typer.Option(help="The run's folder; an old one is gone on with.")],
    stage: Annotated[str, typer.Option(help="sft, rl, or all.")] = "all",
    preset: Annotated[str, typer.Option(help="paper or quick; what other options do not say.")] = (
        "paper"
    ),
    base_model: Annotated[str | None, typer.Option(help="Hub name or folder of the model.")] = None,
    renderer: Annotated[str | None, typer.Option(help="tinker-cookbook's chat renderer.")] = None,
    base_url: Annotated[str | None, typer.Option(help="A server of your own.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Shipped name, or folder with train and validation.")
    ] = None,
    taxonomy: Annotated[str | None, typer.Option(help="Taxonomy of the data.")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest prompt and answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the data.")] = None,
    sft_steps: Annotated[int | None, typer.Option(help="Supervised optimizer steps.")] = None,
    sft_batch_size: Annotated[int | None, typer.Option(help="Conversations a step.")] = None,
    sft_learning_rate: Annotated[
        float | None, typer.Option(help="At the start; falls linearly.")
    ] = None,
    sft_eval_every: Annotated[
        int | None, typer.Option(help="Steps between validation losses.")
    ] = None,
    sft_patience: Annotated[
        int | None, typer.Option(help="Early stopping: measurements; 0: never.")
    ] = None,
    submit_ahead: Annotated[
        int | None, typer.Option(help="Supervised batches sent ahead of the awaited one.")
    ] = None,
    rl_iterations: Annotated[
        int | None, typer.Option(help="Rounds of sampling and training.")
    ] = None,
    rl_groups: Annotated[int | None, typer.Option(help="Conversations an iteration.")] = None,
    rl_group_size: Annotated[int | None, typer.Option(help="Answers to each of them.")] = None,
    rl_learning_rate: Annotated[float | None, typer.Option(help="Constant.")] = None,
    loss: Annotated[str | None, typer.Option(help="importance_sampling, ppo or cispo.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the sampled answers.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="New tokens an answer may have.")] = None,
    kl_penalty: Annotated[
        float | None, typer.Option(help="Coefficient of the KL to the supervised policy.")
    ] = None,
    substeps: Annotated[int | None, typer.Option(help="Optimizer steps an iteration.")] = None,
    max_steps_off_policy: Annotated[
        int | None, typer.Option(help="Train asynchronously on samples up to this old.")
    ] = None,
    stream_minibatches: Annotated[
        int | None, typer.Option(help="Train on minibatches as they are sampled.")
    ] = None,
    rl_eval_every: Annotated[
        int | None, typer.Option(help="Iterations between evaluations.")
    ] = None,
    eval_examples: Annotated[int | None, typer.Option(help="Held-out conversations.")] = None,
    eval_temperature: Annotated[
        float | None, typer.Option(help="0 evaluates the likeliest answer.")
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    kl_warn: Annotated[float | None, typer.Option(help="KL above which a warning is given.")] = (
        None
    ),
    kl_stop: Annotated[float | None, typer.Option(help="KL above which the run is stopped.")] = (
        None
    ),
    kl_patience: Annotated[int | None, typer.Option(help="Iterations in a row above it.")] = None,
    max_tokens_total: Annotated[
        int | None, typer.Option(help="Stop, with a checkpoint, before using more tokens.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="US$ for a million tokens: READ,SAMPLE,TRAIN.")
    ] = None,
    estimate_only: Annotated[
        bool, typer.Option("--estimate", help="Say what it will take; send nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before starting.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="The cookbook's tables too.")] = False,
) -> None:
    """Train a language model with LoRA: supervised, then on the environment's reward.

    On Tinker's service (TINKER_API_KEY) or any server that speaks its API (--base-url). The same
    command on the same folder goes on after a stop or a kill.

    Example: `memroute train tinker --out runs/llama --preset quick --max-tokens-total 5000000`
    """
    changes: dict[str, Any] = {
        "base_model": base_model,
        "renderer": renderer,
        "base_url": base_url,
        "data": data,
        "taxonomy": taxonomy,
        "lora_rank": lora_rank,
        "max_length": max_length,
        "seed": seed,
        "sft.steps": sft_steps,
        "sft.batch_size": sft_batch_size,
        "sft.learning_rate": sft_learning_rate,
        "sft.eval_every": sft_eval_every,
        "sft.patience": sft_patience,
        "sft.submit_ahead": submit_ahead,
        "sft.save_every": save_every,
        "rl.iterations": rl_iterations,
        "rl.groups": rl_groups,
        "rl.group_size": rl_group_size,
        "rl.learning_rate": rl_learning_rate,
        "rl.loss": loss,
        "rl.temperature": temperature,
        "rl.max_tokens": max_tokens,
        "rl.kl_penalty": kl_penalty,
        "rl.substeps": substeps,
        "rl.max_steps_off_policy": max_steps_off_policy,
        "rl.stream_minibatches": stream_minibatches,
        "rl.eval_every": rl_eval_every,
        "rl.eval_examples": eval_examples,
        "rl.eval_temperature": eval_temperature,
        "rl.save_every": save_every,
        "watch.kl_warn": kl_warn,
        "watch.kl_stop": kl_stop,
        "watch.kl_patience": kl_patience,
        "watch.max_tokens_total": max_tokens_total,
    }
    with fail_cleanly(f"interrupted at once; the same command goes on from {out}"):
        from memroute_agents.tinker import options
        from memroute_agents.tinker.run import Run
        from memroute_agents.tinker.service import look
        from memroute_agents.tinker.train import prepare, train

        # A run that has begun brings its own options; a preset is only what a new one starts from.
        begun = (out / "run.json").is_file()
        start = Run.open(out).options if begun else options.preset(preset)
        wanted = start.with_changes(changes)
        if not estimate_only:
            look(wanted.base_url)  # a dead server is found before tokenizers are fetched
        plan = prepare(out, wanted, stage, _prices(price))
        for line in (*plan.notes, *plan.estimate.lines()):
            note(line)
        if estimate_only:
            return
        if not yes and not typer.confirm("Start?", default=True, err=True):
            raise SystemExit(EXIT_INTERRUPTED)
        results = train(plan, note, verbose=verbose)
        stopped = [name for name, result in results.items() if result.status == "stopped"]
        if stopped:
            note(f"the same command goes on with {stopped[0]}; play what there is as tinker:{out}")
            raise SystemExit(EXIT_INTERRUPTED)
        note(f"done: play it as tinker:{out}, look at it with 'memroute report {out}'")


def _prices(text: str | None) -> Any:
    if text is None:
        return None
    from memroute_agents.tinker.estimate import Prices
    from memroute_env.errors import OptionError

    try:
        read, sample, train = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(
            f"--price {text!r}: three numbers are needed, READ,SAMPLE,TRAIN in US$ a million"
        ) from None
    return Prices(read, sample, train)


def publish(
    run: Annotated[Path, typer.Argument(help="Folder of a run of 'memroute train tinker'.")],
    repo: Annotated[str, typer.Option(help="Repository on the hub: name/model.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder; upload nothing.")
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="The repository is public.")] = False,
    base_url: Annotated[str | None, typer.Option(help="The server that has the weights.")] = None,
) -> None:
    """Publish a run's adapter with a model card: measured table, config, hash of the data.

    Example: `memroute publish runs/llama --repo me/memory-router --dry-run`
    """
    with fail_cleanly():
        from memroute_agents.tinker.publish import publish_run

        place = publish_run(run, repo, dry_run=dry_run, private=not public, base_url=base_url)
        note(f"{'written' if dry_run else 'published'}: {place}")
