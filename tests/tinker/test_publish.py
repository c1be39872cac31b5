from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

weights = pytest.importorskip("tinker_cookbook.weights", reason="needs memroute-env[tinker]")
pytestmark = pytest.mark.filterwarnings("default")

import httpx  # noqa: E402
from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: E402

from memroute_agents.tinker import publish  # noqa: E402
from memroute_agents.tinker.options import preset  # noqa: E402
from memroute_agents.tinker.run import Run, StageResult  # noqa: E402
from memroute_env.errors import AgentError  # noqa: E402

REFUSED: Any = httpx.Response(
    401, request=httpx.Request("POST", "https://huggingface.co/api/repos")
)


@pytest.mark.parametrize(
    "failure",
    [
        HfHubHTTPError("401 Client Error\n\nInvalid username or password.", response=REFUSED),
        httpx.ConnectError("Name or service not known"),
        HFValidationError("Repo id must use alphanumeric chars"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_upload_is_one_line_and_keeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def build(output_path: str, **_: str) -> None:
        Path(output_path).mkdir()

    def upload(**_: object) -> str:
        raise failure

    monkeypatch.setattr(publish, "connect", lambda _: None)
    monkeypatch.setattr(weights, "download", lambda **_: None)
    monkeypatch.setattr(weights, "build_lora_adapter", build)
    monkeypatch.setattr(weights, "publish_to_hf_hub", upload)
    run = Run(tmp_path, preset("quick"), "llama3")
    run.stages["sft"] = StageResult("complete", "", "tinker://a", "tinker://b")
    run.save()
    with pytest.raises(AgentError) as raised:
        publish.publish_run(tmp_path, "me/router")
    message = str(raised.value)
    assert "me/router: the upload failed" in message and "hf auth login" in message
    assert "\n" not in message and str(tmp_path / "publish") in message
    assert (tmp_path / "publish" / "README.md").is_file()
