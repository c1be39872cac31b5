from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from memroute_agents.tinker.service import check_model, connect, ensure_api_key
from memroute_env.errors import AgentError, OptionError
from memroute_eval.cli import app

pytest.importorskip("tinker_cookbook", reason="needs tinker-cookbook: memroute-env[tinker]")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")


@pytest.fixture
def other_server() -> Iterator[str]:
    """A web server that is no Tinker server."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Nothing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def models(*names: str) -> SimpleNamespace:
    known = [SimpleNamespace(model_name=name) for name in names]
    return SimpleNamespace(get_server_capabilities=lambda: SimpleNamespace(supported_models=known))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://no.such.host.invalid"])
def test_a_server_that_is_not_there_is_named_at_once(key: None, url: str) -> None:
    began = time.monotonic()
    with pytest.raises(AgentError, match=f"{url}.*--base-url"):
        connect(url)
    assert time.monotonic() - began < 30, "the SDK by itself retries for minutes"


def test_the_command_names_a_dead_server_before_it_fetches_anything(
    key: None, tmp_path: Path
) -> None:
    command = ["train", "tinker", "--out", str(tmp_path / "run"), "--base-url"]
    began = time.monotonic()
    ran = CliRunner().invoke(app, [*command, "http://127.0.0.1:9"])
    assert ran.exit_code != 0
    assert "http://127.0.0.1:9: no server answers there" in ran.output
    assert time.monotonic() - began < 30
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_no_tinker_server_is_named(key: None, other_server: str) -> None:
    with pytest.raises(AgentError, match="no Tinker server"):
        connect(other_server)


def test_the_service_needs_a_key_and_ones_own_server_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TINKER_API_KEY", "TINKER_CREDENTIAL_CMD", "TINKER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OptionError, match="TINKER_API_KEY"):
        ensure_api_key(None)
    monkeypatch.setenv("TINKER_API_KEY", "")
    ensure_api_key("http://127.0.0.1:8001")


def test_a_model_that_the_server_does_not_have_is_refused(tmp_path: Path) -> None:
    check_model(models("a/small", "a/large"), "a/large", None)
    with pytest.raises(OptionError, match="a/large, a/small"):
        check_model(models("a/small", "a/large"), "a/huge", "http://here")
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    check_model(models(f"{here}/"), str(here), None)
    check_model(models("/elsewhere/model"), str(here), None)
    with pytest.raises(OptionError, match="does not train"):
        check_model(models(str(other)), str(here), None)
