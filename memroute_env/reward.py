"""Scoring answers: one set, a text, or arrays of sets, all read from one table.

A set matters to the reward only through its *class* (horizon, scope, size) and through how much it
has in common with the other set, which the size of their union says. Hence the total of any pair is
one entry of a table of `classes x classes x union sizes` float64 values, filled from the formula
(`memroute_env.reward_formula`). The scalar, batched and text paths read the same table, so they
agree bit for bit.

The 4,096 sets of the marketing taxonomy fall into 54 classes: that many combinations of the most
frequent horizon (ties broken as specified), scope and size occur. Breaking ties in every possible
order would make 74, keeping each tie apart 115. All tables together take 1.6 MiB. Taxonomies of
more than 16 storing categories compute the same values without tables.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from memroute_env.categories import CategorySet, Taxonomy
from memroute_env.errors import OptionError
from memroute_env.masks import CHUNK, pack_masks, popcount
from memroute_env.parsing import AnswerParser, ParseMode
from memroute_env.reward_formula import (
    COMPONENTS,
    BatchScores,
    FloatArray,
    MaskArray,
    RewardBreakdown,
    RewardConfig,
    SetModel,
)

__all__ = ["COMPONENTS", "BatchScores", "Reward", "RewardBreakdown", "RewardConfig"]

_TABLE_LIMIT = 16
"""Most storing categories for which per-mask tables are built (2**16 masks)."""

_INT64 = np.dtype(np.int64)


class Reward:
    """Scores answers of one taxonomy: `score`, `score_text` and `score_masks` agree exactly.

    Safe to share between threads. Tables are built once per process for each (taxonomy, config)
    and shared.

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
        self._model = SetModel(taxonomy, self.config)
        self._num_masks = taxonomy.num_masks
        self._tables = (
            _build_tables(taxonomy, self.config) if taxonomy.num_storing <= _TABLE_LIMIT else None
        )
        self._parsers: dict[str, AnswerParser] = {
            "strict": AnswerParser(taxonomy, "strict"),
            "lenient": AnswerParser(taxonomy, "lenient"),
        }
        self._read_before = {mode: parser.masks for mode, parser in self._parsers.items()}

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

        Raises:
            OptionError: If the mode is neither `strict` nor `lenient`.
            UnknownCategoryError: For an unknown id in `gold`.
            TaxonomyError: For a gold set that is not one, as in `score`.
        """
        if type(gold) is not int or not 0 <= gold < self._num_masks:
            gold = self.taxonomy.mask(gold)
        predicted = None
        # Policies repeat themselves: an answer that was read before skips the parser's machinery.
        if type(text) is str and not truncated and parse in self._read_before:
            predicted = self._read_before[parse].get(text)
        if predicted is None:
            answer = self.parser(parse)(text, truncated=truncated)
            if answer.mask is None:
                return self.malformed(answer.malformed)
            predicted = answer.mask
        return self._score_mask(predicted, gold)

    def parser(self, mode: ParseMode) -> AnswerParser:
        """The parser that `score_text` uses for this mode.

        Raises:
            OptionError: If the mode is neither `strict` nor `lenient`.
        """
        try:
            return self._parsers[mode]
        except (KeyError, TypeError):
            raise OptionError(f"parse mode {mode!r} is not one of strict, lenient") from None

    def malformed(self, reason: str) -> RewardBreakdown:
        """The breakdown of an answer that could not be read."""
        return RewardBreakdown(self.config.malformed, 0.0, 0.0, 0.0, 0.0, reason)

    def _score_mask(self, predicted: int, gold: int) -> RewardBreakdown:
        """The breakdown of two masks that are known to be valid."""
        tables = self._tables
        if tables is None:
            scores = self._model.score(np.array([predicted]), np.array([gold]))
            return _breakdown(scores, 0)
        union = (predicted | gold).bit_count()
        index = tables.rows[predicted] + tables.columns[gold] + union
        found = tables.made.get(index)
        if found is None:
            found = _breakdown(tables.scores, index)
            tables.made[index] = found
        return found

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
        if self._tables is None:
            self._check_range(predicted, gold)
            scores = self._model.score(predicted, gold)
            return scores if components else scores.total
        try:
            if components:
                return self._components(predicted, gold)
            if predicted.size <= CHUNK:
                return self._tables.total.take(self._tables.entries(predicted, gold))
            return self._totals(self._tables, predicted, gold)
        except IndexError:
            self._check_range(predicted, gold)
            raise

    def _components(self, predicted: MaskArray, gold: MaskArray) -> BatchScores:
        """Totals and components of int64 masks; IndexError if one is out of range."""
        if self._tables is None:
            return self._model.score(predicted, gold)
        index = self._tables.entries(predicted, gold)
        return BatchScores(*[column.take(index) for column in self._tables.scores])

    @staticmethod
    def _totals(tables: _Tables, predicted: MaskArray, gold: MaskArray) -> FloatArray:
        """Totals of a large batch, in pieces: twice the speed of one pass at a million."""
        totals = np.empty(predicted.shape)
        flat, p, g = totals.reshape(-1), predicted.reshape(-1), gold.reshape(-1)
        for start in range(0, flat.size, CHUNK):
            piece = slice(start, start + CHUNK)
            flat[piece] = tables.total.take(tables.entries(p[piece], g[piece]))
        return totals

    def _check_range(self, predicted: MaskArray, gold: MaskArray) -> None:
        """Refuse masks outside `[0, num_masks)`."""
        for name, array in (("predicted_N", predicted), ("gold_N", gold)):
            bad = array[(array < 0) | (array >= self._num_masks)]
            if bad.size:
                raise OptionError(f"{name}: mask {bad.flat[0]} is not in [0, {self._num_masks})")

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
        width = self.taxonomy.num_storing
        bits, gold = np.asarray(bits_NC), np.asarray(gold_N)
        if len(gold.shape) != 1 or bits.shape != (len(gold), width) or len(gold) <= CHUNK:
            return self.score_masks(pack_masks(bits, width), gold)
        totals = np.empty(len(gold))
        for start in range(0, len(gold), CHUNK):
            piece = slice(start, start + CHUNK)
            totals[piece] = self.score_masks(pack_masks(bits[piece], width), gold[piece])
        return totals

    def table(self, predicted: npt.ArrayLike, gold: npt.ArrayLike) -> FloatArray:
        """Totals of every pair: shape (len(predicted), len(gold)), float64."""
        rows, columns = np.asarray(predicted), np.asarray(gold)
        return self.score_masks(rows[:, None], columns[None, :])


def _breakdown(scores: BatchScores, i: int) -> RewardBreakdown:
    total, f1, temporal, parity, efficiency = (float(column[i]) for column in scores)
    return RewardBreakdown(total, f1, temporal, parity, efficiency)


def _as_masks(masks: npt.ArrayLike, name: str) -> MaskArray:
    array = np.asarray(masks)
    if array.dtype is _INT64:
        return array
    if array.size and array.dtype.kind not in "iu":  # an empty list is an array of floats
        raise OptionError(
            f"{name}: integer masks are needed, got dtype {array.dtype}; "
            "use taxonomy.mask(ids) to make them"
        )
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 1 << 63:
        raise OptionError(f"{name}: mask {array.max()} does not fit a signed 64-bit integer")
    return array.astype(np.int64, copy=False)


class _Tables(NamedTuple):
    """The reward of every pair of sets; the entry of a pair is a sum of three look-ups."""

    row_of: npt.NDArray[np.intp]
    """(num_masks,): where the entries of a predicted mask's class begin."""
    column_of: npt.NDArray[np.intp]
    """(num_masks,): what a gold mask's class adds."""
    union_of: npt.NDArray[np.intp]
    """(2 · num_masks,): what the union adds, its size. The upper half, where numpy looks for the
    union with a negative mask, leads out of the table."""
    scores: BatchScores
    """Total and the four components, each of shape (classes · classes · union sizes,)."""
    rows: list[int]
    """`row_of` for the scalar path."""
    columns: list[int]
    """`column_of` for the scalar path."""
    made: dict[int, RewardBreakdown]
    """Entries as ready objects, each made when it is first asked for: making all of them would take
    most of the build time, and an episode touches a few dozen."""

    @property
    def total(self) -> FloatArray:
        """The totals alone."""
        return self.scores.total

    def entries(self, predicted: MaskArray, gold: MaskArray) -> npt.NDArray[np.intp]:
        """Entries of pairs of int64 masks.

        Numpy's own bounds check is the range check, so that no pass is spent on one: a mask that
        is too large, or less than -num_masks, raises IndexError here; other negative masks give an
        entry outside the table, so that reading it raises IndexError.
        """
        index = self.row_of.take(predicted)
        index += self.column_of.take(gold)
        index += self.union_of.take(predicted | gold)
        return index


