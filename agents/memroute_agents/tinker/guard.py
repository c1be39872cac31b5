"""What may stop a run, and how it stops: after a whole step, with a checkpoint, saying why.

The cookbook's loops have no place to stop from, so two names that they look up in their own
modules are rebound while a loop runs (`guarded`): the checkpoint manager, which gives access to the
training client and lets the supervised loop write resume points that are exact, and the set-up of
the metrics log, the last thing an iteration touches and hence the moment at which a step is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinker_cookbook import checkpoint_utils
from tinker_cookbook.utils import ml_log

from memroute_agents.tinker.options import WatchOptions
from memroute_agents.tinker.run import TOKENS_KEY, read_metrics

__all__ = ["Guard", "StopTraining", "guarded"]

KL_KEYS = ("optim/kl_sample_train_v1", "optim/kl_sample_train_v2")


class StopTraining(Exception):
    """A run ends early, as it should; the message is the reason."""


@dataclass
class Guard:
    """Watches one stage of a run.

    Args:
        log_path: Where the stage's metrics and checkpoints go.
        watch: Thresholds.
        say: Told of warnings and stops, a line each.
        total_steps: Of the stage; the last one is never stopped after.
        submit_ahead: Supervised: steps whose updates a checkpoint already holds.
        tokens: Used so far by earlier stages.
        readings: See `RLOptions.readings`.
        on_saved: Called after the loop has saved weights.
    """

    log_path: Path
    watch: WatchOptions
    say: Callable[[str], None]
    total_steps: int
    submit_ahead: int = 0
    tokens: int = 0
    readings: int = 2
    verbose: bool = False
    on_saved: Callable[[], object] = lambda: None
    requested: str = ""
    """Why to stop after this step; set by a signal handler."""
    manager: Any = None
    high_kl: int = 0
    largest_step: int = 0
    saved: set[int] = field(default_factory=set)
    """Steps before which there is a checkpoint that is kept for good."""
    _before_step: int = 0

    def __post_init__(self) -> None:
        """Go on counting where an earlier attempt of this stage left off."""
        used = [m[TOKENS_KEY] for m in read_metrics(self.log_path) if TOKENS_KEY in m]
        self.tokens = max([self.tokens, *map(int, used)])
        self._before_step = self.tokens

    def count(self, tokens: int) -> None:
        """Tokens that were just used outside the loop's own metrics: evaluations."""
        self.tokens += tokens

    def annotate(self, metrics: dict[str, Any]) -> None:
        """Add what the cookbook does not log: tokens so far, groups without a signal."""
        if "num_tokens" in metrics:
            self.tokens += int(metrics["num_tokens"])
        if "env/all/total_ob_tokens" in metrics:
            seen = metrics["env/all/total_ob_tokens"] + metrics["env/all/total_ac_tokens"]
            self.tokens += self.readings * int(seen)
        metrics[TOKENS_KEY] = self.tokens
        if "env/all/by_group/frac_mixed" in metrics:
            metrics["env/all/no_signal"] = 1.0 - metrics["env/all/by_group/frac_mixed"]

    def check(self, metrics: dict[str, Any], step: int | None) -> None:
        """Stop after this step if there is a reason to.

        Raises:
            StopTraining: After a checkpoint was saved; where that failed, the reason says so.
        """
        if step is None or not {"progress", "progress/done_frac"} & metrics.keys():
            return
        self.largest_step = max(self.largest_step, self.tokens - self._before_step)
        self._before_step = self.tokens
        reason = self.requested or self._kl(metrics) or self.cap(self.largest_step)
        if reason and step + 1 < self.total_steps:
            try:
                self.save(min(step + 1 + self.submit_ahead, self.total_steps))
            except Exception as error:  # the stop stands, whatever the server's failure is
                reason = f"{reason}; {self._unsaved(error)}"
            raise StopTraining(reason)

    def _unsaved(self, error: Exception) -> str:
        last = checkpoint_utils.get_last_checkpoint(str(self.log_path))
        said = " ".join(str(error).split())
        return (
            f"the checkpoint could not be saved ({type(error).__name__}: {said}), "
            + (f"the last one is {last.name}" if last else "and there is none before it")
            + f": {self.log_path.name} goes on at step {(last and last.batch) or 0}"
        )

    def _kl(self, metrics: dict[str, Any]) -> str:
        found = [abs(float(metrics[key])) for key in KL_KEYS if key in metrics]
        if not found:
            return ""
        kl = max(found)
        self.high_kl = self.high_kl + 1 if kl > self.watch.kl_stop else 0
        if self.high_kl >= self.watch.kl_patience:
            return (
                f"the KL between sampler and trainer was above {self.watch.kl_stop:g} for "
                f"{self.high_kl} iterations (now {kl:.4f}): look at the learning rate, the number "
                "of sub-steps and the age of the samples, and at the sampler's precision"
            )
        if kl > self.watch.kl_warn:
            self.say(
                f"warning: KL between sampler and trainer is {kl:.4f}, above {self.watch.kl_warn:g}"
            )
        return ""

    def cap(self, next_step: int) -> str:
        """Why a step of so many tokens must not be begun; empty if it may."""
        cap = self.watch.max_tokens_total
        if cap is None or self.tokens + next_step <= cap:
            return ""
        return (
            f"the next step may use {next_step:,} tokens, and {self.tokens:,} of at most {cap:,} "
            "are used (raise --max-tokens-total to go on)"
        )

    def append(self, step: int, metrics: dict[str, Any]) -> None:
        """Add a line to the stage's log outside its loop: evaluations at its end."""
        with (self.log_path / "metrics.jsonl").open("a") as log:
            log.write(json.dumps({"step": step, **metrics, TOKENS_KEY: self.tokens}) + "\n")

    def save(self, next_step: int) -> None:
        """Save a checkpoint from which step `next_step` can be run, unless there is one.

        It is kept for good. Raises whatever the client raises if it cannot be saved.
        """
        if next_step in self.saved or self.manager is None:
            return

        def work() -> None:
            asyncio.run(
                checkpoint_utils.save_checkpoint_async(
                    training_client=self.manager._training_client,
                    name=f"stop-{next_step:06d}",
                    log_path=str(self.log_path),
                    loop_state={"epoch": 0, "batch": next_step},
                    kind="both",
                    store=self.manager._store,
                )
            )

        # The loop's own event loop is busy with us; the client answers from a thread of its own.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result()
        self.saved.add(next_step)


