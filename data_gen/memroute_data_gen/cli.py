"""`memroute data`: compose, build, import, check, split, teach, export, push."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from memroute_data_gen.publish import export, push
from memroute_data_gen.teacher.cli import teach
from memroute_env.cli_support import EXIT_GATE, fail_cleanly, note, progress_bar

app = typer.Typer(
    help="Make, import, check and split conversation data.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Taxonomy = Annotated[
    str | None, typer.Option(help="Taxonomy: a shipped name or the path of a TOML file.")
]


@app.command(epilog="Example: `memroute data compose --num 2000 --seed 1 --out train.jsonl`")
def compose(
    num: Annotated[int, typer.Option(min=1, help="How many conversations.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write (.gz compresses).")],
    seed: Annotated[int, typer.Option(help="Conversation i depends on (seed, i) alone.")] = 0,
    split: Annotated[
        str, typer.Option(help="Utterances to use: train, validation, test.")
    ] = "train",
    start: Annotated[int, typer.Option(min=0, help="First index.")] = 0,
    recipe: Annotated[Path | None, typer.Option(help="TOML file with shares.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")] = 1,
) -> None:
    """Compose labelled conversations from the authored bank; no two of a file say the same."""
    with fail_cleanly("interrupted; no file was written"):
        from memroute_data_gen.compose import compose_distinct as stream
        from memroute_env.conversation import write_examples

        with progress_bar("composing") as update:

            def counted() -> Any:
                made = stream(
                    num,
                    seed=seed,
                    split=split,
                    recipe=_read_recipe(recipe),
                    start=start,
                    workers=workers or os.cpu_count() or 1,
                )
                for done, example in enumerate(made, 1):
                    if done % 200 == 0 or done == num:
                        update("", done, num)
                    yield example

            count = write_examples(out, counted())
        note(f"wrote {count} conversations to {out}")


def _read_recipe(path: Path | None) -> Any:
    import tomllib

    from memroute_data_gen.compose import Recipe
    from memroute_env.errors import DataError

    if path is None:
        return None
    try:
        return Recipe.from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML: {error}") from None


@app.command(epilog="Example: `memroute data build --out-dir memroute_env/data`")
def build(
    out_dir: Annotated[Path, typer.Option(help="Folder for the three files.")] = Path(
        "memroute_env/data"
    ),
) -> None:
    """Rebuild the shipped corpus from the bank (byte for byte, unless the bank changed)."""
    with fail_cleanly():
        from memroute_data_gen.corpus import COMPOSED, build_split
        from memroute_env.conversation import write_examples

        for split in COMPOSED:
            path = out_dir / f"marketing-{split}.jsonl.gz"
            print(f"{split:10s} {write_examples(path, build_split(split)):6d}  {path}")


@app.command(
    "import",
    epilog="Example: `memroute data import old.jsonl --out new.jsonl --set-aside aside.jsonl`",
)
def import_(
    source: Annotated[Path, typer.Argument(help="File of the older layout.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    set_aside: Annotated[
        Path | None,
        typer.Option(help="Side file for lines that cannot be read; by default beside --out."),
    ] = None,
    taxonomy: Taxonomy = None,
) -> None:
    """Convert the older layout; every line is either imported or set aside with its reason."""
    with fail_cleanly():
        from memroute_env.conversation import write_examples
        from memroute_env.importer import import_older_layout
        from memroute_env.taxonomy import load_taxonomy

        summary = import_older_layout(source, load_taxonomy(taxonomy or "marketing"))
        write_examples(out, summary.examples)
        print(
            f"{summary.lines} lines: {len(summary.imported)} imported, "
            f"{len(summary.set_aside)} set aside"
        )
        for kind, count in summary.repairs().most_common():
            print(f"  repaired  {count:5d}  {kind}")
        for reason, count in summary.reasons().most_common():
            print(f"  set aside {count:5d}  {reason}")
        if summary.set_aside:
            side = set_aside or out.with_name(out.name.partition(".")[0] + ".set-aside.jsonl")
            side.write_text(
                "".join(item.to_json() + "\n" for item in summary.set_aside), encoding="utf-8"
            )
            print(f"lines that were set aside: {side}")


@app.command(epilog="Example: `memroute data check train.jsonl --against test.jsonl --json q.json`")
def check(
    source: Annotated[str, typer.Argument(help="Data set name (marketing:train) or JSONL file.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another split that must share nothing with it; for a shipped name its others."
        ),
    ] = None,
    taxonomy: Taxonomy = None,
    fast: Annotated[bool, typer.Option("--fast", help="Leave the classifiers out.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.")] = None,
) -> None:
    """Measure a corpus: gates, distributions, leaks, duplicates, secrets, suspected noise.

    Exit code 1 if a gate fails.
    """
    with fail_cleanly():
        from memroute_data_gen.quality import check_corpus
        from memroute_data_gen.quality_view import print_report, write_page
        from memroute_env.datasets import load_dataset

        dataset = load_dataset(source, None, taxonomy)
        names = against or _other_splits(source, dataset.split)
        other = [
            example for name in names for example in load_dataset(name, None, dataset.taxonomy)
        ]
        report = check_corpus(dataset, dataset.taxonomy, other=other, deep=not fast)
        print_report(report, source)
        if names:
            note(f"compared with {', '.join(names)}")
        if json_out is not None:
            json_out.write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
        if html is not None:
            write_page(report, source, html)
            note(f"page: {html}")
        if not report.passed:
            raise SystemExit(EXIT_GATE)


def _other_splits(source: str, split: str) -> list[str]:
    """Of a shipped dataset the splits beside this one; nothing is known beside a path."""
    from memroute_env.datasets import shipped_datasets

    name = source.partition(":")[0]
    return [f"{name}:{other}" for other in shipped_datasets().get(name, ()) if other != split]


@app.command(epilog="Example: `memroute data split all.jsonl --out-dir splits`")
def split(
    source: Annotated[Path, typer.Argument(help="JSONL file.")],
    out_dir: Annotated[Path, typer.Option(help="Folder for train, validation and test files.")],
    validation: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    seed: Annotated[int, typer.Option()] = 0,
    taxonomy: Taxonomy = None,
) -> None:
    """Split a file such that no two near duplicates fall into different splits.

    A split without an example gets no file, and one of its name from an earlier run is removed.
    """
    with fail_cleanly():
        from memroute_data_gen.splits import split_examples
        from memroute_env.conversation import iter_examples, write_examples
        from memroute_env.errors import DataError, OptionError
        from memroute_env.taxonomy import load_taxonomy

        if validation + test >= 1:
            raise OptionError("--validation and --test leave nothing for training")
        examples = list(iter_examples(source, load_taxonomy(taxonomy or "marketing")))
        if not examples:
            raise DataError(f"{source}: holds no example; one JSON object a line is expected")
        shares = {"train": 1 - validation - test, "validation": validation, "test": test}
        parts = split_examples(examples, shares, seed=seed)
        for name, part in parts.items():
            path = out_dir / f"{name}.jsonl"
            if part:
                write_examples(path, part)
            else:
                # No command reads an empty file, and one of an earlier run is not of this split.
                path.unlink(missing_ok=True)
            print(f"{name:10s} {len(part):6d}{'' if part else '  (empty: no file)'}")
        if any(len(parts[name]) < share * len(examples) / 2 for name, share in shares.items()):
            note(
                "the shares are far off: too many conversations share messages and stay together. "
                "Composed ones do; compose each split by itself (`data compose --split`)"
            )


app.command(epilog="Example: `memroute data teach --num 2000 --out taught.jsonl --dry-run`")(teach)
app.command(epilog="Example: `memroute data export --format hf --out export/marketing`")(export)
app.command(epilog="Example: `memroute data push me/marketing-memory --data marketing`")(push)
