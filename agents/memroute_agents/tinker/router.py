"""The agent `tinker:RUN_OR_URI`: a trained language model that routes, batched and concurrent.

`tinker:runs/mine` plays the latest weights of a run of `memroute train tinker`; server, renderer
and tokenizer come from the run. `tinker:tinker://…` plays weights by their address;
the model is asked from the server, renderer and server may be given as options.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memroute_agents.agent import AgentContext, RoutingDecision, TokenUsage, register_agent
from memroute_agents.tinker import require
from memroute_agents.tinker.run import Run
from memroute_env.conversation import Conversation
from memroute_env.errors import AgentError, OptionError
from memroute_env.prompt import build_messages
from memroute_env.taxonomy import Taxonomy

__all__ = ["TinkerAgent", "tinker_agent"]

URI = "tinker://"
NUMBERS = (("max_tokens", int), ("temperature", float), ("concurrency", int))


class TinkerAgent:
    """Answers with a sampling client; many conversations are under way at a time.

    Args:
        client: A `tinker.SamplingClient`.
        renderer: A cookbook renderer with the model's tokenizer.
        taxonomy: Whose categories are asked for.
        version: What results call it.
        max_tokens: New tokens an answer may have.
        temperature: 0 takes the likeliest answer.
        concurrency: Most requests under way at a time.
    """

    def __init__(
        self,
        client: Any,
        renderer: Any,
        taxonomy: Taxonomy,
        *,
        version: str = "",
        max_tokens: int = 100,
        temperature: float = 0.0,
        concurrency: int = 128,
    ) -> None:
        """See the class."""
        if concurrency < 1:
            raise OptionError(f"concurrency must be >= 1, got {concurrency}")
        self.client, self.renderer, self.taxonomy = client, renderer, taxonomy
        self.version = version
        self.max_tokens, self.temperature = max_tokens, temperature
        self.concurrency = concurrency

    def route(self, conversations: Sequence[Conversation]) -> list[RoutingDecision]:
        """One decision each, in order; a request that failed carries its error."""
        decisions: list[RoutingDecision] = []
        for start in range(0, len(conversations), self.concurrency):
            window = conversations[start : start + self.concurrency]
            sent = [self._send(conversation) for conversation in window]
            decisions += [self._receive(*request) for request in sent]
        return decisions

    def _send(self, conversation: Conversation) -> tuple[Any, int, dict[str, float]]:
        tinker = require("tinker")
        prompt = self.renderer.build_generation_prompt(build_messages(conversation, self.taxonomy))
        clock = {"began": time.perf_counter()}
        future = self.client.sample(
            prompt=prompt,
            num_samples=1,
            sampling_params=tinker.SamplingParams(
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                stop=self.renderer.get_stop_sequences(),
            ),
        )

        def ended(_: Any) -> None:
            clock["ended"] = time.perf_counter()

        future.future().add_done_callback(ended)
        return future, prompt.length, clock

    def _receive(
        self, future: Any, prompt_tokens: int, clock: Mapping[str, float]
    ) -> RoutingDecision:
        renderers = require("tinker_cookbook.renderers")
        try:
            sequence = future.result().sequences[0]
        except Exception as error:  # whatever the client raises is this request's failure
            return RoutingDecision(error=f"{type(error).__name__}: {error}")
        message, _ = self.renderer.parse_response(sequence.tokens)
        return RoutingDecision(
            text=renderers.get_text_content(message),
            truncated=sequence.stop_reason == "length",
            latency_s=clock.get("ended", time.perf_counter()) - clock["began"],
            usage=TokenUsage(prompt_tokens, len(sequence.tokens)),
        )


def tinker_agent(argument: str, context: AgentContext) -> TinkerAgent:
    """The factory of `tinker:RUN_OR_URI`.

    Args:
        argument: A run's folder, or a `tinker://` address of sampler weights.
        context: Its `options` may hold `base_url`, `renderer`, `max_tokens`, `temperature` and
            `concurrency`; others are some other agent's.

    Raises:
        AgentError: If there is no such run, it has no weights, or the server refuses them.
        OptionError: For an option that is not a number where one is needed.
        MissingDependencyError: Without tinker and tinker-cookbook.
    """
    if argument.startswith("//"):  # tinker://… is understood as tinker:tinker://…
        argument = f"tinker:{argument}"
    if not argument:
        raise AgentError("name a run or weights: tinker:RUN_DIR or tinker:tinker://…")
    for module in ("tinker", "tinker_cookbook"):
        require(module)
    from memroute_agents.tinker.envs import make_renderer
    from memroute_agents.tinker.service import connect
    from memroute_agents.tinker.train import resolve_renderer

    base_url = context.options.get("base_url")
    renderer = context.options.get("renderer")
    settings = {k: _number(k, context.options[k], t) for k, t in NUMBERS if k in context.options}
    if argument.startswith(URI):
        path, model = argument, ""
    else:
        run = Run.open(Path(argument))
        path, model = run.trained().sampler_path, run.options.base_model
        base_url = base_url or run.options.base_url
        renderer = renderer or run.renderer
        settings.setdefault("max_tokens", run.options.rl.max_tokens)
    service = connect(base_url)
    try:
        client = service.create_sampling_client(model_path=path).result()
    except Exception as error:
        raise AgentError(
            f"{path}: the server at {base_url or 'the default address'} does not give these "
            f"weights: {type(error).__name__}: {error}"
        ) from error
    if not model:
        model = client.get_base_model()
        if renderer is None:
            from memroute_agents.tinker.options import TrainOptions

            renderer = resolve_renderer(TrainOptions(base_model=model))
    return TinkerAgent(
        client, make_renderer(renderer, model), context.taxonomy, version=path, **settings
    )


def _number(name: str, value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise OptionError(f"the option {name}: a number is needed, got {value!r}") from None


register_agent("tinker", tinker_agent)
