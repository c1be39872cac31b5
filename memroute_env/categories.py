"""Categories, taxonomies, and the mapping between sets of categories and masks.

A *taxonomy* is an ordered tuple of categories, exactly one of which is *exclusive* (`none` in the
shipped `marketing` taxonomy: store nothing). A set of categories is an integer *mask* with one bit
for each category that stores something, in the taxonomy's order; the exclusive category is mask 0.
Hence every integer in `[0, 2**num_storing)` is a valid answer, and no other answer is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from memroute_env.errors import TaxonomyError, UnknownCategoryError

__all__ = [
    "HORIZONS",
    "MAX_STORING",
    "RESERVED_SCOPES",
    "Category",
    "CategorySet",
    "Horizon",
    "Taxonomy",
    "id_problem",
]

CategorySet: TypeAlias = "int | str | Iterable[str]"
"""A set of categories: a mask, one id, or any iterable of ids."""

MAX_STORING = 62
"""Most categories that store something: a mask must fit a signed 64-bit integer."""

_ID = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")

RESERVED_SCOPES = ("mixed", "none")
"""What the scope of a set can also be; no category that stores something has them."""

_TUPLE_LIMIT = 12
"""Most storing categories for which the ids of every mask are kept ready."""

_REMEMBERED = 1 << 14
"""Most sets whose ids are remembered."""


class Horizon(StrEnum):
    """How long a memory matters, in the order that breaks ties (`memroute_env.reward_formula`)."""

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


def id_problem(category_id: object) -> str:
    """Why this cannot be the id of a category, with the remedy; empty if it can."""
    if isinstance(category_id, str) and _ID.fullmatch(category_id):
        return ""
    return (
        f"{category_id!r} is not an id; use lower-case letters, digits, '_', '-' and dots, "
        "like 'company.brand_core'"
    )


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
        if len(set(self.scopes)) != len(self.scopes) or set(self.scopes) & set(RESERVED_SCOPES):
            raise TaxonomyError(
                f"taxonomy {self.name!r}: scopes {', '.join(self.scopes)}; distinct names other "
                f"than {' and '.join(RESERVED_SCOPES)} are needed"
            )
        seen: set[str] = set()
        for category in self.categories:
            if problem := id_problem(category.id):
                raise TaxonomyError(f"taxonomy {self.name!r}: {problem}")
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
            if category.horizon not in HORIZONS:
                raise TaxonomyError(
                    f"taxonomy {self.name!r}: category {category.id!r} has horizon "
                    f"{category.horizon!r}; one of {', '.join(HORIZONS)} is needed"
                )
            if category.lifetime_days is not None and category.lifetime_days <= 0:
                raise TaxonomyError(
                    f"taxonomy {self.name!r}: category {category.id!r} has a lifetime of "
                    f"{category.lifetime_days} days; more than 0, or None, is needed"
                )
            if not category.description.strip():
                raise TaxonomyError(
                    f"taxonomy {self.name!r}: category {category.id!r} has no description; "
                    "a sentence that says what belongs there is needed"
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
        """Build a taxonomy from the layout of its TOML file.

        Args:
            data: `name`, `version`, `description`, `scopes` and an array `category` of tables with
                `id`, `description`, `scope`, `horizon`, `lifetime_days` and `exclusive`.
            source: What error messages call the origin, usually a path.

        Raises:
            TaxonomyError: Naming the source, the table, the key and the remedy.
        """
        from memroute_env.taxonomy import read_taxonomy

        return read_taxonomy(data, source)


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
