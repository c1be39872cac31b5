from pathlib import Path

import pytest

from tests.hosted.helpers import Setup


@pytest.fixture(params=["cohere", "chat"])
def setup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Setup:
    return Setup(request.param, monkeypatch, tmp_path / "cache")
