"""The offline composer: any number of labelled conversations from the authored bank.

Conversation i depends on (seed, i), the recipe and the bank alone, so that any one of them can be
rebuilt by itself and any number of workers may share the work. A conversation is made of *units*
(authored messages that carry categories), *distractors* (authored `none` exchanges), replies,
openings, bridges from one subject to the next and closing remarks.

Messages are dealt rather than drawn: a pool is a deck that is shuffled anew each time it has been
gone through, so that in a small split, too, no message comes up again before the others have. A
hundred neighbouring conversations are dealt together, from (seed, number of the hundred).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from random import Random

from memroute_data_gen.authored import Bank, Utterance, load_bank
from memroute_data_gen.deck import Card, Deck
from memroute_data_gen.phrasing import GREETS, joined
from memroute_data_gen.recipe import Recipe
from memroute_data_gen.splits import normalise
from memroute_env.conversation import Conversation, Example, Labels, Metadata, Turn
from memroute_env.errors import OptionError
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["DOMAINS", "Composer", "Recipe", "compose", "compose_distinct"]

DOMAINS: Mapping[str, str] = {
    "company.brand_core": "Brand & Positioning",
    "company.strategic_signatures": "Strategic Decisions",
    "company.knowledge_artifacts": "Knowledge Artifacts",
    "company.business_priorities": "Business Priorities",
    "company.tools_config": "Tools & Integrations",
    "company.performance_context": "Performance & Metrics",
    "user.communication_style": "User Preferences",
    "user.strategic_approach": "Strategic Decisions",
    "user.role_context": "User Preferences",
    "user.workflow_patterns": "User Preferences",
    "user.session_history": "User Preferences",
    "user.interaction_preferences": "User Preferences",
}
"""Category to the benchmark's domain in which it is at home; `none` takes any."""


_HUNDRED = 100
"""Conversations that are dealt together."""
_ANSWERED = ("question", "request")
"""Acts that the assistant has to respond to."""
_CLOSING = (0.2, 0.15, 0.65)
"""Shares of closings that thank, that say why the user leaves, and that do both."""
_CLOSERS = ("train", "validation", "train", "test")
_SLOT = re.compile(r"\{(\w+?)(2?)\}")
_WHOLE_CONVERSATION = frozenset(("company", "product", "competitor"))


@dataclass(slots=True)
class _Part:
    """A user message on its way into a conversation."""

    text: str
    reply: str
    act: str
    mask: int
    distractor: bool = False
    ends: bool = False
    """Says thanks or goodbye: the last of its conversation."""


@dataclass(slots=True)
class _Decks:
    """A split of the bank, ready to be dealt."""

    single: list[Deck[Utterance]]
    """One for each category."""
    mixed: dict[int, Deck[Utterance]]
    """Number of categories to the messages that carry as many."""
    none: Deck[Utterance]
    thanks: Deck[str]
    """Closing remarks: even those belong to one split."""
    leaving: Deck[str]


@dataclass(slots=True)
class _Deal:
    """What a conversation is made of."""

    units: list[Utterance]
    strangers: list[Utterance]
    """`none` messages beside the units."""
    closing: str


