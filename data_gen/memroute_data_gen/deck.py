"""Dealing instead of drawing: nothing comes up again before everything else has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from random import Random
from typing import Generic, TypeVar

__all__ = ["Card", "Deck"]

Card = TypeVar("Card")


class Deck(Generic[Card]):
    """A pool in an endless order: everything once, then everything again, shuffled anew.

    Args:
        cards: The pool.
        key: Seed of the order.
        hand: Cards that a hundred conversations may take before they reach into the next hand.
    """

    def __init__(self, cards: Sequence[Card], key: str, hand: float) -> None:
        """See the class."""
        self.cards, self._key = cards, key
        self._hand = math.ceil(hand + 3 * math.sqrt(hand))
        self._orders: dict[int, list[Card]] = {}

    def hand(self, number: int) -> Iterator[Card]:
        """The cards of hundred `number`, without end."""
        for position in count(number * self._hand):
            turn, place = divmod(position, len(self.cards))
            yield self._order(turn)[place]

    def _order(self, turn: int) -> list[Card]:
        if turn not in self._orders:
            if len(self._orders) > 2:
                self._orders.clear()
            order = list(self.cards)
            Random(f"{self._key}:{turn}").shuffle(order)
            self._orders[turn] = order
        return self._orders[turn]
