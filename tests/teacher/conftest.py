from pathlib import Path

import pytest

from tests.teacher.helpers import Teacher


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    return Teacher(tmp_path)