class Composer:
    """Makes conversations from one split of the bank.

    Args:
        seed: Together with the index it determines a conversation.
        split: Which utterances may be used; conversations of different splits share none.
        recipe: What they are like.
        bank: The shipped one by default.
    """

    def __init__(
        self,
        seed: int = 0,
        split: str = "train",
        recipe: Recipe | None = None,
        bank: Bank | None = None,
    ) -> None:
        """See the class."""
        if not 0 <= seed < 2**31:
            raise OptionError(f"seed must be in [0, 2**31), got {seed}")
        self.seed, self.split, self.recipe = seed, split, recipe or Recipe()
        self.bank = bank or load_bank()
        self.taxonomy: Taxonomy = load_taxonomy("marketing")
        self._decks = _decks(self.bank, split, self.taxonomy.num_storing, seed, self.recipe)
        self._dealt: tuple[int, list[_Deal]] = (-1, [])

    def __call__(self, index: int) -> Example:
        """Conversation number `index` (0 or more)."""
        number, place = divmod(index, _HUNDRED)
        if self._dealt[0] != number:
            self._dealt = (number, self._deal(number))
        deal = self._dealt[1][place]
        rng = Random((self.seed << 40) | (index << 2) | 1)
        entities: dict[str, str] = {}
        parts = [self._part(rng, unit, entities) for unit in deal.units]
        stored = any(unit.mask for unit in deal.units)
        room = self.recipe.max_turns // 2 - len(parts)  # each is answered
        for stranger in deal.strangers[: max(room, 0)]:
            part = self._part(rng, stranger, entities)
            part.distractor = stored
            parts.insert(rng.randint(0, len(parts)), part)
        parts.sort(key=lambda part: part.ends)
        self._merge(rng, parts)
        return self._finish(rng, index, parts, deal.closing)

    def _deal(self, number: int) -> list[_Deal]:
        """What the conversations of hundred `number` are made of."""
        rng = Random(f"{self.seed}:{self.split}:{number}")
        recipe, decks = self.recipe, self._decks
        single = [deck.hand(number) for deck in decks.single]
        mixed = {size: deck.hand(number) for size, deck in decks.mixed.items()}
        none, thanks, leaving = (
            decks.none.hand(number),
            decks.thanks.hand(number),
            decks.leaving.hand(number),
        )
        deals = []
        for _ in range(_HUNDRED):
            shares = (recipe.none, recipe.one, recipe.two, recipe.three)
            wanted = rng.choices((0, 1, 2, 3), shares)[0]
            strangers = rng.choices((0, 1, 2), recipe.distractors)[0]
            if wanted == 0:
                units = _different(none, 1 + max(strangers, 1))
                units, others = units[:1], units[1:]
            else:
                others = _different(none, strangers)
                if wanted == 1:
                    twice = rng.random() < recipe.second_unit
                    units = _different(rng.choice(single), 2 if twice else 1)
                elif wanted in mixed and rng.random() < recipe.mixed_unit:
                    units = _different(mixed[wanted], 1)
                else:
                    units = [next(hand) for hand in rng.sample(single, wanted)]
            how = rng.choices((0, 1, 2), _CLOSING)[0]
            remark = next(thanks) if how != 1 else ""
            if how == 2 and remark[-1].isalnum():
                remark += "."
            if how != 0:
                remark = f"{remark} {next(leaving)}".strip()
            deals.append(_Deal(units, others, remark))
        return deals

    def _part(self, rng: Random, unit: Utterance, entities: dict[str, str]) -> _Part:
        local = dict(entities)
        text = self._fill(rng, unit.text, local, entities)
        if unit.act == "statement" and rng.random() >= self.recipe.own_reply:
            reply = ""
        else:
            reply = self._fill(rng, unit.reply, local, entities)
        return _Part(text, reply, unit.act, unit.mask, ends=unit.kind == "thanks")

    def _fill(self, rng: Random, text: str, local: dict[str, str], shared: dict[str, str]) -> str:
        """Put entities into slots: company and product hold for the whole conversation."""
        if "{" not in text:
            return text

        def value(match: re.Match[str]) -> str:
            key = match[0]
            if key not in local:
                drawn = self._entity(rng, match[1])
                while drawn == local.get("{" + match[1] + "}"):
                    drawn = self._entity(rng, match[1])
                local[key] = drawn
                if match[1] in _WHOLE_CONVERSATION:
                    shared[key] = drawn
            return local[key]

        return _SLOT.sub(value, text)

    def _entity(self, rng: Random, name: str) -> str:
        figures = self.bank.figures
        if name in figures:
            number = rng.randint(*figures[name])
            if name == "percent":
                return f"{number}%" if rng.random() < 0.8 else f"{number}.{rng.randint(1, 9)}%"
            if name == "amount":
                unit = rng.choice(("k", "k", ",000", ""))
                return f"{rng.choice('$$€£')}{number}{unit}"
            if name == "time":
                return f"{number}:{rng.choice(('00', '15', '30', '45'))}"
            return str(number)
        return rng.choice(self.bank.slots[name])

    def _merge(self, rng: Random, parts: list[_Part]) -> None:
        """Send two neighbouring messages as one, now and then; what wants an answer comes last."""
        if len(parts) < 2 or rng.random() >= self.recipe.merged:
            return
        at = rng.randrange(len(parts) - 1)
        first, second = parts[at : at + 2]
        if second.ends:
            return
        if first.act in _ANSWERED and second.act not in _ANSWERED:
            first, second = second, first
        reply = second.reply
        if first.act != "statement" and first.reply != second.reply:
            reply = f"{first.reply}\n{second.reply}"
        text = self._bridged(rng, second.text) if rng.random() < 0.6 else second.text
        joint = " " if text is not second.text and first.text[-1] in ".!?…" else "\n"
        parts[at : at + 2] = [
            _Part(
                first.text + joint + text,
                reply,
                second.act,
                first.mask | second.mask,
                first.distractor and second.distractor,
            )
        ]

    def _bridged(self, rng: Random, text: str) -> str:
        """The message with a bridge from another subject, where it can take one."""
        if GREETS.match(text):
            return text
        return joined(rng.choice(self.bank.replies["bridge"]), text)

    def _finish(self, rng: Random, index: int, parts: list[_Part], closing: str) -> Example:
        """Turns with replies, opening, bridges and closing; labels, evidence and distractors."""
        recipe, replies = self.recipe, self.bank.replies
        turns: list[Turn] = []
        evidence: dict[str, list[int]] = {}
        distractors: list[int] = []
        mask = 0
        spoken: set[str] = set()
        if rng.random() < recipe.opening and not GREETS.match(parts[0].text):
            parts[0].text = joined(rng.choice(replies["opening"]), parts[0].text)
        for part in parts:
            position = len(turns)
            if position and not part.ends and rng.random() < recipe.bridge:
                part.text = self._bridged(rng, part.text)
            mask |= part.mask
            for category_id in self.taxonomy.ids(part.mask) if part.mask else ():
                evidence.setdefault(category_id, []).append(position)
            if part.distractor:
                distractors.append(position)
            reply = part.reply
            while not reply or reply in spoken:
                fitting = rng.random() < 0.5 and part.mask
                reply = rng.choice(replies["acknowledgement" if fitting else "heard"])
            spoken.add(reply)
            turns.append(Turn.model_construct(role="user", content=part.text))
            turns.append(Turn.model_construct(role="assistant", content=reply))
        closes = rng.random() < recipe.closing and not parts[-1].ends
        if len(turns) < 3 or (len(turns) < recipe.max_turns and closes):
            if mask:
                distractors.append(len(turns))
            turns.append(Turn.model_construct(role="user", content=closing))
        elif len(turns) > 3 and rng.random() >= recipe.last_reply:
            turns.pop()
        categories = self.taxonomy.ids(mask)
        sizes = (mask.bit_count() > 1) + bool(distractors) + (len(turns) > 6)
        domain = DOMAINS.get(categories[0]) or rng.choice(sorted(set(DOMAINS.values())))
        return Example.model_construct(
            id=f"composed-{self.split}-{self.seed}-{index}",
            conversation=Conversation.model_construct(turns=tuple(turns)),
            labels=Labels.model_construct(
                categories=categories,
                evidence={c: tuple(e) for c, e in evidence.items()},
                rationale="",
            ),
            metadata=Metadata.model_construct(
                domain=domain,
                difficulty=("easy", "medium", "hard", "hard")[sizes],
                source="composed",
                distractors=tuple(distractors),
            ),
        )


