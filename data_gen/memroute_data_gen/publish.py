"""`memroute data export` and `memroute data push`: Parquet files and a dataset repository.

A Parquet row holds everything that a JSON line holds: known fields are columns, whatever else an
example carries goes into the column `extra` as JSON. The Hugging Face layout adds a dataset card
that is generated from the data, and the taxonomy that the labels name.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from memroute_agents.calls import read_setting, redact
from memroute_data_gen.card import dataset_card
from memroute_env.conversation import Example
from memroute_env.datasets import SPLITS, Dataset, load_dataset, shipped_datasets
from memroute_env.errors import DataError, MemrouteError, MissingDependencyError

__all__ = ["PublishError", "export", "load_splits", "push", "write_hf", "write_parquet"]

ROWS_A_GROUP = 5000
"""Rows that are in memory at a time while a Parquet file is written."""

ATTEMPTS = 4
"""Most tries of a push that meets passing faults."""


class PublishError(MemrouteError, RuntimeError):
    """The hub refused or could not be reached; nothing was changed there, or all of it."""


def load_splits(source: str, taxonomy: str | None = None) -> dict[str, Dataset]:
    """Every split of a shipped dataset, a folder of split files, or one file.

    Args:
        source: A shipped name, also `name:split`, or a path. A file whose name is not a split's
            counts as `train`.
        taxonomy: Of a path's labels; `marketing` by default.

    Returns:
        Split name to its examples, in the order of `SPLITS`.

    Raises:
        DataError: If there is nothing to load; the message names the remedy.
    """
    path = Path(source)
    if not path.exists():
        name, _, split = source.partition(":")
        if name in shipped_datasets() and not split:
            return {s: load_dataset(name, s) for s in shipped_datasets()[name]}
        return {split or "train": load_dataset(source, None, taxonomy)}
    if path.is_dir():
        found = [
            s for s in SPLITS if list(path.glob(f"{s}.jsonl")) + list(path.glob(f"{s}.jsonl.gz"))
        ]
        if not found:
            raise DataError(f"{path}: holds no train.jsonl, validation.jsonl or test.jsonl")
        return {s: load_dataset(path, s, taxonomy) for s in found}
    stem = path.name.partition(".")[0]
    return {stem if stem in SPLITS else "train": load_dataset(path, None, taxonomy)}


def _schema() -> Any:
    pa = _pyarrow()
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    indices = pa.list_(pa.int32())
    evidence = pa.struct([("category", pa.string()), ("turns", indices)])
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("conversation", pa.list_(turn), nullable=False),
            pa.field("categories", pa.list_(pa.string()), nullable=False),
            ("evidence", pa.list_(evidence)),
            ("rationale", pa.string()),
            ("domain", pa.string()),
            ("difficulty", pa.string()),
            ("source", pa.string()),
            ("distractors", indices),
            ("extra", pa.string()),
        ]
    )


def _row(example: Example) -> dict[str, Any]:
    """An example as a row of `_schema`."""
    labels, metadata = example.labels, example.metadata
    extras = {
        "example": example.model_extra,
        "labels": labels.model_extra,
        "metadata": metadata.model_extra,
    }
    extras = {name: values for name, values in extras.items() if values}
    return {
        "id": example.id,
        "conversation": [vars(turn) for turn in example.conversation.turns],
        "categories": labels.categories,
        "evidence": [{"category": c, "turns": t} for c, t in labels.evidence.items()],
        "rationale": labels.rationale,
        "domain": metadata.domain,
        "difficulty": metadata.difficulty,
        "source": metadata.source,
        "distractors": metadata.distractors,
        "extra": json.dumps(extras, ensure_ascii=False, sort_keys=True) if extras else None,
    }


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingDependencyError("pyarrow", "hub") from None
    return pyarrow


def _groups(examples: Sequence[Example]) -> Iterator[list[dict[str, Any]]]:
    rows = map(_row, examples)
    while group := list(islice(rows, ROWS_A_GROUP)):
        yield group


def write_parquet(dataset: Dataset, path: Path) -> None:
    """Write a dataset as one Parquet file, atomically; equal data gives equal bytes.

    Raises:
        MissingDependencyError: If pyarrow is not installed.
    """
    pa, schema = _pyarrow(), _schema()
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for group in _groups(dataset):
            writer.write_table(pa.Table.from_pylist(group, schema))
    partial.replace(path)


def write_hf(
    splits: Mapping[str, Dataset], folder: Path, *, name: str, license_id: str = ""
) -> list[Path]:
    """Write a dataset repository: `README.md`, `taxonomy.json`, `data/SPLIT-….parquet`.

    Args:
        splits: Split name to its examples.
        folder: Where to.
        name: Title of the card, and what its example loads.
        license_id: An identifier that the hub knows (`apache-2.0`); empty: none is claimed.

    Returns:
        The files, the card first.
    """
    files = {split: f"data/{split}-00000-of-00001.parquet" for split in splits}
    for split, file in files.items():
        write_parquet(splits[split], folder / file)
    taxonomy = next(iter(splits.values())).taxonomy
    card, described = folder / "README.md", folder / "taxonomy.json"
    card.write_text(dataset_card(splits, files, name=name, license_id=license_id), "utf-8")
    described.write_text(json.dumps(taxonomy.to_dict(), indent=2) + "\n", "utf-8")
    return [card, described, *(folder / file for file in files.values())]


def _license(source: str, given: str | None) -> str:
    """The given licence; the project's for its own data; none for anyone else's."""
    if given is not None:
        return given
    return "apache-2.0" if source.partition(":")[0] in shipped_datasets() else ""


def export(
    out: Annotated[
        Path, typer.Option(help="Folder to write to (parquet: also one .parquet file).")
    ],
    source: Annotated[
        str, typer.Option("--data", help="Shipped name, JSONL file, or folder of split files.")
    ] = "marketing",
    format: Annotated[
        Literal["parquet", "hf"], typer.Option(help="Plain files, or a dataset repository.")
    ] = "parquet",
    taxonomy: Annotated[str | None, typer.Option(help="Shipped name or TOML file.")] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="For the card; shipped data: apache-2.0.")
    ] = None,
) -> None:
    """Write a dataset as Parquet files or in the layout of a Hugging Face dataset repository."""
    splits = load_splits(source, taxonomy)
    if format == "hf":
        written = write_hf(splits, out, name=source, license_id=_license(source, license_id))
    elif out.suffix == ".parquet":
        if len(splits) != 1:
            raise PublishError(
                f"{out}: one file cannot hold the splits {', '.join(splits)}; give a folder, or "
                f"one split such as --data {source}:{next(iter(splits))}"
            )
        written = [out]
        write_parquet(next(iter(splits.values())), out)
    else:
        written = [out / f"{split}.parquet" for split in splits]
        for path, dataset in zip(written, splits.values(), strict=True):
            write_parquet(dataset, path)
    console = Console()
    for path in written:
        console.print(f"{path}  {path.stat().st_size:,} bytes", highlight=False, soft_wrap=True)


def push(
    repo: Annotated[str, typer.Argument(help="USER/NAME or ORGANISATION/NAME on the hub.")],
    source: Annotated[
        str, typer.Option("--data", help="Shipped name, JSONL file, or folder of split files.")
    ] = "marketing",
    private: Annotated[
        bool, typer.Option("--private/--public", help="Visibility of a new repository.")
    ] = True,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload dataset",
    taxonomy: Annotated[str | None, typer.Option(help="Shipped name or TOML file.")] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="For the card; shipped data: apache-2.0.")
    ] = None,
    endpoint: Annotated[str, typer.Option(help="Another hub; default: HF_ENDPOINT.")] = "",
) -> None:
    """Upload a dataset with a generated card to the Hugging Face hub, in one commit.

    The token comes from HF_TOKEN (also in a .env file) or from an earlier `hf auth login`; it is
    never printed or stored.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingDependencyError("huggingface_hub", "hub") from None
    splits = load_splits(source, taxonomy)
    token = read_setting("HF_TOKEN", "hub")
    api = HfApi(
        endpoint=endpoint or read_setting("HF_ENDPOINT", "hub") or None, token=token or None
    )
    with tempfile.TemporaryDirectory() as folder:
        write_hf(splits, Path(folder), name=repo, license_id=_license(source, license_id))

        def upload() -> str:
            api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo, repo_type="dataset", folder_path=folder, commit_message=message
            )
            return str(commit.commit_url)

        url = _patiently(upload, repo, token)
    Console().print(url, highlight=False, soft_wrap=True)


