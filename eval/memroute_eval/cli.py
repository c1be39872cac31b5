"""The command `memroute`: each package owns its subcommands, this module only mounts them.

`eval`, `score` and `demo` live here because they belong to the evaluation.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from memroute_agents.cli import publish, route, train_app
from memroute_data_gen.cli import app as data_app
from memroute_env.cli import envs
from memroute_env.cli_support import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    cleanly,
    fail_cleanly,
    note,
    progress_bar,
)
from memroute_eval.report_cli import compare, leaderboard, report

app = typer.Typer(
    name="memroute",
    help="Decide what an assistant should remember: environment, agents, data, evaluation.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.command(epilog="Example: `memroute envs`")(envs)
app.command(
    epilog='Example: `echo "USER: keep it short with me, always" | memroute route --agent local`'
)(route)
app.command(epilog="Example: `memroute publish runs/llama --repo me/router --dry-run`")(publish)
app.command(epilog="Example: `memroute report runs/demo --out report.html --plots plots`")(
    cleanly(report)
)
app.command(epilog="Example: `memroute compare a.json b.json`")(cleanly(compare))
app.command(epilog="Example: `memroute leaderboard runs`")(cleanly(leaderboard))

Parse = Annotated[str, typer.Option(help="How text answers are read: strict or lenient.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the results here.")]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write an HTML report here.")]


@app.command(
    "eval",
    epilog="Example: `memroute eval --agent local --agent keyword --data marketing:test "
    "--json out.json --report out.html`",
)
def eval_(
    data: Annotated[
        str,
        typer.Option(help="A name (marketing:test), a JSONL file, or a folder with test.jsonl."),
    ],
    agent: Annotated[
        list[str],
        typer.Option(
            help="random, constant, keyword, oracle, local, local:DIR, cohere, chat:MODEL, "
            "tinker:PATH, package.module:Class; may be repeated."
        ),
    ],
    parse: Parse = "strict",
    json_out: Json = None,
    report_out: ReportFile = None,
    seed: Annotated[
        int, typer.Option(min=0, help="For agents that draw, and for the bootstrap.")
    ] = 0,
    taxonomy: Annotated[str | None, typer.Option(help="Taxonomy of the data.")] = None,
    train_data: Annotated[
        str | None,
        typer.Option(help="Training data for agents that fit; by default marketing:train."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Conversations a call.")] = 64,
    shots: Annotated[int, typer.Option(min=0, help="Examples shown to hosted models.")] = 0,
    base_url: Annotated[str | None, typer.Option(help="Endpoint of hosted models.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at a time.")] = 8,
    objective: Annotated[
        str, typer.Option(help="What local decisions maximise: reward, f1, exact.")
    ] = "reward",
) -> None:
    """Play agents through the environment and compare them."""
    with fail_cleanly():
        from memroute_env.datasets import load_dataset
        from memroute_eval.evaluate import evaluate
        from memroute_eval.results import write_results

        _check_parse(parse)
        _check_outputs(json_out, report_out)
        dataset = load_dataset(data, _test_split(data), taxonomy)
        options = {
            "shots": shots,
            "concurrency": concurrency,
            "objective": objective,
            **({"base_url": base_url} if base_url else {}),
        }
        with progress_bar("") as update:
            try:
                results = evaluate(
                    agent,
                    dataset,
                    parse=parse,  # type: ignore[arg-type]  # checked above
                    seed=seed,
                    batch_size=batch_size,
                    train=load_dataset(train_data, None, taxonomy) if train_data else None,
                    options=options,
                    progress=update,
                )
            except BaseException as error:
                partial = getattr(error, "partial", None)
                if partial and partial["agents"] and json_out is not None:
                    write_results(partial, json_out)
                    kept = f"agents that had finished: {json_out}"
                    if isinstance(error, KeyboardInterrupt):
                        note(f"interrupted; {kept}")
                        raise SystemExit(EXIT_INTERRUPTED) from None
                    note(kept)
                raise
        _publish(results, dataset, json_out, report_out)
        if any(result["n_failed"] for result in results["agents"].values()):
            note("some calls failed; the metrics above leave them out")
            raise SystemExit(EXIT_ERROR)


@app.command(
    epilog="Example: `memroute score --predictions preds.jsonl --data marketing-50 --parse lenient`"
)
def score(
    predictions: Annotated[Path, typer.Option(help="JSONL: id and text or categories.")],
    data: Annotated[str, typer.Option(help="A name, a JSONL file, or a folder with test.jsonl.")],
    parse: Parse = "strict",
    json_out: Json = None,
    report_out: ReportFile = None,
    missing: Annotated[
        str, typer.Option(help="Examples without a prediction: error, or wrong.")
    ] = "error",
    name: Annotated[str | None, typer.Option(help="What to call the agent.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For the bootstrap.")] = 0,
    taxonomy: Annotated[str | None, typer.Option(help="Taxonomy of the data.")] = None,
) -> None:
    """Score predictions that were made elsewhere: the same numbers as `memroute eval`."""
    with fail_cleanly():
        from memroute_env import __version__
        from memroute_env.datasets import load_dataset
        from memroute_env.errors import OptionError
        from memroute_eval.evaluate import FORMAT, describe_dataset, play, result_of
        from memroute_eval.predictions import read_predictions

        _check_parse(parse)
        if missing not in ("error", "wrong"):
            raise OptionError(f"--missing {missing!r} is not one of error, wrong")
        _check_outputs(json_out, report_out)
        dataset = load_dataset(data, _test_split(data), taxonomy)
        decisions = read_predictions(predictions, dataset, missing_as_wrong=missing == "wrong")
        rows = play(decisions, dataset, parse)  # type: ignore[arg-type]  # checked above
        results = {
            "format": FORMAT,
            "memroute": __version__,
            "dataset": describe_dataset(dataset),
            "parse": parse,
            "seed": seed,
            "agents": {
                name or predictions.stem: result_of(
                    rows, dataset, version=str(predictions), seed=seed
                )
            },
        }
        _publish(results, dataset, json_out, report_out)


@app.command(epilog="Example: `memroute demo --out runs/demo --seed 0`")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of corpus, training and evaluation.")] = 0,
) -> None:
    """The main job: build the corpus, train the local policy, compare it, write a report."""
    with fail_cleanly(f"interrupted; the same command goes on from the state in {out}"):
        from memroute_eval.demo import run_demo

        with progress_bar("") as update:
            results, page = run_demo(out, seed, update)
        from memroute_eval.table import print_results

        print_results(results)
        print(f"policy: local:{out}")
        print(f"report: {page}")


def _test_split(data: str) -> str | None:
    """Agents are compared on the test split: of a bare name with splits, or of a folder."""
    from memroute_env.datasets import shipped_datasets

    name = data.partition(":")[0]
    if name in shipped_datasets():
        return "test" if "test" in shipped_datasets().get(data, ()) else None
    return "test" if Path(data).is_dir() else None


def _check_parse(parse: str) -> None:
    from memroute_env.errors import OptionError
    from memroute_env.parsing import PARSE_MODES

    if parse not in PARSE_MODES:
        raise OptionError(f"--parse {parse!r} is not one of {', '.join(PARSE_MODES)}")


def _check_outputs(*paths: Path | None) -> None:
    """Refuse what cannot be written before the work, not after it."""
    from memroute_env.errors import DataError

    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise DataError(f"{path}: is a directory; give a file to write, check the path")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise DataError(f"{path}: {folder} is not a directory; check the path")
        if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise DataError(f"{path}: cannot be written; check the path and its permissions")


def _publish(
    results: dict[str, Any], dataset: Any, json_out: Path | None, report_out: Path | None
) -> None:
    from memroute_eval.results import write_results
    from memroute_eval.table import print_results

    print_results(results)
    if json_out is not None:
        write_results(results, json_out)
        note(f"results: {json_out}")
    if report_out is not None:
        from memroute_eval.report import write_report

        write_report([results], report_out, data=dataset)
        note(f"report: {report_out}")


def main() -> None:
    """Entry point of the command `memroute`."""
    app()


if __name__ == "__main__":
    main()
