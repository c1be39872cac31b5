"""`memroute route`: what it reads, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from memroute_agents import RoutingDecision
from memroute_agents.cli import route
from memroute_env import Conversation


class Closable:
    """An agent that counts how often it is closed."""

    broken = False
    closed = 0

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        if self.broken:
            raise OSError("gone")
        return [RoutingDecision(("none",))] * len(conversations)

    def close(self) -> None:
        Closable.closed += 1


@pytest.mark.parametrize("broken", [False, True])
def test_the_agent_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    monkeypatch.setattr(Closable, "broken", broken)
    monkeypatch.setattr(Closable, "closed", 0)
    (tmp_path / "chat.txt").write_text("USER: hi")
    try:
        route(str(tmp_path / "chat.txt"), f"{__name__}:Closable")
    except SystemExit as stopped:
        assert broken and stopped.code == 2
    assert Closable.closed == 1


@pytest.mark.parametrize(
    "text", ["USER: hi", json.dumps({"conversation": [{"role": "user", "content": "hi"}]})]
)
def test_a_byte_order_mark_in_front_is_passed_over(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat").write_text(text, encoding="utf-8-sig")
    route(str(tmp_path / "chat"), "constant:none")
    assert capsys.readouterr().out == "1: none\n"
