"""The reward: how good a predicted set of categories is against the gold set.

`total = 0.6·f1 + 0.2·temporal + 0.1·parity + 0.1·efficiency`, in [0, 1]; a malformed text action
scores -1.0 with every component 0. The formula, the efficiency schedule and the horizon adjacency
are the project's specification (§2); all of them are fields of `RewardConfig`.

How it is computed: a set matters to the reward only through its *class* (horizon, scope, size) and
through how many categories it shares with the other set. The 4,096 sets of the marketing taxonomy
fall into 54 classes, so the total of any pair is one look-up in a table of
`classes x classes x shared` float64 values. The scalar, batched and text paths read the same
table, hence agree bit for bit. Taxonomies of more than 16 storing categories compute the same
values without the tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from memroute_env.errors import OptionError
from memroute_env.parsing import AnswerParser, ParseMode
from memroute_env.taxonomy import HORIZONS, CategorySet, Horizon, Taxonomy

__all__ = ["COMPONENTS", "BatchScores", "Reward", "RewardBreakdown", "RewardConfig"]

COMPONENTS = ("f1", "temporal", "parity", "efficiency")
"""Names of the reward's components, in the order of every array that holds the four."""

_TABLE_LIMIT = 16
"""Most storing categories for which per-mask tables are built (2**16 masks)."""

_CHUNK = 4_096
"""Masks scored at a time, so that the intermediate arrays stay in the processor's cache."""

MaskArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float64]


def _default_adjacency() -> frozenset[frozenset[Horizon]]:
    pairs = [("long", "medium"), ("medium", "short"), ("medium", "rolling"), ("rolling", "short")]
    return frozenset(frozenset(Horizon(h) for h in pair) for pair in pairs)


