"""Predictions that were made elsewhere: one JSON object a line, `id` and `text` or `categories`."""

from __future__ import annotations

import json
from os import PathLike

from memroute_agents.agent import RoutingDecision
from memroute_env.conversation import iter_lines
from memroute_env.datasets import Dataset
from memroute_env.errors import DataError

__all__ = ["read_predictions"]

_SHOWN = 10


def read_predictions(
    path: str | PathLike[str], dataset: Dataset, *, missing_as_wrong: bool = False
) -> list[RoutingDecision]:
    """Read predictions for a dataset.

    Args:
        path: JSONL file; a line has `id` and either `text` (an answer in words) or `categories` (a
            list of ids, which is read like the same words).
        dataset: What was predicted.
        missing_as_wrong: Count examples without a prediction as malformed instead of refusing.

    Returns:
        One decision for each example, in the dataset's order.

    Raises:
        DataError: Naming unknown, repeated and missing ids, or the line that cannot be read.
    """
    known = {example.id: i for i, example in enumerate(dataset)}
    found: dict[str, RoutingDecision] = {}
    lines: dict[str, int] = {}
    unknown: list[str] = []
    for number, line in iter_lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text (byte {error.start})") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON: {error}") from None
        identifier = record.get("id") if isinstance(record, dict) else None
        if not isinstance(identifier, str | int):
            raise DataError(f"{where}: field 'id' is missing; a prediction names its example")
        identifier = str(identifier)
        decision = _decision(record, where)
        if identifier not in known:
            unknown.append(f"{identifier} (line {number})")
            continue
        if identifier in found:
            raise DataError(
                f"{where}: field 'id': {identifier!r} was predicted on line {lines[identifier]} "
                "already; keep one"
            )
        found[identifier], lines[identifier] = decision, number
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} ids are not in {dataset!r}: {_few(unknown)}; "
            "were they made for another dataset?"
        )
    missing = [identifier for identifier in known if identifier not in found]
    if missing and not missing_as_wrong:
        raise DataError(
            f"{path}: no prediction for {len(missing)} of {len(dataset)} examples: "
            f"{_few(missing)}; "
            "add them, or count them as wrong with --missing wrong"
        )
    return [found.get(example.id, RoutingDecision(text="")) for example in dataset]


def _decision(record: dict[str, object], where: str) -> RoutingDecision:
    text, categories = record.get("text"), record.get("categories")
    if (text is None) == (categories is None):
        raise DataError(f"{where}: exactly one of the fields 'text' and 'categories' is needed")
    if text is not None:
        if not isinstance(text, str):
            raise DataError(f"{where}: field 'text' must be a string, got {type(text).__name__}")
        return RoutingDecision(text=text, truncated=record.get("truncated") is True)
    if not isinstance(categories, list) or not all(isinstance(c, str) for c in categories):
        raise DataError(f"{where}: field 'categories' must be a list of ids")
    return RoutingDecision(text=", ".join(categories))


def _few(items: list[str]) -> str:
    rest = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + rest
