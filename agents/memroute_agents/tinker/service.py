"""The server that trains and samples: its key, whether it is there, its errors in one line."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memroute_agents.tinker import require
from memroute_env.errors import AgentError, OptionError

__all__ = ["check_model", "connect", "ensure_api_key", "in_one_line", "look"]

PROBE_S = 10.0


def ensure_api_key(base_url: str | None) -> None:
    """The SDK insists on a key; a server of one's own does not look at it.

    Raises:
        OptionError: Without `TINKER_API_KEY` for Tinker's own service.
    """
    if os.environ.get("TINKER_API_KEY") or os.environ.get("TINKER_CREDENTIAL_CMD"):
        return
    if base_url is None and not os.environ.get("TINKER_BASE_URL"):
        raise OptionError(
            "TINKER_API_KEY is not set: get a key from Tinker's console and export it, or name "
            "a server of your own with --base-url"
        )
    os.environ["TINKER_API_KEY"] = "tml-own-server"  # pragma: allowlist secret


def look(base_url: str | None) -> str:
    """See that a server answers, before any work: the SDK retries for minutes where none does.

    Args:
        base_url: The server; by default `TINKER_BASE_URL`, or Tinker's own service.

    Returns:
        Its address.

    Raises:
        AgentError: If nothing answers there within 10 s, or it is no Tinker server.
        OptionError: Without a key where one is needed.
        MissingDependencyError: Without tinker.
    """
    ensure_api_key(base_url)
    resolve = require("tinker.lib.base_url")
    url = str(base_url or os.environ.get("TINKER_BASE_URL") or resolve.DEFAULT_BASE_URL)
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/api/v1/healthz", timeout=PROBE_S):
            pass
    except urllib.error.HTTPError as error:
        # One's own server has this page; a gateway before the service may want the key for it.
        if error.code == 404:
            raise AgentError(
                f"{url}: what answers there is no Tinker server (no /api/v1/healthz); "
                "check --base-url"
            ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise AgentError(
            f"{url}: no server answers there ({reason}); start it, or check --base-url"
        ) from None
    return url


def connect(base_url: str | None) -> Any:
    """A `tinker.ServiceClient` of a server that answers.

    Raises:
        AgentError: As `look`, or if the server refuses.
        OptionError: Without a key where one is needed.
        MissingDependencyError: Without tinker.
    """
    with in_one_line(look(base_url)):
        return require("tinker").ServiceClient(base_url=base_url)


def check_model(service: Any, base_model: str, url: str | None) -> None:
    """Refuse a model that the server does not have, before anything is computed.

    A folder may be called otherwise on the server's machine, so of folders only two that are both
    here are compared.

    Raises:
        OptionError: With the models that the server has.
        AgentError: If it does not say.
    """
    with in_one_line(url or "the service"):
        known = service.get_server_capabilities().supported_models
    names = [model.model_name for model in known if model.model_name]
    here = Path(base_model)
    if here.is_dir():
        matches = any(not Path(n).is_dir() or Path(n).samefile(here) for n in names)
    else:
        matches = base_model in names
    if names and not matches:
        raise OptionError(
            f"{url or 'the service'} does not train {base_model}, but {', '.join(sorted(names))}; "
            "name one of these with --base-model"
        )


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn the errors of the SDK and of the cookbook into one of ours, and hush their renamings.

    Args:
        what: What was being done, or where.

    Raises:
        AgentError: `what`, and the error's class and message, in one line.
    """
    tinker = require("tinker")
    exceptions = require("tinker_cookbook.exceptions")
    try:
        with warnings.catch_warnings():
            # This SDK has begun to rename methods that the cookbook of this version calls.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    except (tinker.TinkerError, exceptions.TinkerCookbookError) as error:
        message = " ".join(str(error).split())
        raise AgentError(f"{what}: {type(error).__name__}: {message}") from error
