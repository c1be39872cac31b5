"""Taxonomies: which kinds of memory there are, as data.

A *taxonomy* is an ordered tuple of categories, exactly one of which is *exclusive* (`none` in the
shipped `marketing` taxonomy: store nothing). A set of categories is an integer *mask* with one bit
for each category that stores something, in the taxonomy's order; the exclusive category is mask 0.
Hence every integer in `[0, 2**num_storing)` is a valid answer, and no other answer is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from importlib import resources
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from memroute_env.errors import TaxonomyError, UnknownCategoryError

__all__ = ["Category", "CategorySet", "Horizon", "Taxonomy", "load_taxonomy"]

CategorySet: TypeAlias = "int | str | Iterable[str]"
"""A set of categories: a mask, one id, or any iterable of ids."""

MAX_STORING = 62
"""Most categories that store something: a mask must fit a signed 64-bit integer."""

_TUPLE_LIMIT = 12
"""Most storing categories for which the ids of every mask are kept ready."""

_REMEMBERED = 1 << 14
"""Most sets whose ids are remembered."""

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")
_RESERVED_SCOPES = ("mixed", "none")


class Horizon(StrEnum):
    """How long a memory matters, in the order that breaks ties (SPEC §2)."""

    LONG = "long"
    MEDIUM = "medium"
    ROLLING = "rolling"
    EVOLVING = "evolving"
    SHORT = "short"


HORIZONS: tuple[Horizon, ...] = tuple(Horizon)


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of memory."""

    id: str
    """Lower case, letters, digits, `_`, `-` and dots: `company.brand_core`."""
    description: str
    """What belongs there, in a sentence that a language model can be shown."""
    scope: str
    """Whose memory it is (`company`, `user`, ...); `none` for the exclusive category."""
    horizon: Horizon
    """How long such a memory matters."""
    lifetime_days: int | None
    """Days until a stored memory expires; None: no expiry (or never stored)."""
    exclusive: bool = False
    """True for the one category that means *store nothing* and stands alone."""


