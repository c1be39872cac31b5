"""The targets that the original design set for itself, as pass, fail or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["TARGETS", "Check", "Status", "Target", "check_targets"]


class Status(StrEnum):
    """Whether a target is met."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Target:
    """A bound on one figure of an agent's results."""

    metric: str
    """Key of the agent's results."""
    label: str
    relation: str
    """`>=`, `<=` or `<`."""
    bound: float
    unit: str = ""
    """`%` for a share, `ms`, `/s`, or empty."""

    def status(self, value: float | None) -> Status:
        """Compare a value in the results' own unit (shares in [0, 1])."""
        if value is None:
            return Status.UNKNOWN
        met = {
            ">=": value >= self.bound,
            "<=": value <= self.bound,
            "<": value < self.bound,
        }[self.relation]
        return Status.PASS if met else Status.FAIL


@dataclass(frozen=True)
class Check:
    """A target held against an agent."""

    target: Target
    value: float | None
    """None where it was not measured."""
    status: Status


TARGETS = (
    Target("exact_match", "Exact match", ">=", 0.80, "%"),
    Target("macro_f1", "Macro F1", ">=", 0.90, "%"),
    Target("none_precision", "Precision of none", ">=", 0.90, "%"),
    Target("none_recall", "Recall of none", ">=", 0.85, "%"),
    Target("avg_categories", "Categories a prediction", "<=", 2.0),
    Target("temporal_accuracy", "Temporal accuracy", ">=", 0.90, "%"),
    Target("latency_p95_ms", "Latency p95", "<", 200.0, "ms"),
    Target("decisions_per_second", "Decisions a second", ">=", 100.0, "/s"),
)
"""Targets of the original design, which it did not reach."""


def check_targets(agent: Mapping[str, Any]) -> list[Check]:
    """Hold an agent's results against `TARGETS`.

    A target of which the agent's results have no figure (no latency measured, `none` never
    answered) is unknown, not failed.
    """
    return [Check(t, agent.get(t.metric), t.status(agent.get(t.metric))) for t in TARGETS]
