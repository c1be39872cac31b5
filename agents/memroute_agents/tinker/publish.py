"""A run's adapter for the Hugging Face hub: PEFT weights, model card, config and data hash."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memroute_agents.tinker import require
from memroute_agents.tinker.run import Run, StageResult
from memroute_agents.tinker.service import connect
from memroute_env.errors import AgentError, OptionError

__all__ = ["card_text", "publish_run"]

ROWS = (
    ("reward", "Reward"),
    ("f1", "F1"),
    ("exact", "Exact match"),
    ("none_precision", "Precision of `none`"),
    ("none_recall", "Recall of `none`"),
    ("malformed", "Malformed answers"),
    ("categories", "Categories an answer"),
)


def publish_run(
    run_dir: str | os.PathLike[str],
    repo: str,
    *,
    dry_run: bool = False,
    private: bool = True,
    base_url: str | None = None,
) -> str:
    """Download a run's final adapter, write its card, upload both.

    Args:
        run_dir: The run's folder; what is published is kept in its `publish` folder.
        repo: `name/model` on the hub.
        dry_run: Only write the folder.
        private: Whether a new repository is private.
        base_url: The server that has the weights; by default the run's.

    Returns:
        The folder (dry run), or the repository's address.

    Raises:
        AgentError: If the run has no weights, the server does not give them, or the hub does not
            take them.
        OptionError: If the repository's name is not `name/model`.
        MissingDependencyError: Without tinker and tinker-cookbook.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise OptionError(f"--repo {repo!r}: 'name/model' is needed")
    weights = require("tinker_cookbook.weights")
    run = Run.open(run_dir)
    result = run.trained()
    base_url = base_url or run.options.base_url
    connect(base_url)
    raw, folder = run.path / "adapter", run.path / "publish"
    for old in (raw, folder):
        shutil.rmtree(old, ignore_errors=True)
    try:
        if base_url is None or not _fetch_archive(base_url, result.sampler_path, raw):
            weights.download(tinker_path=result.state_path, output_dir=str(raw), base_url=base_url)
        weights.build_lora_adapter(
            base_model=run.options.base_model, adapter_path=str(raw), output_path=str(folder)
        )
    except Exception as error:
        raise AgentError(
            f"{result.sampler_path}: the adapter cannot be fetched: {type(error).__name__}: {error}"
        ) from error
    content = json.loads((run.path / "run.json").read_text())
    # Where a server of one's own listens is nobody's business, and no use to anyone else.
    content["options"]["base_url"] = None
    content["options"]["base_model"] = _model_name(run)
    (folder / "memroute.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "README.md").write_text(card_text(run, result, repo))
    if dry_run:
        return str(folder)
    try:
        return str(weights.publish_to_hf_hub(model_path=str(folder), repo_id=repo, private=private))
    except Exception as error:  # the hub's, its HTTP library's or the disk's: the remedy is one
        said = " ".join(str(error).split())[:300]
        raise AgentError(
            f"{repo}: the upload failed ({type(error).__name__}: {said}); check the name and the "
            "connection, and log in with 'hf auth login' or set HF_TOKEN (with write access); the "
            f"folder is kept at {folder}"
        ) from error


def _fetch_archive(base_url: str, sampler_path: str, out: Path) -> bool:
    """Fetch an adapter as the archive that SkyRL's server makes of it; False if it has none.

    Tinker's service exports the state instead, which the cookbook's `download` asks for.
    """
    owner, _, rest = sampler_path.removeprefix("tinker://").partition("/")
    name = rest.rpartition("/")[2]
    url = f"{base_url.rstrip('/')}/api/v1/training_runs/{owner}/checkpoints/{name}/archive"
    try:
        with urllib.request.urlopen(url, timeout=300) as reply:
            content = io.BytesIO(reply.read())
    except urllib.error.HTTPError:
        return False
    out.mkdir(parents=True)
    with tarfile.open(fileobj=content) as archive:
        archive.extractall(out, filter="data")
    return True


def card_text(run: Run, result: StageResult, repo: str) -> str:
    """The model card: the cookbook's, with what was measured and how it was trained."""
    weights = require("tinker_cookbook.weights")
    config = weights.ModelCardConfig(
        base_model=_model_name(run), tags=["memory-routing", "memroute"], language=["en"]
    )
    card = str(weights.generate_model_card(config=config, repo_id=repo, model_path=None))
    card = card.replace("library_name: transformers", "library_name: peft", 1)
    head, marker, tail = card.partition("## Model details")
    return f"{head}{_measured(run, result)}\n{_training(run)}\n{marker}{tail}"


def _measured(run: Run, result: StageResult) -> str:
    split = run.options.eval_split
    held_out: Mapping[str, Any] = run.data.get(split, {})
    there = held_out.get("kept", held_out.get("examples", 0))
    count = min(run.options.rl.eval_examples, there)
    lines = [
        "The model reads a conversation and names the kinds of long-term memory it should be "
        "stored under. It was trained on the environment `MemoryRouting-v0` of memroute.",
        "",
        f"## Measured on {count} conversations of `{run.data.get('name')}:{split}`",
        "",
        "| metric | value | 95% interval |",
        "|---|---|---|",
    ]
    for key, label in ROWS:
        if key in result.metrics:
            low, high = result.intervals.get(key, (float("nan"),) * 2)
            lines.append(f"| {label} | {result.metrics[key]:.3f} | {low:.3f} to {high:.3f} |")
    if "test/nll" in result.metrics:
        lines.append(f"| Validation loss | {result.metrics['test/nll']:.4f} | |")
    kind = run.options.rl.eval_temperature
    lines += ["", f"Answers at temperature {kind:g}; intervals by bootstrap over conversations."]
    lines.append("")
    return "\n".join(lines)


def _training(run: Run) -> str:
    options = run.options
    lines = ["## Training", ""]
    for stage, result in run.stages.items():
        lines.append(f"- `{stage}`: {result.status} after {result.step} steps. {result.reason}")
    train = run.data.get("train", {})
    lines += [
        f"- LoRA rank {options.lora_rank}, chat renderer `{run.renderer}`, seed {options.seed}.",
        f"- Data: `{run.data.get('name')}`, {train.get('examples')} training conversations, "
        f"SHA-256 `{train.get('sha256')}`, taxonomy `{run.data.get('taxonomy')}`.",
        f"- Versions: {', '.join(f'{k} {v}' for k, v in run.versions.items())}.",
        "- Every option: `memroute.json`.",
        "",
    ]
    return "\n".join(lines)


def _model_name(run: Run) -> str:
    """The base model as others know it: not the folder where it happened to lie."""
    model = run.options.base_model
    return Path(model).name if Path(model).is_dir() else model