@dataclass(frozen=True)
class Taxonomy:
    """An ordered, validated set of categories, and the mapping between sets and masks.

    Raises:
        TaxonomyError: If the categories are inconsistent; the message names the remedy.
    """

    name: str
    categories: tuple[Category, ...]
    version: str = "1.0"
    description: str = ""
    scopes: tuple[str, ...] = ("company", "user")

    def __post_init__(self) -> None:
        """Check the whole once, so that everything downstream can rely on it."""
        exclusive = [c.id for c in self.categories if c.exclusive]
        if len(exclusive) != 1:
            found = f"{len(exclusive)} ({', '.join(exclusive)})" if exclusive else "none"
            raise TaxonomyError(
                f"taxonomy {self.name!r}: exactly one category must be exclusive, found {found}; "
                "set 'exclusive = true' on the one that means 'store nothing'"
            )
        storing = len(self.categories) - 1
        if not 1 <= storing <= MAX_STORING:
            raise TaxonomyError(
                f"taxonomy {self.name!r}: {storing} categories that store something; "
                f"1 to {MAX_STORING} are supported"
            )
        seen: set[str] = set()
        for category in self.categories:
            if category.id in seen:
                raise TaxonomyError(
                    f"taxonomy {self.name!r}: the id {category.id!r} occurs twice; rename one"
                )
            seen.add(category.id)
            if not category.exclusive and category.scope not in self.scopes:
                raise TaxonomyError(
                    f"taxonomy {self.name!r}: category {category.id!r} has scope "
                    f"{category.scope!r}; declared are {', '.join(self.scopes)}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields only; caches are rebuilt where they are needed."""
        return (
            Taxonomy,
            (self.name, self.categories, self.version, self.description, self.scopes),
        )

    @cached_property
    def storing(self) -> tuple[Category, ...]:
        """The categories that store something; category i has bit i of a mask."""
        return tuple(c for c in self.categories if not c.exclusive)

    @cached_property
    def exclusive(self) -> Category:
        """The category that means *store nothing*: mask 0."""
        return next(c for c in self.categories if c.exclusive)

    @cached_property
    def all_ids(self) -> tuple[str, ...]:
        """Every id: the storing ones in bit order, then the exclusive one."""
        return (*(c.id for c in self.storing), self.exclusive.id)

    @cached_property
    def num_storing(self) -> int:
        """How many categories store something: the number of bits of a mask (12 for marketing)."""
        return len(self.storing)

    @cached_property
    def num_masks(self) -> int:
        """How many valid answers there are: `2 ** num_storing`."""
        return 1 << self.num_storing

    @cached_property
    def bits(self) -> dict[str, int]:
        """Id to its bit value (a power of two); the exclusive id to 0. Do not modify."""
        return {c.id: 1 << i for i, c in enumerate(self.storing)} | {self.exclusive.id: 0}

    def __getitem__(self, category_id: str) -> Category:
        """The category with this id; UnknownCategoryError if there is none."""
        for category in self.categories:
            if category.id == category_id:
                return category
        raise self._unknown(category_id)

    def _unknown(self, category_id: object) -> UnknownCategoryError:
        from difflib import get_close_matches

        close = get_close_matches(str(category_id), self.all_ids, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self.all_ids)}"
        return UnknownCategoryError(f"unknown category {category_id!r}; {hint}")

    def mask(self, categories: CategorySet) -> int:
        """The mask of a set of categories.

        Args:
            categories: An iterable of ids in any order (duplicates collapse), one id, or a mask,
                which is checked and returned.

        Returns:
            An int in `[0, num_masks)`.

        Raises:
            UnknownCategoryError: For an id that the taxonomy does not have.
            TaxonomyError: For an empty set, the exclusive id beside others, or a mask out of range.
        """
        if isinstance(categories, str):
            categories = (categories,)
        elif not isinstance(categories, Iterable):
            mask = int(categories)
            if mask != categories or not 0 <= mask < self.num_masks:
                raise TaxonomyError(f"mask {categories!r} is not in [0, {self.num_masks})")
            return mask
        mask, exclusive, empty = 0, False, True
        bits = self.bits
        for category_id in categories:
            bit = bits.get(category_id)
            if bit is None:
                raise self._unknown(category_id)
            mask |= bit
            exclusive |= not bit
            empty = False
        if empty:
            raise TaxonomyError(
                f"an empty set of categories is not an answer; use {self.exclusive.id!r}"
            )
        if exclusive and mask:
            raise TaxonomyError(
                f"{self.exclusive.id!r} stands alone; it came with {', '.join(self.ids(mask))}"
            )
        return mask

    def ids(self, mask: int) -> tuple[str, ...]:
        """The ids of a mask, in the taxonomy's order; `(exclusive id,)` for mask 0.

        Raises:
            TaxonomyError: If the mask is not in `[0, num_masks)`.
        """
        known = self._ids_of_mask.get(mask)
        if known is not None:
            return known
        if not 0 <= mask < self.num_masks:
            raise TaxonomyError(f"mask {mask} is not in [0, {self.num_masks})")
        if mask == 0:
            return (self.exclusive.id,)
        ids = tuple(c.id for i, c in enumerate(self.storing) if mask >> i & 1)
        if len(self._ids_of_mask) < _REMEMBERED:
            self._ids_of_mask[mask] = ids
        return ids

    @cached_property
    def _ids_of_mask(self) -> dict[int, tuple[str, ...]]:
        """Sets that were asked for before."""
        return {}

    def ids_of_masks(self, masks_N: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.object_]:
        """The ids of many valid masks: an object array of tuples, shape (N,)."""
        if self.num_storing <= _TUPLE_LIMIT:
            return self._tuples.take(masks_N)
        tuples = np.empty(len(masks_N), dtype=object)
        for i, mask in enumerate(masks_N.tolist()):
            tuples[i] = self.ids(mask)
        return tuples

    @cached_property
    def _tuples(self) -> npt.NDArray[np.object_]:
        """`ids` of every mask, for taxonomies of moderate size."""
        tuples = np.empty(self.num_masks, dtype=object)
        for mask in range(self.num_masks):
            tuples[mask] = self.ids(mask)
        return tuples

    def horizon(self, categories: CategorySet) -> Horizon:
        """The most frequent horizon of a set; a tie goes to the first in `Horizon`'s order."""
        mask = self.mask(categories)
        if mask == 0:
            return self.exclusive.horizon
        horizons = [c.horizon for i, c in enumerate(self.storing) if mask >> i & 1]
        return max(HORIZONS, key=lambda h: (horizons.count(h), -HORIZONS.index(h)))

    def scope(self, categories: CategorySet) -> str:
        """The scope of a set: one of `scopes`, `mixed` for several, `none` for mask 0."""
        mask = self.mask(categories)
        scopes = {c.scope for i, c in enumerate(self.storing) if mask >> i & 1}
        if not scopes:
            return "none"
        return scopes.pop() if len(scopes) == 1 else "mixed"

    def small_sets(self, max_size: int = 3) -> tuple[int, ...]:
        """Masks of the exclusive answer and of every set of at most `max_size` categories.

        The order is fixed: mask 0, then by size, then lexicographically by bit. For marketing and
        `max_size=3` these are the 299 actions of the `discrete` view.
        """
        return _small_sets(self.num_storing, max_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `Taxonomy.from_dict` turns back into an equal taxonomy."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "scopes": list(self.scopes),
            "category": [
                {
                    "id": c.id,
                    "description": c.description,
                    **({"exclusive": True} if c.exclusive else {"scope": c.scope}),
                    "horizon": str(c.horizon),
                    **(
                        {}
                        if c.exclusive
                        else {
                            "lifetime_days": "never" if c.lifetime_days is None else c.lifetime_days
                        }
                    ),
                }
                for c in self.categories
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "taxonomy") -> Taxonomy:
        """Build a taxonomy from the TOML layout.

        Args:
            data: `name`, `version`, `description`, `scopes` and an array `category` of tables with
                `id`, `description`, `scope`, `horizon`, `lifetime_days` and `exclusive`.
            source: What error messages call the origin, usually a path.

        Raises:
            TaxonomyError: Naming the source, the table, the key and the remedy.
        """
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
            or not all(isinstance(s, str) and s and s not in _RESERVED_SCOPES for s in scopes)
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
            return cls(
                name=name,
                categories=tuple(categories),
                version=str(data.get("version", "1.0")),
                description=str(data.get("description", "")),
                scopes=tuple(scopes),
            )
        except TaxonomyError as error:
            raise TaxonomyError(f"{source}: {error}") from None


@lru_cache(maxsize=64)
def _small_sets(num_storing: int, max_size: int) -> tuple[int, ...]:
    return (
        0,
        *(
            sum(1 << i for i in chosen)
            for size in range(1, min(max_size, num_storing) + 1)
            for chosen in combinations(range(num_storing), size)
        ),
    )


def _read_category(table: Any, scopes: tuple[str, ...], where: str) -> Category:
    """One `[[category]]` table as a `Category`; `where` opens every error message."""

    def fail(key: str, problem: str) -> TaxonomyError:
        return TaxonomyError(f"{where}, key {key!r}: {problem}")

    if not isinstance(table, Mapping):
        raise TaxonomyError(f"{where}: a table is needed, got {table!r}")
    category_id = table.get("id")
    if not isinstance(category_id, str) or not _ID.fullmatch(category_id):
        raise fail(
            "id",
            f"{category_id!r} is not an id; use lower-case letters, digits, '_', '-' and "
            "dots, like 'company.brand_core'",
        )
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
        text = path.read_text(encoding="utf-8")
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
    return Taxonomy.from_dict(data, source=source)
