"""How an opening or a bridge is put in front of a message."""

from __future__ import annotations

import re

__all__ = ["GREETS", "joined"]

GREETS = re.compile(
    r"(?:hi|hiya|hey|hello|morning|evening|good|okay|ok|oh|btw|by the way|also|anyway|right|so|"
    r"well|quick|sorry|thanks|thank|merci|cheers|and|but|hm+|ugh|uff|lol|yes|yep|no|listen|look|"
    r"actually|before i forget|just so|one more|update|brilliant|great|perfect|all good)\b",
    re.I,
)
"""A message that starts like this brings its own opening or bridge."""
_COMMON = frozenset(
    """a after all an any anybody anyone anything are as at because before being both by can could
    did do does during each every everybody everyone everything for from had has have he here
    here's how if in is it it'll it's its just last let's make most my next nobody none not nothing
    now on once one our please put she should since some somebody someone something still that
    that's the their then there there's these they they're this those to today tomorrow two until
    was we we'd we'll we're we've were what what's whatever when whenever where whether which while
    who whoever whose why will with would yesterday you you're your""".split()
)
"""First words that are not names and so lose their capital behind a comma."""


def joined(lead: str, text: str) -> str:
    """An opening or a bridge in front of a message, in the message's own manner of writing."""
    if text[0].islower():
        lead = lead[0].lower() + lead[1:] if not lead.startswith(("I ", "I'")) else lead
    elif lead[-1] not in ".!?:…":
        word = re.match(r"[\w']+", text)
        if word is None or word[0].lower() not in _COMMON:
            return text
        text = text[0].lower() + text[1:]
    return f"{lead} {text}"
