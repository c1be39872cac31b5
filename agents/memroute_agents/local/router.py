"""The local policy as an agent: `local`, `local:DIR`."""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memroute_agents.agent import Agent, AgentContext, RoutingDecision, register_agent
from memroute_agents.local.checkpoint import load_policy
from memroute_agents.local.encoding import Encoded
from memroute_agents.local.policy import LocalPolicy
from memroute_agents.local.sets import OBJECTIVES, Objective
from memroute_env.conversation import Conversation
from memroute_env.errors import AgentError
from memroute_env.taxonomy import Taxonomy, load_taxonomy

__all__ = ["LocalAgent", "cache_folder", "default_policy"]

_EVIDENCE_SHARE = 0.25
"""A turn is named as evidence if it holds at least this share of a category's attention."""


class LocalAgent:
    """Routes with a trained local policy. Immutable, hence safe to share between threads.

    Args:
        policy: A trained policy.
        objective: What decisions maximise in expectation, `reward`, `f1` or `exact`, once the
            policy's reluctance to store nothing is taken off (`Calibration.reluctance`).
    """

    def __init__(self, policy: LocalPolicy, objective: Objective = "reward") -> None:
        """See the class."""
        if objective not in OBJECTIVES:
            raise AgentError(f"objective {objective!r} is not one of {', '.join(OBJECTIVES)}")
        self.policy = policy
        self.objective: Objective = objective
        arrays = [*policy.parameters.arrays().values(), policy.calibration.size_shift]
        sums = [zlib.crc32(np.ascontiguousarray(array).data) for array in arrays]
        temperature, _, reluctance = policy.calibration
        parts = f"{sums} {temperature} {reluctance}".encode()
        self.version = f"local-{hashlib.sha256(parts).hexdigest()[:12]}"

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that the policy knows."""
        return self.policy.taxonomy

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """Decide a batch: categories, calibrated probability of each category, evidence turns."""
        if not conversations:
            return []
        started = time.perf_counter()
        policy = self.policy
        batch = policy.encoder(conversations)
        forward = policy.forward(batch)
        logits = policy.calibrated(forward.logits)
        masks = policy.answers(logits, self.objective).tolist()
        marginals = policy.family.marginals(logits)
        attention = forward.attention(batch)
        ids = policy.taxonomy.all_ids
        latency = (time.perf_counter() - started) / len(conversations)
        return [
            RoutingDecision(
                categories=policy.taxonomy.ids(mask),
                scores=dict(zip(ids, marginals[n].tolist(), strict=True)),
                evidence=self._evidence(batch, attention, n, mask),
                latency_s=latency,
            )
            for n, mask in enumerate(masks)
        ]

    def _evidence(
        self, batch: Encoded, attention: npt.NDArray[np.float32], n: int, mask: int
    ) -> dict[str, tuple[int, ...]]:
        """Turns that hold enough of each answered category's attention."""
        mine = slice(int(batch.turn_starts[n]), int(batch.turn_starts[n + 1]))
        turns = batch.turns[mine]
        if mask == 0 or turns[0] < 0:
            return {}
        found = {}
        for bit, category in enumerate(self.policy.taxonomy.storing):
            if mask >> bit & 1:
                share = attention[mine, bit]
                enough = share >= min(_EVIDENCE_SHARE, float(share.max()))
                found[category.id] = tuple(turns[enough].tolist())
        return found


def cache_folder() -> Path:
    """Where the default policy is kept: `MEMROUTE_CACHE`, or the user's cache folder."""
    override = os.environ.get("MEMROUTE_CACHE")
    if override:
        return Path(override)
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("memroute"))


def _data_and_code_hash() -> str:
    """Changes with the shipped training data and with the code that trains on it."""
    digest = hashlib.sha256()
    data = resources.files("memroute_env") / "data"
    code = resources.files("memroute_agents.local")
    for folder, ending in ((data, ".jsonl.gz"), (code, ".py")):
        for file in sorted(folder.iterdir(), key=lambda f: f.name):
            if file.name.endswith(ending) and "test" not in file.name:
                digest.update(file.name.encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=4)
def _load_cached(path: str) -> LocalPolicy:
    return load_policy(Path(path))


def default_policy() -> LocalPolicy:
    """The policy that ships: trained once on the shipped data, then loaded from the cache.

    The cache is keyed by the hash of the shipped data and of this package's code.
    """
    path = cache_folder() / f"local-{_data_and_code_hash()}.npz"
    if not path.is_file():
        from memroute_agents.local.checkpoint import save_policy
        from memroute_agents.local.training import train_policy
        from memroute_env.cli_support import note
        from memroute_env.datasets import load_dataset

        note(f"training the default local policy once (under a minute); kept in {path}")
        result = train_policy(
            load_dataset("marketing", "train"), load_dataset("marketing", "validation")
        )
        save_policy(result.policy, path)
    return _load_cached(str(path))


def _make_local(argument: str, context: AgentContext) -> Agent:
    objective = context.options.get("objective", "reward")
    if argument:
        policy = load_policy(Path(argument))
    elif context.taxonomy == load_taxonomy("marketing"):
        policy = default_policy()
    else:
        raise AgentError(
            f"the default local policy knows the taxonomy 'marketing', not "
            f"{context.taxonomy.name!r}; train one with 'memroute train local' and use local:DIR"
        )
    if policy.taxonomy != context.taxonomy:
        raise AgentError(
            f"{argument}: the policy was trained for the taxonomy {policy.taxonomy.name!r}, "
            f"the one in use is {context.taxonomy.name!r}; name the policy's (--taxonomy), or "
            "train a policy for this one"
        )
    return LocalAgent(policy, objective)


register_agent("local", _make_local)
