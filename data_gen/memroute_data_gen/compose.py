"""The offline composer: any number of labelled conversations from the authored bank.

Conversation i depends on (seed, i), the recipe and the bank alone, so that any one of them can be
rebuilt by itself and any number of workers may share the work. A conversation is made of *units*
(authored messages that carry categories), *distractors* (authored `none` exchanges), replies and
closing remarks; sometimes a unit is grafted onto a conversation written in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from itertools import chain
from random import Random
from typing import Any

from memroute_data_gen.authored import Bank, Utterance, load_bank
from memroute_env.conversation import Conversation, Example, Labels, Metadata, Turn
from memroute_env.errors import OptionError
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["DOMAINS", "Composer", "Recipe", "compose"]

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


@dataclass(frozen=True)
class Recipe:
    """What the composed conversations are like; every share is a probability in [0, 1].

    Raises:
        OptionError: If a share is out of range or the label shares do not sum to 1.
    """

    none: float = 0.15
    """Share of conversations with nothing to store."""
    one: float = 0.53
    two: float = 0.25
    three: float = 0.07
    """Shares of conversations with one, two and three categories."""
    distractors: tuple[float, float, float] = (0.42, 0.38, 0.20)
    """Shares of conversations with no, one and two `none` exchanges beside the units."""
    second_unit: float = 0.25
    """One category: the chance that a second message shows it too."""
    mixed_unit: float = 0.35
    """Several categories: the chance that one message carries them all, where the bank has one."""
    merged: float = 0.3
    """The chance that two neighbouring user messages are sent as one."""
    own_reply: float = 0.35
    """The chance of the reply written for a message rather than a shared one of its act."""
    opening: float = 0.12
    """The chance that the conversation opens with a greeting."""
    closing: float = 0.35
    """The chance that the user closes it."""
    last_reply: float = 0.6
    """The chance that the assistant has the last word."""
    max_turns: int = 12

    def __post_init__(self) -> None:
        """Check the shares once."""
        for item in fields(self):
            value = getattr(self, item.name)
            for share in value if isinstance(value, tuple) else (value,):
                if item.name != "max_turns" and not 0 <= share <= 1:
                    raise OptionError(f"recipe: {item.name} must be in [0, 1], got {value}")
        for name, shares in (
            ("none + one + two + three", (self.none, self.one, self.two, self.three)),
            ("distractors", self.distractors),
        ):
            if abs(sum(shares) - 1) > 1e-9:
                raise OptionError(f"recipe: {name} must sum to 1, got {sum(shares):g}")
        if self.max_turns < 4:
            raise OptionError(f"recipe: max_turns must be at least 4, got {self.max_turns}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """A recipe from plain data, such as a TOML file.

        Raises:
            OptionError: For an unknown key or a value of the wrong type.
        """
        known = {item.name for item in fields(cls)}
        for key, value in data.items():
            if key not in known:
                raise OptionError(f"recipe: unknown key {key!r}; known: {', '.join(sorted(known))}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number and not (key == "distractors" and isinstance(value, list | tuple)):
                raise OptionError(f"recipe: {key}: a number is needed, got {value!r}")
        values = dict(data)
        if "distractors" in values:
            try:
                shares = tuple(float(share) for share in values["distractors"])
            except (TypeError, ValueError):
                shares = ()
            if len(shares) != 3:
                raise OptionError("recipe: distractors: three shares are needed (none, one, two)")
            values["distractors"] = shares
        return cls(**values)


_TWICE = 0.6
"""People say goodbye twice, and no closing remark may become a fixture."""

_CLOSERS = ("train", "train", "validation", "train", "train", "test")
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


@dataclass(slots=True)
class _Pools:
    """A split of the bank, sorted for drawing."""

    single: list[list[Utterance]] = field(default_factory=list)
    mixed: dict[int, list[Utterance]] = field(default_factory=dict)
    """Number of categories to the messages that carry as many."""
    none: list[Utterance] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)
    """Closing remarks: even those belong to one split."""


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
        self._pools = _pools(self.bank, split, self.taxonomy.num_storing)

    def __call__(self, index: int) -> Example:
        """Conversation number `index` (0 or more)."""
        rng = Random((self.seed << 40) | (index << 2) | 1)
        recipe = self.recipe
        entities: dict[str, str] = {}
        wanted = rng.choices((0, 1, 2, 3), (recipe.none, recipe.one, recipe.two, recipe.three))[0]
        units = self._units(rng, wanted)
        count = rng.choices((0, 1, 2), recipe.distractors)[0]
        if wanted == 0:
            count += 1 if count == 0 else 0
        used = {unit.id for unit in units}
        strangers = [u for u in rng.sample(self._pools.none, count + 2) if u.id not in used][:count]
        parts = [self._part(rng, unit, entities) for unit in units]
        for stranger in strangers:
            part = self._part(rng, stranger, entities)
            part.distractor = wanted > 0
            parts.insert(rng.randint(0, len(parts)), part)
        self._merge(rng, parts)
        return self._finish(rng, index, parts)

    def _units(self, rng: Random, wanted: int) -> list[Utterance]:
        """The messages that carry the conversation's categories."""
        pools, recipe = self._pools, self.recipe
        if wanted == 0:
            return [rng.choice(pools.none)]
        if wanted == 1:
            pool = rng.choice(pools.single)
            return rng.sample(pool, 2 if rng.random() < recipe.second_unit else 1)
        if rng.random() < recipe.mixed_unit and pools.mixed.get(wanted):
            return [rng.choice(pools.mixed[wanted])]
        return [rng.choice(pool) for pool in rng.sample(pools.single, wanted)]

    def _part(self, rng: Random, unit: Utterance, entities: dict[str, str]) -> _Part:
        local = dict(entities)
        text = self._fill(rng, unit.text, local, entities)
        if rng.random() < self.recipe.own_reply:
            reply = self._fill(rng, unit.reply, local, entities)
        else:
            reply = rng.choice(self.bank.replies[unit.act])
        return _Part(text, reply, unit.act, unit.mask)

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
        """Send two neighbouring messages as one, now and then."""
        if len(parts) < 2 or rng.random() >= self.recipe.merged:
            return
        at = rng.randrange(len(parts) - 1)
        first, second = parts[at], parts.pop(at + 1)
        joint = rng.choice((" ", " ", "\n", " also, ", " oh and ", " btw, "))
        text = first.text if first.text[-1] in ".!?…" else first.text + "."
        if joint.strip() and second.text[:2].istitle() and second.text[:2] not in ("I ", "I'"):
            joint = joint.strip().capitalize() + " "
            joint = " " + joint
        parts[at] = _Part(
            text + joint + second.text,
            second.reply,
            second.act,
            first.mask | second.mask,
            first.distractor and second.distractor,
        )

    def _finish(self, rng: Random, index: int, parts: list[_Part]) -> Example:
        """Turns with replies, opening and closing; labels, evidence and distractors."""
        recipe, replies = self.recipe, self.bank.replies
        turns: list[Turn] = []
        evidence: dict[str, list[int]] = {}
        distractors: list[int] = []
        mask = 0
        spoken: set[str] = set()
        if rng.random() < recipe.opening:
            parts[0].text = f"{rng.choice(replies['opening'])} {parts[0].text}"
        for part in parts:
            position = len(turns)
            mask |= part.mask
            for category_id in self.taxonomy.ids(part.mask) if part.mask else ():
                evidence.setdefault(category_id, []).append(position)
            if part.distractor:
                distractors.append(position)
            reply = part.reply
            while reply in spoken:
                reply = rng.choice(replies[part.act])
            spoken.add(reply)
            turns.append(Turn.model_construct(role="user", content=part.text))
            turns.append(Turn.model_construct(role="assistant", content=reply))
        if len(turns) < 3 or (len(turns) + 2 <= recipe.max_turns and rng.random() < recipe.closing):
            if mask:
                distractors.append(len(turns))
            closing = rng.choice(self._pools.closing)
            if rng.random() < _TWICE:
                closing = f"{closing} {rng.choice(self._pools.closing)}"
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


def _pools(bank: Bank, split: str, num_storing: int) -> _Pools:
    pools = _Pools(single=[[] for _ in range(num_storing)])
    for unit in bank.utterances:
        if unit.split != split:
            continue
        size = unit.mask.bit_count()
        if size == 0:
            pools.none.append(unit)
        elif size == 1:
            pools.single[unit.mask.bit_length() - 1].append(unit)
        else:
            pools.mixed.setdefault(size, []).append(unit)
    pools.closing = [
        text for i, text in enumerate(bank.replies["closing"]) if _CLOSERS[i % 6] == split
    ]
    if not pools.none or not all(pools.single):
        raise OptionError(f"the bank has no utterances of some category in split {split!r}")
    return pools


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


def _compose_chunk(job: tuple[int, str, Recipe | None, int, int]) -> Sequence[Example]:
    seed, split, recipe, start, count = job
    return list(compose(count, seed=seed, split=split, recipe=recipe, start=start))
