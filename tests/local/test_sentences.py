"""The optional sentence encoder: any ONNX model with a tokenizer, beside the n-grams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from memroute_agents.local.checkpoint import load_policy, save_policy
from memroute_agents.local.router import LocalAgent
from memroute_agents.local.sentences import SentenceEncoder
from memroute_agents.local.training import train_policy
from memroute_env import AgentError, Dataset
from tests.local.conftest import QUICK

WORDS = ("[UNK]", "we", "i", "our", "my", "please", "budget", "tone")
WIDTH = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one table: a token's state is its row, whatever stands beside it."""
    path = tmp_path_factory.mktemp("encoder")
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(path / "tokenizer.json"))
    write_model(path, seed=0)
    return path


def table(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(WORDS), WIDTH)).astype(np.float32)


def write_model(path: Path, seed: int) -> None:
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"])
        for name in ("input_ids", "attention_mask")
    ]
    states = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["N", "T", WIDTH])
    node = helper.make_node("Gather", ["table", "input_ids"], ["states"])
    graph = helper.make_graph(
        [node], "table", tokens, [states], [numpy_helper.from_array(table(seed), "table")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path / "model.onnx"))


def test_tokens_are_averaged_without_the_padding(folder: Path) -> None:
    encoder, rows = SentenceEncoder(str(folder)), table(0)
    texts = ["our tone", "my budget please my budget", "our tone", "we"]
    found = encoder(texts)
    assert found.shape == (4, WIDTH)
    assert found.dtype == np.float32
    for text, vector in zip(texts, found, strict=True):
        mean = np.mean([rows[WORDS.index(word)] for word in text.split()], axis=0)
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert encoder([]).shape == (0, WIDTH)
    assert np.isfinite(encoder([""])).all()


def test_a_policy_learns_from_embeddings_and_keeps_them(
    folder: Path, train: Dataset, held_out: Dataset, tmp_path: Path
) -> None:
    config = replace(QUICK, estimator="none", sentence_encoder=str(folder))
    policy = train_policy(train, held_out, config).policy
    assert policy.parameters.dense.shape == (WIDTH, 26)
    assert np.abs(policy.parameters.dense).max() > 1e-3
    save_policy(policy, tmp_path / "policy.npz")
    agent = LocalAgent(load_policy(tmp_path / "policy.npz"))
    conversations = [example.conversation for example in held_out]
    expected = [d.categories for d in LocalAgent(policy).route(conversations)]
    assert [d.categories for d in agent.route(conversations)] == expected


def test_another_model_in_its_place_is_refused(
    folder: Path, train: Dataset, held_out: Dataset, tmp_path: Path
) -> None:
    config = replace(QUICK, estimator="none", sentence_encoder=str(folder))
    save_policy(train_policy(train, held_out, config).policy, tmp_path / "policy.npz")
    kept = (folder / "model.onnx").read_bytes()
    try:
        write_model(folder, seed=1)
        agent = LocalAgent(load_policy(tmp_path / "policy.npz"))
        with pytest.raises(AgentError, match="not the model that the policy was trained with"):
            agent.route([held_out[0].conversation])
    finally:
        (folder / "model.onnx").write_bytes(kept)


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="'/no/where': no such folder"):
        SentenceEncoder("/no/where")(["we"])
    with pytest.raises(AgentError, match=r"tokenizer\.json and model\.onnx"):
        SentenceEncoder(str(tmp_path))(["we"])
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AgentError, match="no sentence encoder can be read there"):
        SentenceEncoder(str(tmp_path))(["we"])
