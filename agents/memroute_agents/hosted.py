"""Agents whose model runs elsewhere: answers that are bought once, remembered, and accounted for.

`HostedAgent` is the same for every protocol; a protocol module (`cohere`, `chat`) brings a
`ChatModel` and registers the factory. How a call fails, and which failures are worth another try,
is decided in `memroute_agents.calls` alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from memroute_agents.agent import AgentContext, RoutingDecision, TokenUsage
from memroute_agents.calls import Caller, CallFailure, ChatModel, ChatRequest, Completion, Price
from memroute_agents.response_cache import ResponseCache
from memroute_env.conversation import Conversation, Example
from memroute_env.errors import AgentError, OptionError
from memroute_env.prompt import Message, answer_text, build_messages
from memroute_env.taxonomy import Taxonomy

__all__ = ["HostedAgent", "HostedSettings", "Spending", "choose_shots"]

T = TypeVar("T")


@dataclass(frozen=True)
class HostedSettings:
    """What a hosted agent can be told, from `AgentContext.options` (keys of the same name).

    Keys that are not listed here are left to other agents.
    """

    shots: int = 0
    """Examples from the training split that the prompt shows."""
    concurrency: int = 8
    """Most calls in flight."""
    base_url: str = ""
    """Another endpoint of the same protocol."""
    cache_dir: str = ""
    """Folder of remembered answers; empty: the user's cache folder; `off`: none."""
    temperature: float = 0.0
    max_tokens: int = 100
    """Most tokens of an answer; a longer one is cut off and marked as truncated."""
    timeout: float = 60.0
    """Seconds until a call is given up (and tried again)."""
    attempts: int = 8
    """Most tries of one call."""
    input_price: float = -1.0
    """USD for a million input tokens; below 0: the built-in price of the model, if there is one."""
    output_price: float = -1.0

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> HostedSettings:
        """Read the known keys; values may be text from a command line.

        Raises:
            OptionError: For a value of the wrong type or out of range.
        """
        defaults = cls()
        values: dict[str, Any] = {}
        for name, default in asdict(defaults).items():
            if options.get(name) is None:
                continue
            kind = type(default)
            try:
                values[name] = kind(options[name])
            except (TypeError, ValueError):
                raise OptionError(
                    f"option {name!r}: a value of type {kind.__name__} is needed, "
                    f"got {options[name]!r}"
                ) from None
        settings = cls(**values)
        for name, least in (
            ("shots", 0),
            ("concurrency", 1),
            ("max_tokens", 1),
            ("attempts", 1),
            ("temperature", 0),
        ):
            if getattr(settings, name) < least:
                raise OptionError(
                    f"option {name!r} must be at least {least}, got {getattr(settings, name)}"
                )
        if settings.timeout <= 0:
            raise OptionError(f"option 'timeout' must be above 0 seconds, got {settings.timeout:g}")
        return settings

    def price(self, built_in: Price | None) -> Price | None:
        """The price to count with: the given one, else the built-in one."""
        if self.input_price >= 0 and self.output_price >= 0:
            return Price(self.input_price, self.output_price)
        return built_in


@dataclass
class Spending:
    """What an agent has used since it was built: what was paid now, not what answers once cost."""

    paid_calls: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    """None where no price is known."""

    def __str__(self) -> str:
        """One line for a report."""
        cost = "cost unknown" if self.cost_usd is None else f"${self.cost_usd:.4f}"
        return (
            f"{self.paid_calls} calls paid, {self.cached} from the cache, {self.failed} failed, "
            f"{self.retries} retries; {self.input_tokens} + {self.output_tokens} tokens, {cost}"
        )


def choose_shots(
    examples: Sequence[Example], masks: Sequence[int], count: int, seed: int, taxonomy: Taxonomy
) -> list[Example]:
    """Examples to show: as many different categories (the exclusive one included) as possible.

    The choice depends on the arguments alone. Conversations of over 8 turns or 2,000 characters are
    passed over, so that the price of a prompt stays foreseeable.

    Raises:
        OptionError: If there are fewer suitable examples than asked for.
    """
    order = [
        i
        for i, example in enumerate(examples)
        if len(example.conversation.turns) <= 8 and len(example.conversation.to_text()) <= 2000
    ]
    if len(order) < count:
        raise OptionError(
            f"option 'shots': {count} examples are wanted, the training split has {len(order)} "
            "short enough to show; ask for fewer"
        )
    random.Random(seed).shuffle(order)
    shown: dict[str, int] = dict.fromkeys(taxonomy.all_ids, 0)
    chosen: list[int] = []
    for _ in range(count):
        rarity = {
            i: sorted(shown[c] for c in taxonomy.ids(int(masks[i])))
            for i in order
            if i not in chosen
        }
        best = min(rarity, key=lambda i: (rarity[i], -len(rarity[i])))
        chosen.append(best)
        for category_id in taxonomy.ids(int(masks[best])):
            shown[category_id] += 1
    return [examples[i] for i in chosen]


