"""What composed conversations are like: a small validated configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from memroute_env.errors import OptionError

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What the composed conversations are like; every share is a probability in [0, 1].

    Raises:
        OptionError: If a share is out of range, the label shares do not sum to 1, or `max_turns`
            is too few for them.
    """

    none: float = 0.15
    """Share of conversations with nothing to store."""
    one: float = 0.53
    two: float = 0.25
    three: float = 0.07
    """Shares of conversations with one, two and three categories."""
    distractors: tuple[float, float, float] = (0.42, 0.38, 0.20)
    """Shares of conversations with no, one and two `none` exchanges beside the units."""
    second_unit: float = 0.2
    """One category: the chance that a second message shows it too."""
    mixed_unit: float = 0.35
    """Several categories: the chance that one message carries them all, where the bank has one."""
    merged: float = 0.25
    """The chance that two neighbouring user messages are sent as one."""
    bridge: float = 0.55
    """The chance that a change of subject is announced ("By the way, ...")."""
    own_reply: float = 0.2
    """Statements: the chance of the reply that was written for them rather than a shared
    acknowledgement. Questions, requests and small talk always have their own."""
    opening: float = 0.12
    """The chance that the conversation opens with a greeting."""
    closing: float = 0.35
    """The chance that the user closes it."""
    last_reply: float = 0.6
    """The chance that the assistant has the last word."""
    max_turns: int = 12
    """Most turns of a conversation; `none` exchanges that do not fit are left out."""

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
        if self.max_turns < 6 and self.three > 0 and self.mixed_unit < 1:
            raise OptionError(
                f"recipe: max_turns {self.max_turns} is too few for three categories, each in a "
                "message that is answered; set max_turns to 6 or more, three to 0, or mixed_unit "
                "to 1"
            )

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