@lru_cache(maxsize=32)
def _build_tables(taxonomy: Taxonomy, config: RewardConfig) -> _Tables:
    model = SetModel(taxonomy, config)
    masks = np.arange(taxonomy.num_masks)
    horizon, scope, size = model.horizon(masks), model.scope(masks), popcount(masks)
    depth = taxonomy.num_storing + 1
    code = (horizon * (model.mixed + 2) + scope) * depth + size
    classes, first, class_of = np.unique(code, return_index=True, return_inverse=True)
    row, column, union = np.ix_(range(len(classes)), range(len(classes)), range(depth))
    h, s, n = horizon[first], scope[first], size[first]
    # Some entries belong to no pair: two sets of one category have no union of five.
    shared = np.clip(n[row] + n[column] - union, 0, np.minimum(n[row], n[column]))
    scores = model.combine(
        *np.broadcast_arrays(h[row], h[column], s[row], s[column], n[row], n[column], shared)
    )
    flat = BatchScores(*[np.ascontiguousarray(values).ravel() for values in scores])
    row_of = class_of.ravel() * (len(classes) * depth)
    column_of = class_of.ravel() * depth
    return _Tables(
        row_of=row_of.astype(np.intp),
        column_of=column_of.astype(np.intp),
        union_of=np.concatenate([size, np.full(len(size), flat.total.size, np.intp)]),
        scores=flat,
        rows=row_of.tolist(),
        columns=column_of.tolist(),
        made={},
    )
