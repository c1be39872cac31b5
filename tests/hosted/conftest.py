from pathlib import Path

import pytest

from tests.hosted.helpers import Setup


@pytest.fixture(params=["cohere", "chat"])
def setup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Setup:
    pytest.importorskip("cohere" if request.param == "cohere" else "openai")
    return Setup(request.param, monkeypatch, tmp_path / "cache")
