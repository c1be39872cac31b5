"""`memroute train local`, `memroute train tinker`, `memroute route`, `memroute publish`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from memroute_agents.tinker.cli import publish, train_tinker
from memroute_env.cli_support import fail_cleanly, note, progress_bar

__all__ = ["publish", "route", "train_app"]

train_app = typer.Typer(help="Train an agent.", no_args_is_help=True, rich_markup_mode="markdown")


@train_app.command(
    epilog="Example: `memroute train local --data mine.jsonl --out runs/mine`  \n"
    "Then: `memroute eval --agent local:runs/mine --data mine-test.jsonl`"
)
def local(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the metrics.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Training data: names (marketing:train) or files; may be repeated."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="Validation data; by default marketing:validation, or a tenth of --data."
        ),
    ] = None,
    taxonomy: Annotated[str | None, typer.Option(help="Taxonomy of the data.")] = None,
    seed: Annotated[int, typer.Option(help="Order of examples, draws.")] = 0,
    estimator: Annotated[
        str | None,
        typer.Option(help="Policy gradient: sampled, exact, or none.", show_default="sampled"),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(min=0, help="Policy-gradient iterations.", show_default="30"),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            help="Learn from rewards alone, without gold sets; not with --estimator, --iterations.",
        ),
    ] = False,
    none_precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="How often 'store nothing' is to be right on validation data: what is wrongly "
            "dropped is lost. 0: answer it as soon as it pays. Not with --from-scratch.",
            show_default="0.9",
        ),
    ] = None,
    warm_start: Annotated[Path | None, typer.Option(help="Start from this checkpoint.")] = None,
    replies: Annotated[
        bool,
        typer.Option(
            "--replies",
            help="Read a turn with the assistant's reply as well: for data whose assistant repeats "
            "what it has heard.",
        ),
    ] = False,
    fresh: Annotated[
        str | None,
        typer.Option(help="Conversations for the policy gradient alone: half of its groups."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where --out stopped.")] = False,
) -> None:
    """Train the local policy: supervised, then policy gradient, on the CPU."""
    with fail_cleanly(f"interrupted; go on with the same command and --resume (state in {out})"):
        from memroute_agents.local.checkpoint import load_policy
        from memroute_agents.local.features import FeatureConfig
        from memroute_agents.local.play import hold_out
        from memroute_agents.local.training import TrainConfig, train_policy
        from memroute_env.datasets import load_dataset
        from memroute_env.errors import OptionError

        if from_scratch and not (estimator is None and iterations is None):
            raise OptionError(
                "--estimator and --iterations are of the policy gradient that follows gold sets; "
                "leave them out with --from-scratch"
            )
        if from_scratch and none_precision is not None:
            raise OptionError(
                "--none-precision is measured with gold sets; leave it out with --from-scratch"
            )
        if replies and warm_start is not None:
            raise OptionError(
                "--replies belongs to the checkpoint that a run starts from; leave it out"
            )
        if estimator not in (None, "sampled", "exact", "none"):
            raise OptionError(f"--estimator {estimator!r} is not one of sampled, exact, none")
        sets = [load_dataset(name, None, taxonomy) for name in data or ["marketing:train"]]
        if validation is not None:
            held_out = load_dataset(validation, None, sets[0].taxonomy)
        elif data is None:
            held_out = load_dataset("marketing", "validation")
        else:
            sets, held_out = hold_out(sets)
        given = {
            "estimator": estimator,
            "gradient_iterations": iterations,
            "none_precision": none_precision,
        }
        config = replace(
            TrainConfig(seed=seed, from_scratch=from_scratch),
            features=FeatureConfig(replies=replies),
            **{name: value for name, value in given.items() if value is not None},
        )
        with progress_bar("") as update:
            result = train_policy(
                sets,
                held_out,
                config,
                out=out,
                resume=resume,
                warm_start=load_policy(warm_start) if warm_start else None,
                fresh=load_dataset(fresh, None, sets[0].taxonomy) if fresh else None,
                report=update,
            )
        measured: Any = result.policy.metadata["metrics"]
        note(
            f"trained on {sum(map(len, sets))} conversations in {result.seconds:.1f} s; validation "
            f"F1 {measured['val_f1']:.3f}, exact {measured['val_exact']:.3f}, "
            f"reward {measured['val_reward']:.3f}"
        )
        note(f"checkpoint: {out / 'policy.npz'}; use it as local:{out}")


def route(
    source: Annotated[
        str,
        typer.Argument(help="JSONL file, text file with USER:/ASSISTANT: lines, or - for stdin."),
    ] = "-",
    agent: Annotated[
        str, typer.Option(help="Agent, for example local, local:DIR, keyword.")
    ] = "local",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    taxonomy: Annotated[str | None, typer.Option(help="Taxonomy.")] = None,
) -> None:
    """Decide what of a conversation to remember, where, and until when.

    Example: `echo "USER: keep it short with me, always" | memroute route`
    """
    with fail_cleanly():
        from memroute_agents.agent import AgentContext, checked_route, close_agent, create_agent
        from memroute_env.datasets import load_dataset
        from memroute_env.taxonomy import load_taxonomy

        chosen = load_taxonomy(taxonomy or "marketing")
        items = _read_conversations(source)
        context = AgentContext(
            chosen, load_train=lambda: load_dataset("marketing", "train", chosen)
        )
        built = create_agent(agent, context)
        try:
            decisions = checked_route(built, [conversation for _, conversation in items], agent)
        finally:
            close_agent(built)
        now = datetime.now(UTC)
        for (identifier, _), decision in zip(items, decisions, strict=True):
            record = describe_decision(identifier, decision, chosen, now)
            print(json.dumps(record, ensure_ascii=False) if as_json else _as_text(record))


def _read_conversations(source: str) -> list[tuple[str, Any]]:
    """(id, conversation) pairs from a file or standard input."""
    from memroute_env.conversation import (
        MAX_LINE_BYTES,
        conversation_from_text,
        parse_conversation,
    )
    from memroute_env.errors import DataError

    name = "standard input" if source == "-" else source
    if source != "-" and Path(source).is_dir():
        raise DataError(f"{source}: is a directory; give a file or - for standard input")
    raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not text.strip():
        raise DataError(f"{name}: is empty; give conversations as JSONL or USER:/ASSISTANT: text")
    if not text.lstrip().startswith(("{", "[")):
        return [("1", conversation_from_text(text, name))]
    items = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{where}: the line is longer than {MAX_LINE_BYTES // 2**20} MiB; "
                "give one conversation a line"
            )
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: not valid JSON: {error}; give one conversation a line, "
                "or USER:/ASSISTANT: text"
            ) from None
        if isinstance(record, dict) and "conversation" not in record:
            raise DataError(f"{where}: field 'conversation' is missing; add the turns")
        turns = record["conversation"] if isinstance(record, dict) else record
        identifier = record.get("id", number) if isinstance(record, dict) else number
        items.append((str(identifier), parse_conversation(turns, where)))
    return items


def describe_decision(
    identifier: str, decision: Any, taxonomy: Any, now: datetime
) -> dict[str, Any]:
    """A decision as plain data: categories with scope, horizon, expiry date and evidence."""
    from memroute_env.parsing import parse_answer

    categories = decision.categories
    malformed = decision.error
    if decision.text is not None and not malformed:
        answer = parse_answer(decision.text, taxonomy, truncated=decision.truncated)
        categories = taxonomy.ids(answer.mask) if answer.mask is not None else ()
        malformed = answer.malformed
    record: dict[str, Any] = {
        "id": identifier,
        "categories": list(categories),
        "scope": taxonomy.scope(categories) if categories else None,
        "horizon": str(taxonomy.horizon(categories)) if categories else None,
        "store": [
            {
                "category": category.id,
                "scope": category.scope,
                "horizon": str(category.horizon),
                "expires": None
                if category.lifetime_days is None
                else (now + timedelta(days=category.lifetime_days)).date().isoformat(),
                "evidence": list(decision.evidence.get(category.id, ())),
            }
            for category in (taxonomy[c] for c in categories)
            if not category.exclusive
        ],
    }
    if decision.scores is not None:
        record["scores"] = {key: round(float(v), 4) for key, v in decision.scores.items()}
    if malformed:
        record["error"] = malformed
    return record


def _as_text(record: dict[str, Any]) -> str:
    lines = [f"{record['id']}: {', '.join(record['categories']) or record.get('error', '')}"]
    for item in record["store"]:
        score = record.get("scores", {}).get(item["category"])
        lines.append(
            f"  {item['category']:34s} {item['scope']:8s} {item['horizon']:9s} "
            f"expires {item['expires'] or 'never':10s}"
            + (f"  p={score:.2f}" if score is not None else "")
            + (f"  turns {', '.join(map(str, item['evidence']))}" if item["evidence"] else "")
        )
    return "\n".join(lines)


train_app.command(
    "tinker",
    epilog="Example: `memroute train tinker --stage all --preset paper --out runs/llama`",
)(train_tinker)
