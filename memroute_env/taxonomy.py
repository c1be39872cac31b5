"""Taxonomies as data: the shipped ones, and anybody's own, read from TOML.

Every mistake in a file is refused with the file, the table, the key and the remedy. What a taxonomy
is stands in `memroute_env.categories`; its names are importable from here as well.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from memroute_env.categories import (
    HORIZONS,
    RESERVED_SCOPES,
    Category,
    CategorySet,
    Horizon,
    Taxonomy,
    id_problem,
)
from memroute_env.errors import TaxonomyError

__all__ = [
    "HORIZONS",
    "Category",
    "CategorySet",
    "Horizon",
    "Taxonomy",
    "load_taxonomy",
    "read_taxonomy",
    "shipped_taxonomies",
]


def load_taxonomy(name_or_path: str | PathLike[str] | Taxonomy = "marketing") -> Taxonomy:
    """The shipped taxonomy of that name, or the one in a TOML file.

    Args:
        name_or_path: `"marketing"`, a path to a TOML file, or a taxonomy, which is returned.

    Raises:
        TaxonomyError: If there is no such taxonomy, or the file is not a valid one; the message
            names the file, the table, the key and the remedy.
    """
    if isinstance(name_or_path, Taxonomy):
        return name_or_path
    if isinstance(name_or_path, str) and re.fullmatch(r"[\w-]+", name_or_path):
        return _load_shipped(name_or_path)
    path = Path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaxonomyError(
            f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise TaxonomyError(
            f"{path}: cannot be read ({error.strerror}); give a TOML file or one of "
            f"{', '.join(shipped_taxonomies())}"
        ) from None
    return _parse(text, str(path))


def shipped_taxonomies() -> tuple[str, ...]:
    """Names of the taxonomies that come with the package."""
    folder = resources.files("memroute_env") / "taxonomies"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")))


@lru_cache(maxsize=16)
def _load_shipped(name: str) -> Taxonomy:
    if name not in shipped_taxonomies():
        raise TaxonomyError(
            f"no shipped taxonomy is called {name!r}; shipped: {', '.join(shipped_taxonomies())}; "
            "for your own give the path of its TOML file"
        )
    file = resources.files("memroute_env") / "taxonomies" / f"{name}.toml"
    return _parse(file.read_text(encoding="utf-8"), f"{name}.toml")


def _parse(text: str, source: str) -> Taxonomy:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TaxonomyError(f"{source}: not valid TOML: {error}") from None
    return read_taxonomy(data, source)


def read_taxonomy(data: Mapping[str, Any], source: str) -> Taxonomy:
    """The taxonomy that the content of a TOML file describes: see `Taxonomy.from_dict`."""
    known = {"name", "version", "description", "scopes", "category"}
    for key in data:
        if key not in known:
            raise TaxonomyError(
                f"{source}: unknown key {key!r}; allowed are {', '.join(sorted(known))}"
            )
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise TaxonomyError(f"{source}: key 'name': a non-empty string is needed, got {name!r}")
    scopes = data.get("scopes", ["company", "user"])
    if (
        not isinstance(scopes, Sequence)
        or isinstance(scopes, str)
        or not scopes
        or not all(isinstance(s, str) and s and s not in RESERVED_SCOPES for s in scopes)
        or len(set(scopes)) != len(scopes)
    ):
        raise TaxonomyError(
            f"{source}: key 'scopes': a list of distinct names other than 'mixed' and 'none' "
            f"is needed, got {scopes!r}"
        )
    tables = data.get("category")
    if not isinstance(tables, list) or not tables:
        raise TaxonomyError(f"{source}: at least two [[category]] tables are needed, found 0")
    categories: list[Category] = []
    first_seen: dict[str, int] = {}
    for number, table in enumerate(tables, 1):
        category = _read_category(table, tuple(scopes), f"{source}: [[category]] {number}")
        if category.id in first_seen:
            raise TaxonomyError(
                f"{source}: [[category]] {number}, key 'id': {category.id!r} is already "
                f"the id of [[category]] {first_seen[category.id]}; rename one of them"
            )
        first_seen[category.id] = number
        categories.append(category)
    try:
        return Taxonomy(
            name=name,
            categories=tuple(categories),
            version=str(data.get("version", "1.0")),
            description=str(data.get("description", "")),
            scopes=tuple(scopes),
        )
    except TaxonomyError as error:
        raise TaxonomyError(f"{source}: {error}") from None


def _read_category(table: Any, scopes: tuple[str, ...], where: str) -> Category:
    """One `[[category]]` table as a `Category`; `where` opens every error message."""

    def fail(key: str, problem: str) -> TaxonomyError:
        return TaxonomyError(f"{where}, key {key!r}: {problem}")

    if not isinstance(table, Mapping):
        raise TaxonomyError(f"{where}: a table is needed, got {table!r}")
    category_id = table.get("id")
    problem = id_problem(category_id)
    if problem or not isinstance(category_id, str):
        raise fail("id", problem)
    where = f"{where} ({category_id})"
    known = {"id", "description", "scope", "horizon", "lifetime_days", "exclusive"}
    for key in table:
        if key not in known:
            raise fail(key, f"unknown; allowed are {', '.join(sorted(known))}")
    exclusive = table.get("exclusive", False)
    if not isinstance(exclusive, bool):
        raise fail("exclusive", f"true or false is needed, got {exclusive!r}")
    horizon = table.get("horizon", "short" if exclusive else None)
    if horizon not in list(Horizon):
        raise fail("horizon", f"{horizon!r} is not one of {', '.join(Horizon)}")
    scope = table.get("scope", "none" if exclusive else None)
    if exclusive and scope != "none":
        raise fail("scope", f"the exclusive category has no scope; remove the key (got {scope!r})")
    if not exclusive and scope not in scopes:
        raise fail(
            "scope", f"{scope!r} is not one of {', '.join(scopes)}; add it to the key 'scopes'"
        )
    lifetime = table.get("lifetime_days", "never" if exclusive else None)
    valid = isinstance(lifetime, int) and not isinstance(lifetime, bool) and lifetime > 0
    if lifetime != "never" and not valid:
        raise fail(
            "lifetime_days",
            f'a whole number of days above 0, or "never", is needed, got {lifetime!r}',
        )
    if exclusive and lifetime != "never":
        raise fail("lifetime_days", "the exclusive category is never stored; remove the key")
    description = table.get("description", "")
    if not isinstance(description, str) or not description.strip():
        raise fail("description", "a sentence that says what belongs there is needed")
    return Category(
        id=category_id,
        description=description,
        scope=scope,
        horizon=Horizon(horizon),
        lifetime_days=None if lifetime == "never" else lifetime,
        exclusive=exclusive,
    )