def _different(hand: Iterator[Utterance], wanted: int) -> list[Utterance]:
    """The next so many cards, all different (a deck may be shuffled anew in between)."""
    cards: list[Utterance] = []
    tries = 0
    while len(cards) < wanted and tries < 50:  # a pool may hold fewer
        card = next(hand)
        tries += 1
        if card not in cards:
            cards.append(card)
    return cards


def _decks(bank: Bank, split: str, num_storing: int, seed: int, recipe: Recipe) -> _Decks:
    single: list[list[Utterance]] = [[] for _ in range(num_storing)]
    mixed: dict[int, list[Utterance]] = {}
    none: list[Utterance] = []
    for unit in bank.utterances:
        if unit.split != split:
            continue
        size = unit.mask.bit_count()
        if size == 0:
            none.append(unit)
        elif size == 1:
            single[unit.mask.bit_length() - 1].append(unit)
        else:
            mixed.setdefault(size, []).append(unit)
    if not none or not all(single):
        raise OptionError(f"the bank has no utterances of some category in split {split!r}")

    def closers(name: str) -> list[str]:
        texts = bank.replies[name]
        return [text for i, text in enumerate(texts) if _CLOSERS[i % len(_CLOSERS)] == split]

    def deck(cards: Sequence[Card], name: str, share: float) -> Deck[Card]:
        return Deck(cards, f"{seed}:{split}:{name}", _HUNDRED * share)

    apart = 1 - recipe.mixed_unit
    loose = recipe.one * (1 + recipe.second_unit) + apart * (2 * recipe.two + 3 * recipe.three)
    _, once, twice = recipe.distractors
    beside = once + 2 * twice
    return _Decks(
        [deck(cards, str(bit), loose / num_storing) for bit, cards in enumerate(single)],
        {
            size: deck(cards, f"mixed {size}", recipe.mixed_unit * share)
            for size, share in ((2, recipe.two), (3, recipe.three))
            if (cards := mixed.get(size))
        },
        deck(none, "none", beside * (1 - recipe.none) + recipe.none * (2 + twice)),
        deck(closers("thanks"), "thanks", _CLOSING[0] + _CLOSING[2]),
        deck(closers("leaving"), "leaving", _CLOSING[1] + _CLOSING[2]),
    )


