"""Reading saved results: checked once at the door, with errors that name file and field.

The layout is the one that `memroute_eval.evaluate.evaluate` returns. Everything that compares or
draws starts from here, so that a damaged file fails with a sentence and not with a traceback.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from memroute_env.errors import DataError, MemrouteError
from memroute_env.taxonomy import Category, Horizon, Taxonomy, load_taxonomy
from memroute_eval.evaluate import FORMAT
from memroute_eval.metrics import METRICS

__all__ = [
    "RESULTS_FILE",
    "answered_rows",
    "check_results",
    "merge_results",
    "paired_rows",
    "read_results",
    "results_name",
    "same_dataset",
    "taxonomy_of",
    "write_results",
]

RESULTS_FILE = "results.json"
"""What a run directory calls its results."""

MAX_RESULTS_BYTES = 512 * 2**20
"""Largest results file that is read (512 MiB)."""

_ANSWER_FIELDS = (
    "predicted",
    "malformed",
    "reward",
    "reward_f1",
    "reward_temporal",
    "reward_parity",
    "reward_efficiency",
)
"""What every row has unless its call failed."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Interval = Annotated[list[_Number], Field(min_length=2, max_length=2)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


_METRIC = TypeAdapter(_Number | None)


class _Model(BaseModel):
    """Strict, since the data are used as they are: a figure that is a string is an error."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Usage(_Model):
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: _Number | None = None


class _Row(_Model):
    """One example; a failed call has `error` and no answer."""

    id: str = Field(min_length=1)
    gold: list[str] = Field(min_length=1)
    difficulty: str
    domain: str
    error: str = ""
    predicted: list[str] | None = None
    malformed: str | None = None
    reward: _Number | None = None
    reward_f1: _Number | None = None
    reward_temporal: _Number | None = None
    reward_parity: _Number | None = None
    reward_efficiency: _Number | None = None
    text: str | None = None
    scores: dict[str, _Share] | None = None
    evidence: dict[str, list[int]] | None = None
    latency_s: _Number | None = None
    usage: _Usage | None = None


class _Summary(_Model):
    n: int = Field(ge=1)
    reward: _Number
    avg_f1: _Number
    exact_match: _Number
    ci95: dict[str, _Interval | None]


class _Category(_Model):
    support: int
    predicted: int
    precision: _Number | None
    recall: _Number | None
    f1: _Number | None


class _Agent(_Summary):
    version: str = ""
    n_failed: int = 0
    latency_p50_ms: _Number | None = None
    latency_p95_ms: _Number | None = None
    decisions_per_second: _Number | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd_per_1000: _Number | None = None
    by_difficulty: dict[str, _Summary]
    by_domain: dict[str, _Summary]
    by_gold_size: dict[str, _Summary]
    by_category: dict[str, _Category]
    examples: list[_Row] = Field(min_length=1)


class _Dataset(_Model):
    name: str
    split: str = ""
    sha256: str
    n: int
    taxonomy: str
    version: str = ""


class _Results(_Model):
    format: int
    dataset: _Dataset
    parse: str = "strict"
    seed: int = Field(0, ge=0)
    agents: dict[str, _Agent] = Field(min_length=1)


def read_results(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a results file, or the `results.json` of a run directory.

    Raises:
        DataError: If there is no such file, it is not JSON, or it is not a results file; the
            message names the file, the field and the remedy.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / RESULTS_FILE).is_file():
            raise DataError(f"{path}: holds no {RESULTS_FILE}; write one with 'memroute eval'")
        path = path / RESULTS_FILE
    try:
        if path.stat().st_size > MAX_RESULTS_BYTES:
            raise DataError(f"{path}: is larger than {MAX_RESULTS_BYTES // 2**20} MiB")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: not valid JSON ({error}); results are written by 'memroute eval --out'"
        ) from None
    return check_results(data, str(path))


def results_name(path: Path) -> str:
    """What results are called beside others: a run's folder, or the file's name."""
    if path.is_dir():
        return path.resolve().name
    return path.resolve().parent.name if path.name == RESULTS_FILE else path.stem


def write_results(results: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON, atomically; the folder is made if need be.

    In ASCII, so that an answer with half an emoji in it can be kept as it came.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results, indent=1), encoding="ascii")
    partial.replace(path)


def check_results(data: Any, source: str = "results") -> dict[str, Any]:
    """Return `data` if it is a results object.

    Args:
        data: Plain data as `evaluate` returns it.
        source: What error messages call it, usually a path.

    Raises:
        DataError: Naming the source, the field and what was wanted.
    """
    if not isinstance(data, dict) or "agents" not in data:
        raise DataError(
            f"{source}: not a results file (no 'agents' at the top level); results are written by "
            "'memroute eval --out'"
        )
    if isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise DataError(
            f"{source}: format {data['format']} is newer than this version reads ({FORMAT}); "
            "update memroute-env"
        )
    try:
        _Results.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{source}: field {field!r}: {first['msg']}; write the results again with "
            "'memroute eval'"
        ) from None
    taxonomy = taxonomy_of(data, source)
    for name, agent in data["agents"].items():
        _check_metrics(agent, f"{source}: agents.{name}")
        _check_rows(agent["examples"], taxonomy, f"{source}: agents.{name}.examples")
    return data


def _check_metrics(agent: Mapping[str, Any], where: str) -> None:
    """Every metric, overall and by group, is a finite number or None, or absent."""
    groups = [(where, agent)]
    for group in ("by_difficulty", "by_domain", "by_gold_size"):
        groups += [(f"{where}.{group}.{key}", part) for key, part in agent[group].items()]
    for label, summary in groups:
        for metric in METRICS:
            try:
                _METRIC.validate_python(summary.get(metric), strict=True)
            except ValidationError:
                raise DataError(f"{label}: field {metric!r}: a finite number is needed") from None


def _check_rows(rows: Sequence[Mapping[str, Any]], taxonomy: Taxonomy, where: str) -> None:
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if row["id"] in seen:
            raise DataError(f"{where}.{number}: the id {row['id']!r} occurs twice")
        seen.add(row["id"])
        label = f"{where}.{number} ({row['id']!r})"
        try:
            taxonomy.mask(row["gold"])
            if row.get("predicted"):
                taxonomy.mask(row["predicted"])
        except MemrouteError as error:
            raise DataError(f"{label}: {error}") from None
        if row.get("error"):
            continue
        for field in _ANSWER_FIELDS:
            if row.get(field) is None:
                raise DataError(f"{label}: field {field!r} is missing, and there is no 'error'")
        if not row["predicted"] and not row["malformed"]:
            raise DataError(f"{label}: neither an answer nor a reason in 'malformed'")


def taxonomy_of(results: Mapping[str, Any], source: str = "results") -> Taxonomy:
    """The taxonomy that the results are labelled in.

    The shipped one of that name where its ids are those of the results; otherwise one with the
    results' ids (the exclusive one is the last of `by_category`), whose scopes and horizons are
    placeholders: nothing that reads saved results scores anew.

    Raises:
        DataError: If agents of one file disagree about the categories.
    """
    agents = results["agents"].values()
    ids = tuple(next(iter(agents))["by_category"])
    if any(tuple(agent["by_category"]) != ids for agent in agents):
        raise DataError(f"{source}: the agents' 'by_category' name different categories")
    try:
        shipped = load_taxonomy(results["dataset"]["taxonomy"])
        if shipped.all_ids == ids:
            return shipped
    except MemrouteError:
        pass
    if len(ids) < 2:
        raise DataError(f"{source}: 'by_category' needs at least two categories, has {len(ids)}")
    storing = (Category(i, i, i.partition(".")[0], Horizon.LONG, None) for i in ids[:-1])
    last = Category(ids[-1], ids[-1], "none", Horizon.SHORT, None, exclusive=True)
    scopes = tuple(dict.fromkeys(i.partition(".")[0] for i in ids[:-1]))
    try:
        return Taxonomy(results["dataset"]["taxonomy"], (*storing, last), scopes=scopes)
    except MemrouteError as error:
        raise DataError(f"{source}: {error}") from None


def answered_rows(agent: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """An agent's rows without the calls that failed."""
    return [row for row in agent["examples"] if not row.get("error")]


