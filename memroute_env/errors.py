"""Errors of the package: each subclasses `MemrouteError` and the standard type callers catch.

Every message says what was found, what was expected and what to do about it. All of them pickle,
so that they cross process borders (`AsyncVectorEnv`, pools) unharmed.
"""

from __future__ import annotations

__all__ = [
    "AgentError",
    "DataError",
    "MemrouteError",
    "MissingDependencyError",
    "OptionError",
    "TaxonomyError",
    "UnknownCategoryError",
]


class MemrouteError(Exception):
    """Base of everything that this project raises on purpose."""


class TaxonomyError(MemrouteError, ValueError):
    """A taxonomy file or object is inconsistent."""


class UnknownCategoryError(MemrouteError, KeyError):
    """A category id that the taxonomy does not have."""

    def __str__(self) -> str:
        """Return the message itself: `KeyError` would show its repr."""
        return str(self.args[0]) if self.args else ""


class DataError(MemrouteError, ValueError):
    """A data file, or a line of it, cannot be used as it is."""


class OptionError(MemrouteError, ValueError):
    """An argument or `reset` option is unknown or out of range."""


class AgentError(MemrouteError, RuntimeError):
    """An agent cannot be built, raised, or broke the contract of `route`."""


class MissingDependencyError(MemrouteError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""

    def __init__(self, library: str, extra: str) -> None:
        """Name the missing `library` and the `extra` of memroute-env that installs it."""
        super().__init__(library, extra)
        self.library, self.extra = library, extra

    def __str__(self) -> str:
        """One line with the remedy."""
        return f'{self.library} is not installed: pip install "memroute-env[{self.extra}]"'
