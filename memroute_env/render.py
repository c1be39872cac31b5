"""How an episode looks in a terminal."""

from __future__ import annotations

import re
from typing import Any

from memroute_env.conversation import Example
from memroute_env.reward import COMPONENTS, RewardBreakdown

__all__ = ["plain", "render_ansi", "render_human"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Text without control characters: a conversation must not drive the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def render_ansi(
    example: Example, answered: tuple[Any, RewardBreakdown] | None, gold: tuple[str, ...]
) -> str:
    """The episode as plain text; the gold set is shown only after the answer."""
    lines = [f"# {plain(example.id)}", plain(example.conversation.to_text())]
    if answered is not None:
        action, score = answered
        parts = "  ".join(f"{name} {getattr(score, name):.2f}" for name in COMPONENTS)
        lines += [
            "",
            f"answer: {plain(str(action))}",
            f"gold:   {', '.join(gold)}",
            f"reward: {score.total:.3f}  ({score.malformed or parts})",
        ]
    return "\n".join(lines) + "\n"


def render_human(
    example: Example, answered: tuple[Any, RewardBreakdown] | None, gold: tuple[str, ...]
) -> None:
    """Print the episode with rich: first the conversation, then (after the step) the outcome."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console()
    if answered is None:
        body = Text()
        for turn in example.conversation.turns:
            style = "bold cyan" if turn.role == "user" else "bold magenta"
            body.append(f"{turn.role}: ", style=style).append(plain(turn.content) + "\n")
        body.right_crop(1)
        console.print(Panel(body, title=Text(plain(example.id)), title_align="left"))
        return
    action, score = answered
    parts = "  ".join(f"{name} {getattr(score, name):.2f}" for name in COMPONENTS)
    outcome = Text.assemble(
        ("answer  ", "bold"),
        plain(str(action)),
        ("\ngold    ", "bold"),
        ", ".join(gold),
        ("\nreward  ", "bold"),
        (f"{score.total:.3f}", "green" if score.total >= 0.9 else "yellow"),
        f"   {score.malformed or parts}",
    )
    console.print(Panel(outcome, title="outcome", title_align="left"))
