"""Tinker: a language model trained on the environment, supervised and then by policy gradient.

| module | what is in it |
|---|---|
| `options` | every setting of a training run; the presets `paper` and `quick` |
| `envs` | the environment as tinker-cookbook's `Env`, `EnvGroupBuilder`, `RLDataset`, `…Builder` |
| `supervised` | the dataset builder of supervised fine-tuning; nothing is cut silently |
| `evaluate` | the evaluator that plays the same environment with a sampling client |
| `guard` | stops: KL watch, token cap, Ctrl-C, early stopping; hooks into the cookbook's loops |
| `estimate` | tokens, cost and time before anything is sent |
| `service` | the server: its key, whether it is there, its errors in one line |
| `train` | the two stages, driven by `supervised.train` and `rl.train` of the cookbook |
| `run` | a run's folder: what was trained, where its weights are, its curves |
| `router` | the agent `tinker:RUN_OR_URI` |
| `publish` | adapter and model card for the Hugging Face hub |
| `local_server` | a Tinker server on this machine, for tests and dry runs |

Importing this package imports none of torch, tinker and tinker-cookbook.
"""

from __future__ import annotations

from types import ModuleType

from memroute_env.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str) -> ModuleType:
    """Import an optional module.

    Raises:
        MissingDependencyError: If it is not installed; the message names the extra.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        library = (error.name or module).partition(".")[0].replace("_", "-")
        raise MissingDependencyError(library, "tinker") from error