def _patiently(upload: Callable[[], str], repo: str, token: str) -> str:
    """Upload; after a passing fault again, since uploading twice changes nothing.

    Raises:
        PublishError: If it does not succeed.
    """
    for attempt in count(1):
        try:
            return upload()
        except Exception as error:
            if not _is_hubs(error):
                raise
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            status = getattr(getattr(cause, "response", None), "status_code", None)
            passing = status is not None and (status == 429 or status >= 500)
            if not passing or attempt >= ATTEMPTS:
                raise PublishError(_explain(cause, status, repo, token)) from None
            time.sleep(2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _is_hubs(error: Exception) -> bool:
    """Whether an error is the hub's or the network's, and none of this program.

    huggingface_hub subclasses OSError and ValueError, wraps what happens in its upload threads in
    RuntimeError, and lets the errors of its HTTP library through: httpx or requests, by version.
    """
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | ValueError | RuntimeError) or library.startswith("httpx")


def _explain(cause: Exception, status: int | None, repo: str, token: str) -> str:
    """One line: what the hub said, and what to do."""
    said = " ".join(redact(str(cause), token).split())[:300] or type(cause).__name__
    remedy = "check the name and the connection, then push again"
    if status in (401, 403):
        remedy = "check HF_TOKEN (it needs write access), or log in with 'hf auth login'"
    return f"{repo}: the upload failed ({said}); {remedy}"
