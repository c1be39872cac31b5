"""The teacher's own error."""

from __future__ import annotations

from memroute_env.errors import MemrouteError

__all__ = ["TeacherError"]


class TeacherError(MemrouteError, RuntimeError):
    """A run stopped before the corpus was complete; what was paid for is kept for `--resume`."""
