"""`memroute data teach`."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from memroute_agents.calls import Price
from memroute_agents.cohere import DEFAULT_MODEL, PRICES, open_model
from memroute_data_gen.teacher.display import live, show_estimate, summary
from memroute_data_gen.teacher.estimate import estimate
from memroute_data_gen.teacher.files import Lock
from memroute_data_gen.teacher.ledger import journal_path, refuse_existing
from memroute_data_gen.teacher.pipeline import TeacherConfig, TeacherRun
from memroute_env.conversation import Example, iter_examples
from memroute_env.datasets import load_dataset
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["teach"]


def teach(
    num: Annotated[
        int, typer.Option(min=1, help="Examples wanted, those of earlier runs included.")
    ],
    out: Annotated[
        Path, typer.Option(help="JSONL file to append to; two side files lie beside it.")
    ],
    model: Annotated[str, typer.Option(help="Cohere model.")] = DEFAULT_MODEL,
    concurrency: Annotated[int, typer.Option(min=1, max=512, help="Most calls in flight.")] = 16,
    resume: Annotated[bool, typer.Option(help="Go on with an existing file.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Estimate calls, cost and time; spend nothing.")
    ] = False,
    blind: Annotated[
        bool, typer.Option(help="Label each conversation once more, blind; drop on disagreement.")
    ] = False,
    blind_model: Annotated[
        str, typer.Option(help="Model of the blind pass; default: the same.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the plan.")] = 0,
    taxonomy: Annotated[str, typer.Option(help="Shipped name or TOML file.")] = "marketing",
    avoid: Annotated[
        list[str] | None,
        typer.Option(help="Dataset (name or path) that no example may resemble; may be repeated."),
    ] = None,
    base_url: Annotated[str, typer.Option(help="Another endpoint; default: CO_API_URL.")] = "",
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds until a call is repeated.")
    ] = 120.0,
    attempts: Annotated[int, typer.Option(min=1, help="Most tries of one call.")] = 8,
    max_draws: Annotated[
        int, typer.Option(min=1, help="Most draws for one example in a run.")
    ] = 10,
    input_price: Annotated[float, typer.Option(help="USD for a million input tokens.")] = -1.0,
    output_price: Annotated[float, typer.Option(help="USD for a million output tokens.")] = -1.0,
) -> None:
    """Have a Cohere model write labelled conversations: balanced, deduplicated, resumable.

    The key comes from COHERE_API_KEY or a .env file; it is never printed or stored.
    """
    console = Console(stderr=True)
    chosen = load_taxonomy(taxonomy)
    prices = dict(PRICES)
    if input_price >= 0 and output_price >= 0:
        prices[model] = Price(input_price, output_price)
    config = TeacherConfig(
        num=num,
        out=out,
        model=model,
        seed=seed,
        blind_model=(blind_model or model) if blind or blind_model else "",
        concurrency=concurrency,
        max_draws=max_draws,
        attempts=attempts,
    )
    if dry_run:
        done = {example.id for example in _existing(out, chosen)} if resume else set()
        figures = estimate(
            [index for index in range(num) if f"teacher-{seed}-{index}" not in done],
            chosen,
            seed=seed,
            model=model,
            concurrency=concurrency,
            price=prices.get(model),
            blind=bool(config.blind_model),
            blind_price=prices.get(config.blind_model),
        )
        show_estimate(Console(), figures, model)
        return
    if not resume:
        refuse_existing(out)
    others = [example for name in avoid or () for example in load_dataset(name, None, chosen)]
    with Lock(journal_path(out)):
        asyncio.run(_teach(config, chosen, others, base_url, timeout, prices, console))


def _existing(out: Path, taxonomy: Taxonomy) -> list[Example]:
    return list(iter_examples(out, taxonomy)) if out.exists() else []


async def _teach(
    config: TeacherConfig,
    taxonomy: Taxonomy,
    avoid: list[Example],
    base_url: str,
    timeout: float,
    prices: dict[str, Price],
    console: Console,
) -> None:
    model = open_model(base_url, timeout_s=timeout, concurrency=config.concurrency)
    with live(console, config.num, prices) as display:
        run = TeacherRun(config, taxonomy, model, avoid=avoid, report=display)
        loop = asyncio.get_running_loop()
        # The first signal lets calls in flight finish, so that they are kept; a second one kills.
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, _stop, run, loop, number)
        display(run)
        try:
            await run.run()
        finally:
            await model.close()
            if run.ledger.spent["calls"]:
                said = summary(run.ledger, run.caller.retries, prices)
                console.print(said, highlight=False, markup=False, soft_wrap=True)


def _stop(run: TeacherRun, loop: asyncio.AbstractEventLoop, number: int) -> None:
    run.stop()
    loop.remove_signal_handler(number)