def compose(
    count: int,
    *,
    seed: int = 0,
    split: str = "train",
    recipe: Recipe | None = None,
    start: int = 0,
    workers: int = 1,
) -> Iterator[Example]:
    """Stream conversations `start` to `start + count - 1`.

    Args:
        count: How many.
        seed: See `Composer`.
        split: See `Composer`.
        recipe: See `Composer`.
        start: First index.
        workers: Processes; the result does not depend on it.

    Yields:
        Examples in the order of their indices.
    """
    composer = Composer(seed, split, recipe)
    if workers <= 1:
        yield from map(composer, range(start, start + count))
        return
    chunk = 500
    starts = range(start, start + count, chunk)
    jobs = [(seed, split, recipe, s, min(chunk, start + count - s)) for s in starts]
    with ProcessPoolExecutor(workers) as pool:
        yield from chain.from_iterable(pool.map(_compose_chunk, jobs))


def compose_distinct(
    count: int,
    *,
    seed: int = 0,
    split: str = "train",
    recipe: Recipe | None = None,
    start: int = 0,
    workers: int = 1,
) -> Iterator[Example]:
    """Stream `count` conversations of which no two say the same, from index `start` on.

    One in a few hundred repeats an earlier one when very many are made; it is left out, and
    another index takes its place. Sixteen bytes or so are kept for each. Arguments as in `compose`.
    """
    seen: set[bytes] = set()
    while len(seen) < count:
        made, tried = 0, max(count - len(seen), 100)
        batch = compose(tried, seed=seed, split=split, recipe=recipe, start=start, workers=workers)
        for example in batch:
            said = normalise(" ".join(example.conversation.user_texts))
            key = blake2b(said.encode(), digest_size=8).digest()
            if key not in seen:
                seen.add(key)
                made += 1
                yield example
                if len(seen) == count:
                    return
        start += tried
        if made * 10 < tried:
            raise OptionError(
                f"the bank and this recipe do not hold {count} different conversations: "
                f"{len(seen)} were made"
            )


def _compose_chunk(job: tuple[int, str, Recipe | None, int, int]) -> Sequence[Example]:
    seed, split, recipe, start, count = job
    return list(compose(count, seed=seed, split=split, recipe=recipe, start=start))