def paired_rows(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Rows of two agents on the examples that both answered, in the first one's order."""
    others = {row["id"]: row for row in answered_rows(b)}
    first = [row for row in answered_rows(a) if row["id"] in others]
    return first, [others[row["id"]] for row in first]


def same_dataset(sources: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse results of different data.

    Raises:
        DataError: Naming the two sources and datasets.
    """
    first_source, first = sources[0]
    for source, results in sources[1:]:
        if results["dataset"]["sha256"] != first["dataset"]["sha256"]:
            raise DataError(
                f"{first_source} was measured on {_label(first)}, {source} on {_label(results)}; "
                "only results on the same data can be compared: evaluate both on one dataset"
            )
        if taxonomy_of(results, source).all_ids != taxonomy_of(first, first_source).all_ids:
            raise DataError(f"{first_source} and {source} name different categories")


def _label(results: Mapping[str, Any]) -> str:
    dataset = results["dataset"]
    split = f":{dataset['split']}" if dataset.get("split") else ""
    return f"{dataset['name']}{split} (sha256 {dataset['sha256'][:12]})"


def merge_results(sources: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Results of the same data as one.

    Args:
        sources: Pairs of a short name and checked results; an agent that occurs in several is
            told apart by the name: `local (run-2)`.

    Returns:
        The first one's header with the agents of all; agents that were read in another parse mode
        than the first carry theirs as `parse`.

    Raises:
        DataError: If the data differ.
    """
    same_dataset(sources)
    merged = {**sources[0][1], "agents": {}}
    counts: dict[str, int] = {}
    for _, results in sources:
        for name in results["agents"]:
            counts[name] = counts.get(name, 0) + 1
    for source, results in sources:
        for name, agent in results["agents"].items():
            label = name if counts[name] == 1 else f"{name} ({source})"
            number = 2
            while label in merged["agents"]:
                label = f"{name} ({source}, {number})"
                number += 1
            if results.get("parse") != merged.get("parse"):
                agent = {**agent, "parse": results.get("parse")}
            merged["agents"][label] = agent
    return merged
