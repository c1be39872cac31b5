"""The README's examples run as printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import memroute_agents
import memroute_env  # noqa: F401  (registers the environments)
from memroute_agents import RoutingDecision
from memroute_env import Conversation, Dataset, load_dataset, load_taxonomy

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str, holding: str) -> str:
    """The only code block of a language that holds a text."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in b]
    assert len(found) == 1, holding
    return found[0]


def test_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python", "env.reset(seed=0)"), {})
    said = capsys.readouterr().out
    assert said.startswith(("USER: ", "ASSISTANT: "))
    reward, gold = said.splitlines()[-1].split(" ", 1)
    assert 0 <= float(reward) < 1
    assert gold.startswith("('")


class Fixed:
    """In the place of the local policy, which takes a while to train."""

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        kept = ("user.role_context", "user.communication_style")
        return [RoutingDecision(kept, evidence=dict.fromkeys(kept, (0,))) for _ in conversations]


def test_deciding_what_to_remember(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memroute_agents, "load", lambda name: Fixed())
    names: dict[str, Any] = {}
    exec(blocks("python", "from_messages"), names)
    exec(blocks("python", "timedelta"), names)
    role, style = capsys.readouterr().out.splitlines()[-2:]
    assert "'namespace': ('user', 'user.role_context')" in role
    assert "I run EMEA now." in role
    assert "'expires': datetime.date" in role
    assert "'expires': None" in style


def test_an_agent_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_agents.py").write_text(blocks("python", "# my_agents.py"))
    monkeypatch.syspath_prepend(tmp_path)
    agent = memroute_agents.load("my_agents:Brief")
    conversations = [example.conversation for example in load_dataset("marketing-50")]
    answers = {decision.categories for decision in agent.route(conversations)}
    assert answers <= {("none",), ("user.communication_style",)}
    sys.modules.pop("my_agents")


def test_your_own_data_and_taxonomy(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(blocks("json", '"customer.plan"'))
    (tmp_path / "mine.toml").write_text(blocks("toml", '"customer.plan"'))
    data, taxonomy = str(tmp_path / "mine.jsonl"), str(tmp_path / "mine.toml")
    env = gym.make("MemoryRouting-v0", dataset=data, taxonomy=taxonomy)
    env.reset(seed=0)
    assert env.step("customer.plan")[1] == 1.0


def test_the_table_of_categories() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (\w+) \| (.*?) \|$", README, re.MULTILINE)
    taxonomy = load_taxonomy("marketing")
    assert [row[0] for row in rows] == list(taxonomy.all_ids)
    for name, _, horizon, kept in rows:
        category = taxonomy[name]
        days = re.match(r"(\d+) days", kept)
        assert horizon == category.horizon
        if not category.exclusive:
            assert category.lifetime_days == (int(days[1]) if days else None)


def test_the_prompt_and_the_reward_for_trainers() -> None:
    taxonomy = load_taxonomy("marketing")
    data: Dataset = load_dataset("marketing", "train")
    messages = memroute_env.build_messages(data[0].conversation, taxonomy)
    answer = ", ".join(data[0].labels.categories)
    reward = memroute_env.Reward(taxonomy).score_text(answer, data[0].labels.categories).total
    assert messages[-1]["role"] == "user"
    assert reward == 1.0
