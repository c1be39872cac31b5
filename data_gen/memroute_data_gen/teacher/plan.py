"""What the teacher is asked for: balance planned ahead.

Item i of a plan depends on (seed, i) and the taxonomy alone. Items come in blocks of 100 that hold
the same number of items without a category, with one, two and three; and single categories, pairs
and triples are dealt out in turn, so that any run of items is balanced to within one round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb
from random import Random

from memroute_data_gen.compose import DOMAINS
from memroute_env.taxonomy import Taxonomy

__all__ = ["Brief", "PlanItem", "make_brief", "plan_item"]

BLOCK = 100
SIZES = (0,) * 15 + (1,) * 56 + (2,) * 23 + (3,) * 6
"""Number of categories of each item of a block, before shuffling."""

DISTRACTOR_SHARE = 0.55
"""Share of the items with a category whose conversation also holds turns beside the point."""

INDUSTRIES = (
    "independent hotels", "dental practices", "craft brewing", "online tutoring", "solar panels",
    "pet insurance", "logistics software", "a regional museum", "gym franchising", "farm machinery",
    "organic skincare", "a credit union", "board games", "medical devices", "wedding photography",
    "cyber security", "second-hand furniture", "a city theatre", "payroll software", "bike rental",
    "specialty coffee", "property management", "a hospice charity", "contract manufacturing",
    "travel insurance", "audio equipment", "a law firm", "frozen food", "recruitment", "e-learning",
    "home renovation", "telehealth", "a football club", "industrial cleaning", "jewellery",
    "a public library",
)  # fmt: skip
SPEAKERS = (
    "the founder", "a marketing director", "a junior copywriter", "a brand manager",
    "a growth lead", "an agency account manager", "a freelance consultant",
    "an operations manager who also does marketing", "a content strategist", "a sales director",
    "a customer success lead", "an intern in the second week", "a product marketer",
    "an events manager", "a data analyst", "an office manager",
)  # fmt: skip
TONES = (
    "hurried", "cheerful", "tired and terse", "formal", "chatty, digressing", "annoyed",
    "thinking aloud", "matter-of-fact", "self-mocking", "anxious before a deadline",
    "dictated, with fragments and a typo or two", "polite and long-winded",
)  # fmt: skip
OCCASIONS = (
    "preparing a meeting", "answering a complaint", "onboarding a colleague", "before a launch",
    "after disappointing numbers", "reviewing a draft", "planning the quarter", "cleaning up files",
    "a supplier's e-mail", "a question from the board", "the first day with the assistant",
    "back from holiday", "a competitor's move", "budget talks", "a small emergency",
    "an ordinary Tuesday",
)  # fmt: skip
NOTHINGS = (
    "a one-off factual question", "a quick rewrite with no lasting preference", "small talk",
    "a vague wish with nothing to hold on to", "a calculation", "thanks and goodbyes",
    "a hypothetical that decides nothing", "something read about another company",
    "a technical hiccup of the moment", "a translation",
)  # fmt: skip
"""What a conversation that stores nothing is about."""


@dataclass(frozen=True)
class PlanItem:
    """One example that the corpus shall have."""

    index: int
    categories: tuple[str, ...]
    """The gold set, in the taxonomy's order."""
    distractor: bool
    """Whether turns beside the point are wanted."""


@dataclass(frozen=True)
class Brief:
    """What one draw for an item asks for: the item's gold set in a setting of its own."""

    item: PlanItem
    industry: str
    speaker: str
    tone: str
    occasion: str
    nothing: str
    """What it is about if nothing is to be stored."""
    domain: str
    turns: int
    """Messages of both sides, 4 to 10."""
    implied: bool
    """The memorable part shows without being announced."""

    @property
    def difficulty(self) -> str:
        """`easy`, `medium` or `hard`: how many of several labels, distractors, implication."""
        points = (len(self.item.categories) > 1) + self.item.distractor + self.implied
        return ("easy", "medium", "hard", "hard")[points]


@lru_cache(maxsize=256)
def _block(seed: int, block: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Sizes of a block's items in order, and which of them want a distractor."""
    rng = Random(f"plan/{seed}/{block}")
    sizes = list(SIZES)
    rng.shuffle(sizes)
    storing = [place for place, size in enumerate(sizes) if size]
    wanted = set(rng.sample(storing, round(DISTRACTOR_SHARE * len(storing))))
    return tuple(sizes), tuple(place in wanted for place in range(BLOCK))


@lru_cache(maxsize=256)
def _round(seed: int, size: int, turn: int, num_storing: int) -> tuple[tuple[int, ...], ...]:
    """Every set of that size once, in the order of that round."""
    sets = list(combinations(range(num_storing), size))
    Random(f"round/{seed}/{size}/{turn}").shuffle(sets)
    return tuple(sets)


def plan_item(seed: int, index: int, taxonomy: Taxonomy) -> PlanItem:
    """Item `index` (0 or more) of the plan with that seed."""
    block, place = divmod(index, BLOCK)
    sizes, distractors = _block(seed, block)
    size = sizes[place]
    if size == 0:
        return PlanItem(index, (taxonomy.exclusive.id,), False)
    rank = block * SIZES.count(size) + sizes[:place].count(size)
    size = min(size, taxonomy.num_storing)
    turn, position = divmod(rank, comb(taxonomy.num_storing, size))
    bits = _round(seed, size, turn, taxonomy.num_storing)[position]
    categories = tuple(taxonomy.storing[bit].id for bit in bits)
    return PlanItem(index, categories, distractors[place])


def make_brief(seed: int, item: PlanItem, draw: int) -> Brief:
    """Draw number `draw` for an item: the same gold set, another setting."""
    rng = Random(f"brief/{seed}/{item.index}/{draw}")
    home = DOMAINS.get(item.categories[0]) or rng.choice(sorted(set(DOMAINS.values())))
    return Brief(
        item=item,
        industry=rng.choice(INDUSTRIES),
        speaker=rng.choice(SPEAKERS),
        tone=rng.choice(TONES),
        occasion=rng.choice(OCCASIONS),
        nothing=rng.choice(NOTHINGS),
        domain=home,
        turns=rng.randint(4, 10),
        implied=rng.random() < 0.5,
    )