@dataclass(frozen=True)
class RewardConfig:
    """Every number of the reward; the default is the specification's.

    Raises:
        OptionError: If weights are negative or do not sum to 1, the efficiency schedule rises or
            leaves [0, 1], or an adjacency is not a pair of two horizons.
    """

    f1_weight: float = 0.6
    temporal_weight: float = 0.2
    parity_weight: float = 0.1
    efficiency_weight: float = 0.1
    efficiency: tuple[float, ...] = (1.0, 1.0, 1.0, 0.7, 0.4, 0.0)
    """Efficiency of an answer of 1, 2, 3, ... categories; the last value holds beyond."""
    adjacent: frozenset[frozenset[Horizon]] = field(default_factory=_default_adjacency)
    """Unordered pairs of horizons that count as close."""
    adjacent_score: float = 0.5
    """Temporal score of two different, adjacent horizons; equal ones score 1, others 0."""
    malformed: float = -1.0
    """Total of an answer that cannot be read."""

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if any(not 0 <= w <= 1 for w in self.weights) or abs(math.fsum(self.weights) - 1) > 1e-9:
            raise OptionError(
                f"reward weights must be in [0, 1] and sum to 1, got {self.weights} "
                f"with sum {math.fsum(self.weights):g}"
            )
        schedule = self.efficiency
        falling = all(a >= b for a, b in zip(schedule, schedule[1:], strict=False))
        if not schedule or not falling or not all(0 <= e <= 1 for e in schedule):
            raise OptionError(
                f"the efficiency schedule must fall within [0, 1] as answers grow, got {schedule}"
            )
        if not 0 <= self.adjacent_score <= 1:
            raise OptionError(f"adjacent_score must be in [0, 1], got {self.adjacent_score}")
        for pair in self.adjacent:
            if len(pair) != 2 or any(h not in HORIZONS for h in pair):
                raise OptionError(f"an adjacency is a pair of two horizons, got {set(pair)}")
        if not math.isfinite(self.malformed):
            raise OptionError(f"the malformed score must be finite, got {self.malformed}")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Weights in the order of `COMPONENTS`."""
        return (self.f1_weight, self.temporal_weight, self.parity_weight, self.efficiency_weight)


class RewardBreakdown(NamedTuple):
    """The reward of one answer."""

    total: float
    """In [0, 1], or the malformed score."""
    f1: float
    """2·|P∩G| / (|P|+|G|), in [0, 1]."""
    temporal: float
    """1 for equal horizons, 0.5 for adjacent ones, else 0 (by default)."""
    parity: float
    """1 if both sets have the same scope, else 0."""
    efficiency: float
    """By the size of the answer: 1.0 up to three, 0.7, 0.4, 0.0 (by default)."""
    malformed: str = ""
    """Empty, or why the answer could not be read."""


class BatchScores(NamedTuple):
    """Rewards of a batch with their components, each of shape (N,), float64, as in a breakdown."""

    total: FloatArray
    f1: FloatArray
    temporal: FloatArray
    parity: FloatArray
    efficiency: FloatArray


class _Tables(NamedTuple):
    class_of: npt.NDArray[np.intp]
    """(num_masks,): class of each mask, times `stride`."""
    column_of: npt.NDArray[np.intp]
    """(num_masks,): class of each mask, times `max_shared`: the gold side of the index."""
    shared: npt.NDArray[np.uint8]
    """(num_masks,): number of set bits."""
    total: FloatArray
    """(classes · classes · max_shared,): totals by predicted class, gold class, shared."""
    columns: tuple[FloatArray, ...]
    """Total and the four components, each like `total`."""
    breakdown: list[RewardBreakdown]
    """The same as ready objects for the scalar path."""


class Reward:
    """Scores answers of one taxonomy: `score`, `score_text` and `score_masks` agree exactly.

    Immutable and safe to share between threads. Tables are built once per process for each
    (taxonomy, config) and shared.

    Args:
        taxonomy: The categories.
        config: Weights and schedules.

    Example:
        >>> reward = Reward(load_taxonomy("marketing"))
        >>> reward.score(["company.brand_core"], ["company.brand_core"]).total
        1.0
    """

    def __init__(self, taxonomy: Taxonomy, config: RewardConfig | None = None) -> None:
        """See the class."""
        self.taxonomy = taxonomy
        self.config = config or RewardConfig()
        self._model = _SetModel(taxonomy, self.config)
        self._tables = (
            _build_tables(taxonomy, self.config) if taxonomy.num_storing <= _TABLE_LIMIT else None
        )
        self._parsers: dict[str, AnswerParser] = {
            "strict": AnswerParser(taxonomy, "strict"),
            "lenient": AnswerParser(taxonomy, "lenient"),
        }
        if self._tables is not None:
            self._rows = self._tables.class_of.tolist()
            self._columns = self._tables.column_of.tolist()

    def __reduce__(self) -> tuple[type[Reward], tuple[Taxonomy, RewardConfig]]:
        """Pickle without the tables."""
        return Reward, (self.taxonomy, self.config)

    def score(self, predicted: CategorySet, gold: CategorySet) -> RewardBreakdown:
        """Score one set against another; each a mask, an id, or an iterable of ids.

        Raises:
            UnknownCategoryError: For an id that the taxonomy does not have.
            TaxonomyError: For an empty set, the exclusive id beside others, a mask out of range.
        """
        mask = self.taxonomy.mask
        return self._score_mask(mask(predicted), mask(gold))

    def score_text(
        self,
        text: object,
        gold: CategorySet,
        parse: ParseMode = "strict",
        *,
        truncated: bool = False,
    ) -> RewardBreakdown:
        """Score the text of an answer.

        Args:
            text: What the model said.
            gold: The gold set, as in `score`.
            parse: `"strict"` or `"lenient"`.
            truncated: The answer was cut off by the token limit: see `AnswerParser`.

        Returns:
            The breakdown; for a malformed answer the malformed score, all components 0, and the
            reason in `malformed`.
        """
        answer = self.parser(parse)(text, truncated=truncated)
        gold_mask = gold if type(gold) is int and 0 <= gold < self.taxonomy.num_masks else None
        if gold_mask is None:
            gold_mask = self.taxonomy.mask(gold)
        if answer.mask is None:
            return self.malformed(answer.malformed)
        return self._score_mask(answer.mask, gold_mask)

    def parser(self, mode: ParseMode) -> AnswerParser:
        """The parser that `score_text` uses for this mode.

        Raises:
            OptionError: If the mode is neither `strict` nor `lenient`.
        """
        try:
            return self._parsers[mode]
        except KeyError:
            raise OptionError(f"parse mode {mode!r} is not one of strict, lenient") from None

    def malformed(self, reason: str) -> RewardBreakdown:
        """The breakdown of an answer that could not be read."""
        return RewardBreakdown(self.config.malformed, 0.0, 0.0, 0.0, 0.0, reason)

    def _score_mask(self, predicted: int, gold: int) -> RewardBreakdown:
        """The breakdown of two masks that are known to be valid."""
        if self._tables is None:
            scores = self._model.score(np.array([predicted]), np.array([gold]))
            total, f1, temporal, parity, efficiency = (float(column[0]) for column in scores)
            return RewardBreakdown(total, f1, temporal, parity, efficiency)
        shared = (predicted & gold).bit_count()
        return self._tables.breakdown[self._rows[predicted] + self._columns[gold] + shared]

    @overload
    def score_masks(
        self, predicted_N: npt.ArrayLike, gold_N: npt.ArrayLike, components: Literal[False] = False
    ) -> FloatArray: ...
    @overload
    def score_masks(
        self, predicted_N: npt.ArrayLike, gold_N: npt.ArrayLike, components: Literal[True]
    ) -> BatchScores: ...
    def score_masks(
        self, predicted_N: npt.ArrayLike, gold_N: npt.ArrayLike, components: bool = False
    ) -> FloatArray | BatchScores:
        """Score a batch of masks.

        Args:
            predicted_N: Integer masks of shape (N,), each in `[0, num_masks)`.
            gold_N: The same shape, or anything that broadcasts with it.
            components: Also return the four components.

        Returns:
            Totals of shape (N,), float64; with `components` a `BatchScores`.

        Raises:
            OptionError: If an array does not hold integers or a mask is out of range.
        """
        predicted = _as_masks(predicted_N, "predicted_N")
        gold = _as_masks(gold_N, "gold_N")
        if predicted.shape != gold.shape:
            predicted, gold = np.broadcast_arrays(predicted, gold)
        if components:
            self._check_range(predicted, gold)
            return self._components(predicted, gold)
        if self._tables is None:
            self._check_range(predicted, gold)
            return self._model.score(predicted, gold).total
        if predicted.size <= _CHUNK:
            self._check_range(predicted, gold)
            return self._look_up(self._tables, predicted, gold)
        # In pieces that stay in the cache: twice the speed of one pass at a million.
        totals = np.empty(predicted.shape)
        flat, p, g = totals.reshape(-1), predicted.reshape(-1), gold.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            piece = slice(start, start + _CHUNK)
            self._check_range(p[piece], g[piece])
            flat[piece] = self._look_up(self._tables, p[piece], g[piece])
        return totals

    def _components(self, predicted: MaskArray, gold: MaskArray) -> BatchScores:
        """Totals and components of int64 masks that are known to be valid."""
        if self._tables is None:
            return self._model.score(predicted, gold)
        index = self._index(self._tables, predicted, gold)
        return BatchScores(*[column.take(index) for column in self._tables.columns])

    @staticmethod
    def _index(tables: _Tables, predicted: MaskArray, gold: MaskArray) -> npt.NDArray[np.intp]:
        index = tables.class_of.take(predicted)
        index += tables.column_of.take(gold)
        index += tables.shared.take(predicted & gold)
        return index

    def _look_up(self, tables: _Tables, predicted: MaskArray, gold: MaskArray) -> FloatArray:
        return tables.total.take(self._index(tables, predicted, gold))

    def _check_range(self, predicted: MaskArray, gold: MaskArray) -> None:
        """Refuse masks outside `[0, num_masks)` before anything is looked up."""
        # num_masks is a power of two and a negative int is a huge unsigned one, so the bitwise
        # or is in range exactly if both are: one pass instead of four.
        limit = self.taxonomy.num_masks
        if predicted.size and int((predicted | gold).view(np.uint64).max()) >= limit:
            for name, array in (("predicted_N", predicted), ("gold_N", gold)):
                bad = array[(array < 0) | (array >= limit)]
                if bad.size:
                    raise OptionError(f"{name}: mask {bad.flat[0]} is not in [0, {limit})")

    def score_actions(self, bits_NC: npt.ArrayLike, gold_N: npt.ArrayLike) -> FloatArray:
        """Score a batch of MultiBinary or MultiDiscrete actions.

        Args:
            bits_NC: 0/1 entries of shape (N, num_storing); a row of zeros is the exclusive answer.
            gold_N: Gold masks of shape (N,).

        Returns:
            Totals of shape (N,), float64.

        Raises:
            InvalidAction: If the shape is wrong or an entry is neither 0 nor 1.
            OptionError: If a gold mask is out of range.
        """
        from memroute_env.wrappers import pack_masks

        return self.score_masks(pack_masks(np.asarray(bits_NC), self.taxonomy.num_storing), gold_N)

    def table(self, predicted: npt.ArrayLike, gold: npt.ArrayLike) -> FloatArray:
        """Totals of every pair: shape (len(predicted), len(gold)), float64."""
        rows, columns = np.asarray(predicted), np.asarray(gold)
        return self.score_masks(rows[:, None], columns[None, :])


def _as_masks(masks: npt.ArrayLike, name: str) -> MaskArray:
    array = np.asarray(masks)
    if array.dtype.kind not in "iu":
        raise OptionError(
            f"{name}: integer masks are needed, got dtype {array.dtype}; "
            "use taxonomy.mask(ids) to make them"
        )
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 1 << 63:
        raise OptionError(f"{name}: mask {array.max()} does not fit a signed 64-bit integer")
    return array.astype(np.int64, copy=False)


class _SetModel:
    """The reward's formula on arrays of masks, without any per-mask table.

    It defines every value: the tables are filled from it.
    """

    def __init__(self, taxonomy: Taxonomy, config: RewardConfig) -> None:
        self.config = config
        self.num_storing = taxonomy.num_storing
        bit = [1 << i for i in range(taxonomy.num_storing)]
        self.horizon_masks = np.array(
            [
                sum(b for b, c in zip(bit, taxonomy.storing, strict=True) if c.horizon == h)
                for h in HORIZONS
            ]
        )
        self.scope_masks = np.array(
            [
                sum(b for b, c in zip(bit, taxonomy.storing, strict=True) if c.scope == s)
                for s in taxonomy.scopes
            ]
        )
        self.exclusive_horizon = HORIZONS.index(taxonomy.exclusive.horizon)
        self.mixed = len(taxonomy.scopes)
        self.temporal = np.array(
            [
                [
                    1.0
                    if a == b
                    else config.adjacent_score * (frozenset((a, b)) in config.adjacent)
                    for b in HORIZONS
                ]
                for a in HORIZONS
            ]
        )
        self.efficiency = np.array(
            [
                config.efficiency[min(max(size, 1), len(config.efficiency)) - 1]
                for size in range(taxonomy.num_storing + 1)
            ]
        )

    def horizon(self, masks: MaskArray) -> npt.NDArray[np.intp]:
        counts = np.stack([_popcount(masks & m) for m in self.horizon_masks])
        # argmax takes the first of equals, and HORIZONS is in tie-breaking order.
        return np.where(masks == 0, self.exclusive_horizon, counts.argmax(axis=0))

    def scope(self, masks: MaskArray) -> npt.NDArray[np.intp]:
        present = np.stack([(masks & m) != 0 for m in self.scope_masks])
        several = present.sum(axis=0) > 1
        return np.where(
            masks == 0, self.mixed + 1, np.where(several, self.mixed, present.argmax(axis=0))
        )

    def score(self, predicted: MaskArray, gold: MaskArray) -> BatchScores:
        size_p, size_g = _popcount(predicted), _popcount(gold)
        return self.combine(
            self.horizon(predicted),
            self.horizon(gold),
            self.scope(predicted),
            self.scope(gold),
            size_p,
            size_g,
            _popcount(predicted & gold),
        )

    def combine(
        self,
        horizon_p: npt.NDArray[np.intp],
        horizon_g: npt.NDArray[np.intp],
        scope_p: npt.NDArray[np.intp],
        scope_g: npt.NDArray[np.intp],
        size_p: npt.NDArray[np.intp],
        size_g: npt.NDArray[np.intp],
        shared: npt.NDArray[np.intp],
    ) -> BatchScores:
        """Components and totals from what matters about each pair of sets (sizes in bits)."""
        both_exclusive = (size_p == 0) & (size_g == 0)
        # The exclusive answer is a set of one category, though its mask has no bit.
        elements = np.maximum(size_p, 1) + np.maximum(size_g, 1)
        f1 = 2.0 * np.where(both_exclusive, 1, shared) / elements
        temporal = self.temporal[horizon_p, horizon_g]
        parity = (scope_p == scope_g).astype(np.float64)
        efficiency = self.efficiency[size_p]
        a, b, c, d = self.config.weights
        total = a * f1 + (b * temporal + c * parity + d * efficiency)
        perfect = (f1 == 1) & (temporal == 1) & (parity == 1) & (efficiency == 1)
        # Weights sum to 1 only up to rounding; a perfect answer is exactly 1 all the same.
        total = np.where(perfect, 1.0, np.minimum(total, 1.0))
        return BatchScores(total, f1, temporal, parity, efficiency)


def _popcount(masks: MaskArray) -> npt.NDArray[np.intp]:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(np.asarray(masks, np.int64)).astype(np.intp)
    values = np.asarray(masks, np.int64)
    return sum(((values >> np.int64(b)) & 1 for b in range(63)), np.zeros_like(values)).astype(
        np.intp
    )


@lru_cache(maxsize=32)
def _build_tables(taxonomy: Taxonomy, config: RewardConfig) -> _Tables:
    model = _SetModel(taxonomy, config)
    masks = np.arange(taxonomy.num_masks)
    horizon, scope, size = model.horizon(masks), model.scope(masks), _popcount(masks)
    code = (horizon * (model.mixed + 2) + scope) * (taxonomy.num_storing + 1) + size
    classes, first, class_of = np.unique(code, return_index=True, return_inverse=True)
    depth = taxonomy.num_storing + 1
    row, column, shared = np.ix_(range(len(classes)), range(len(classes)), range(depth))
    h, s, n = horizon[first], scope[first], size[first]
    scores = model.combine(
        *np.broadcast_arrays(h[row], h[column], s[row], s[column], n[row], n[column], shared)
    )
    flat = [np.ascontiguousarray(values).ravel() for values in scores]
    return _Tables(
        class_of=class_of.ravel() * (len(classes) * depth),
        column_of=class_of.ravel() * depth,
        shared=size.astype(np.uint8),
        total=flat[0],
        columns=tuple(flat),
        breakdown=_LazyBreakdowns(flat),
    )


class _LazyBreakdowns(list[RewardBreakdown]):
    """Breakdowns by table index, each made the first time it is asked for.

    A list of all 37,908 tuples would take most of the build time; an episode touches a few dozen.
    """

    def __init__(self, columns: list[FloatArray]) -> None:
        super().__init__()
        self._columns = columns
        self._made: dict[int, RewardBreakdown] = {}

    def __getitem__(self, index: Any) -> Any:
        found = self._made.get(index)
        if found is None:
            total, f1, temporal, parity, efficiency = (float(c[index]) for c in self._columns)
            found = RewardBreakdown(total, f1, temporal, parity, efficiency)
            self._made[index] = found
        return found


def describe(config: RewardConfig) -> Mapping[str, Any]:
    """The configuration as plain data, for reports and checkpoints."""
    return {
        **{f"{name}_weight": w for name, w in zip(COMPONENTS, config.weights, strict=True)},
        "efficiency": list(config.efficiency),
        "adjacent": sorted(sorted(str(h) for h in pair) for pair in config.adjacent),
        "adjacent_score": config.adjacent_score,
        "malformed": config.malformed,
    }
