"""`memroute data export` and `memroute data push`."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import typer

from memroute_env.cli_support import fail_cleanly
from memroute_env.errors import MemrouteError, MissingDependencyError

__all__ = ["PublishError", "export", "push"]

ATTEMPTS = 4
"""Most tries of a push that meets passing faults."""


class PublishError(MemrouteError, RuntimeError):
    """What was asked for cannot be written, or the hub refused or could not be reached."""


def _license(source: str, given: str | None) -> str:
    """The given licence; the project's for its own data; none for anyone else's."""
    from memroute_env.datasets import shipped_datasets

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
    with fail_cleanly():
        from memroute_data_gen.repository import load_splits, write_hf, write_parquet

        splits = load_splits(source, taxonomy)
        if format == "hf":
            written = write_hf(splits, out, name=out.name, license_id=_license(source, license_id))
        elif out.suffix == ".parquet":
            if len(splits) != 1:
                raise PublishError(
                    f"{out}: one file cannot hold the splits {', '.join(splits)}; give a folder, "
                    f"or one split's file (of shipped data: --data {source}:train)"
                )
            written = [out]
            write_parquet(next(iter(splits.values())), out)
        else:
            written = [out / f"{split}.parquet" for split in splits]
            for path, dataset in zip(written, splits.values(), strict=True):
                write_parquet(dataset, path)
        for path in written:
            print(f"{path}  {path.stat().st_size:,} bytes")


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
    with fail_cleanly("interrupted; the hub may have the data already: look before you push again"):
        import tempfile

        from memroute_agents.calls import read_setting
        from memroute_data_gen.repository import load_splits, write_hf

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
        print(url)


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
    from memroute_agents.calls import redact

    said = " ".join(redact(str(cause), token).split())[:300] or type(cause).__name__
    remedy = "check the name and the connection, then push again"
    if status in (401, 403):
        remedy = "check HF_TOKEN (it needs write access), or log in with 'hf auth login'"
    return f"{repo}: the upload failed ({said}); {remedy}"