class _LoopThread:
    """An event loop of its own thread, so that `route` also works inside a running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class HostedAgent:
    """Routes conversations by asking a hosted model, `concurrency` at a time.

    A decision's `usage` and `latency_s` say what its answer took when it was bought, so that a
    second run from the cache reports the same figures; `spending` says what was paid this time.
    A call that failed for good is a decision with `error`, never an empty answer.

    Args:
        make_model: Connects to the endpoint; called at once, and again after `close`.
        model: The model's name.
        taxonomy: Whose categories it may name.
        settings: See `HostedSettings`.
        price: See `HostedSettings.price`.
        shots: Examples that the prompt shows.
        seed: Sent with every call.

    Raises:
        AgentError: If the cache's folder cannot be written to.
    """

    def __init__(
        self,
        make_model: Callable[[], ChatModel],
        model: str,
        taxonomy: Taxonomy,
        settings: HostedSettings,
        *,
        price: Price | None = None,
        shots: Sequence[Example] = (),
        seed: int = 0,
    ) -> None:
        """See the class."""
        self.model, self.taxonomy, self.settings = model, taxonomy, settings
        self.price, self.seed = price, seed
        self.cache = ResponseCache.from_option(settings.cache_dir)
        self.spending = Spending(cost_usd=0.0 if price else None)
        self._make_model = make_model
        self._model: ChatModel | None = make_model()
        self.cache.check()
        self._warned = False
        self._shown = _shot_messages(shots, taxonomy)
        self._thread: _LoopThread | None = None
        self._caller: Caller | None = None
        prompt = json.dumps([build_messages(_PROBE, taxonomy), self._shown], sort_keys=True)
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
        self.version = f"1 {model} shots={len(shots)} prompt={digest}"

    def request(self, conversation: Conversation) -> ChatRequest:
        """The call that asks for a conversation's categories."""
        system, question = build_messages(conversation, self.taxonomy)
        return ChatRequest(
            model=self.model,
            messages=(system, *self._shown, question),
            temperature=self.settings.temperature,
            seed=self.seed,
            max_tokens=self.settings.max_tokens,
        )

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """One decision for each conversation, in order.

        Raises:
            AgentError: If no call can succeed: the key or the model is refused, the quota is used
                up, or the endpoint has never answered.
        """
        if self._thread is None:
            self._thread = _LoopThread()
        return self._thread.run(self._route(conversations))

    async def _route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        if self._caller is None:
            settings = self.settings
            self._model = self._model or self._make_model()
            self._caller = Caller(
                self._model, concurrency=settings.concurrency, attempts=settings.attempts
            )
        caller, model = self._caller, self._caller.model
        retries = caller.retries
        requests = [self.request(conversation) for conversation in conversations]
        keys = [ResponseCache.key(model.protocol, model.endpoint, r) for r in requests]
        tasks: dict[str, asyncio.Task[RoutingDecision]] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in tasks:  # equal conversations are asked about once
                tasks[key] = asyncio.create_task(self._decide(caller, key, request))
        try:
            await asyncio.gather(*tasks.values())
        except CallFailure as failure:
            raise AgentError(f"{failure}") from None
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            self.spending.retries += caller.retries - retries
        return [tasks[key].result() for key in keys]

    async def _decide(self, caller: Caller, key: str, request: ChatRequest) -> RoutingDecision:
        known = self.cache.get(key)
        if known is not None:
            self.spending.cached += 1
            return self._decision(*known)
        try:
            completion, latency_s = await caller(request)
        except CallFailure as failure:
            if caller.hopeless(failure):
                raise
            self.spending.failed += 1
            return RoutingDecision(error=str(failure))
        self._remember(key, completion, latency_s)
        spending = self.spending
        spending.paid_calls += 1
        spending.input_tokens += completion.input_tokens
        spending.output_tokens += completion.output_tokens
        if self.price and spending.cost_usd is not None:
            spending.cost_usd += self.price.cost(completion)
        return self._decision(completion, latency_s)

    def _remember(self, key: str, completion: Completion, latency_s: float) -> None:
        """Keep an answer; where that fails it is still used, and a warning is given once."""
        try:
            self.cache.put(key, completion, latency_s)
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self.cache.folder}: an answer cannot be kept ({error.strerror}); "
                    "a further run will pay for it again",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _decision(self, completion: Completion, latency_s: float) -> RoutingDecision:
        return RoutingDecision(
            text=completion.text,
            truncated=completion.truncated,
            latency_s=latency_s,
            usage=TokenUsage(
                completion.input_tokens,
                completion.output_tokens,
                self.price.cost(completion) if self.price else None,
            ),
        )

    def close(self) -> None:
        """Close connections; the next `route` opens new ones."""
        if self._thread is not None:
            if self._model is not None:
                self._thread.run(self._model.close())
            self._thread.close()
        self._thread = self._caller = self._model = None


_PROBE = Conversation.model_validate([{"role": "user", "content": "…"}])


def _shot_messages(shots: Sequence[Example], taxonomy: Taxonomy) -> tuple[Message, ...]:
    """Examples as earlier turns of the chat: a question, and the canonical answer."""
    messages: list[Message] = []
    for example in shots:
        question = build_messages(example.conversation, taxonomy)[-1]
        answer = answer_text(taxonomy.mask(example.labels.categories), taxonomy)
        messages += [question, {"role": "assistant", "content": answer}]
    return tuple(messages)


def shots_from(context: AgentContext, count: int) -> list[Example]:
    """Examples of the training split, none of which is among the data that will be played."""
    if count == 0:
        return []
    train = context.train()
    played = set(context.dataset.texts) if context.dataset is not None else set()
    fit = [i for i, text in enumerate(train.texts) if text not in played]
    examples, masks = [train[i] for i in fit], [int(train.gold_masks[i]) for i in fit]
    return choose_shots(examples, masks, count, context.seed, context.taxonomy)