def _checkpoints(guard: Guard) -> type[checkpoint_utils.CheckpointManager]:
    class Checkpoints(checkpoint_utils.CheckpointManager):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            guard.manager = self

        async def maybe_save_async(
            self, step: int, loop_state: dict[str, Any], *, elapsed_tokens: int = 0
        ) -> dict[str, str] | None:
            # The supervised loop saves after it has submitted this step (and those ahead), but
            # would record this step as the next to run, and so run it twice after a resume.
            done = min(step + 1 + guard.submit_ahead, guard.total_steps)
            state = {**loop_state, "epoch": 0, "batch": done}
            return await super().maybe_save_async(done, state, elapsed_tokens=elapsed_tokens)

        async def save_periodic_async(
            self, step: int, loop_state: dict[str, Any]
        ) -> dict[str, str]:
            paths = await super().save_periodic_async(step, loop_state)
            guard.on_saved()
            return paths

    return Checkpoints


def _logger(guard: Guard, inner: Any) -> ml_log.Logger:
    class Metrics(ml_log.MultiplexLogger):
        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            guard.annotate(metrics)
            super().log_metrics(metrics, step)
            guard.say(_line(metrics, step))
            guard.check(metrics, step)

    loggers = inner.loggers
    if not guard.verbose:
        loggers = [one for one in loggers if not isinstance(one, ml_log.PrettyPrintLogger)]
    return Metrics(loggers)


_SHOWN = (
    ("train_mean_nll", "loss"),
    ("test/nll", "validation loss"),
    ("env/all/reward/total", "reward"),
    ("test/reward", "held-out reward"),
    ("test/f1", "held-out F1"),
    ("env/all/malformed", "malformed"),
    ("optim/entropy", "entropy"),
)


def _line(metrics: dict[str, Any], step: int | None) -> str:
    parts = [f"{label} {metrics[key]:.4f}" for key, label in _SHOWN if key in metrics]
    return f"step {step}: {', '.join(parts)}"


@contextlib.contextmanager
def guarded(guard: Guard) -> Iterator[Guard]:
    """Let a guard watch the cookbook loop that runs inside; see the module."""
    manager, setup = checkpoint_utils.CheckpointManager, ml_log.setup_logging

    def watched_setup(*args: Any, **kwargs: Any) -> ml_log.Logger:
        inner = setup(*args, **kwargs)
        for handler in logging.getLogger().handlers:
            quiet = not guard.verbose and not isinstance(handler, logging.FileHandler)
            if quiet and isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.WARNING)
        return _logger(guard, inner)

    checkpoint_utils.CheckpointManager = _checkpoints(guard)  # type: ignore[misc]
    ml_log.setup_logging = watched_setup
    try:
        yield guard
    finally:
        checkpoint_utils.CheckpointManager = manager  # type: ignore[misc]
        ml_log.setup_logging = setup
