"""`memroute data teach`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memroute_env.cli_support import fail_cleanly

__all__ = ["teach"]


def teach(
    num: Annotated[int, typer.Option(min=1, help="Examples, those of earlier runs included.")],
    out: Annotated[Path, typer.Option(help="JSONL file to append to; side files lie beside it.")],
    model: Annotated[
        str | None, typer.Option(help="Cohere model; default: command-a-03-2025.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=512, help="Most calls in flight.")] = 16,
    resume: Annotated[bool, typer.Option(help="Go on with an existing file.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Estimate calls, cost and time; spend nothing.")
    ] = False,
    blind: Annotated[
        bool, typer.Option(help="Label each conversation once more, blind; drop on disagreement.")
    ] = False,
    blind_model: Annotated[
        str, typer.Option(help="Model of the blind pass (implies --blind); default: the same.")
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
    with fail_cleanly("interrupted; nothing is lost: go on with --resume"):
        from memroute_agents.calls import Price
        from memroute_agents.cohere import DEFAULT_MODEL, PRICES
        from memroute_data_gen.teacher.command import dry_run as estimate_only
        from memroute_data_gen.teacher.command import teach as run
        from memroute_data_gen.teacher.pipeline import TeacherConfig
        from memroute_env.taxonomy import load_taxonomy

        model = model or DEFAULT_MODEL
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
        chosen = load_taxonomy(taxonomy)
        if dry_run:
            estimate_only(config, chosen, prices, resume=resume)
        else:
            run(
                config,
                chosen,
                prices,
                resume=resume,
                avoid=avoid or (),
                base_url=base_url,
                timeout_s=timeout,
            )
