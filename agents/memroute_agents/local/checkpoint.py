"""Checkpoints of the local policy: one `.npz` without pickle; loading never executes anything.

Weights are stored as float16. Training ends with such weights (`Parameters.rounded`), so that a
checkpoint routes exactly like the policy that was measured.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np

from memroute_agents.local.encoding import Encoder
from memroute_agents.local.features import FeatureConfig
from memroute_agents.local.policy import Calibration, LocalPolicy, Parameters
from memroute_agents.local.sets import family_of
from memroute_env.errors import AgentError
from memroute_env.reward import RewardConfig
from memroute_env.taxonomy import Horizon, Taxonomy

__all__ = ["FORMAT", "load_policy", "save_policy"]

FORMAT = "memroute-local-5"


def save_policy(policy: LocalPolicy, path: Path) -> None:
    """Write a checkpoint, atomically."""
    config = policy.family.reward.config
    header = {
        "format": FORMAT,
        "taxonomy": policy.taxonomy.to_dict(),
        "reward": {
            **{k: v for k, v in asdict(config).items() if k != "adjacent"},
            "adjacent": sorted(sorted(str(h) for h in pair) for pair in config.adjacent),
        },
        "features": asdict(policy.encoder.config),
        "pooling": policy.pooling,
        "temperature": policy.calibration.temperature,
        "reluctance": policy.calibration.reluctance,
        "metadata": policy.metadata,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                header=np.frombuffer(json.dumps(header).encode(), np.uint8),
                columns=policy.encoder.columns,
                idf=policy.encoder.idf.astype(np.float16),
                linear=policy.parameters.linear.astype(np.float16),
                before=policy.parameters.before.astype(np.float16),
                bias=policy.parameters.bias,
                size_bias=policy.parameters.size_bias,
                size_shift=policy.calibration.size_shift,
            )
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_policy(path: Path) -> LocalPolicy:
    """Read a checkpoint: a file, or a folder with `policy.npz`.

    Raises:
        AgentError: If it is absent, damaged, of another format, or inconsistent; the message names
            the file and the remedy.
    """
    file = path / "policy.npz" if path.is_dir() else path
    if not file.is_file():
        raise AgentError(
            f"{file}: no such checkpoint; train one with 'memroute train local --out {path}'"
        )
    try:
        with np.load(file, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise AgentError(
                f"{file}: format {header['format']!r}, this version reads {FORMAT!r}; train it anew"
            )
        return _assemble(header, arrays)
    except AgentError:
        raise
    except Exception as error:  # whatever a damaged archive makes zipfile and numpy raise
        raise AgentError(
            f"{file}: not a checkpoint of the local policy, or damaged "
            f"({type(error).__name__}: {str(error)[:100]}); train it anew or copy it again"
        ) from None


def _assemble(header: dict, arrays: dict[str, np.ndarray]) -> LocalPolicy:
    taxonomy = Taxonomy.from_dict(header["taxonomy"], source="checkpoint")
    reward = dict(header["reward"])
    reward["efficiency"] = tuple(reward["efficiency"])
    reward["adjacent"] = frozenset(
        frozenset(Horizon(h) for h in pair) for pair in reward["adjacent"]
    )
    family = family_of(taxonomy, RewardConfig(**reward))
    features = header["features"]
    encoder = Encoder(
        FeatureConfig(
            word_orders=tuple(features["word_orders"]),
            stem_lengths=tuple(features["stem_lengths"]),
            speaker_stem=int(features["speaker_stem"]),
            char_orders=tuple(features["char_orders"]),
            replies=bool(features["replies"]),
            bits=features["bits"],
        ),
        arrays["columns"].astype(np.int32),
        arrays["idf"].astype(np.float32),
    )
    columns = encoder.columns
    if len(columns) and (columns[0] < 0 or columns[-1] >> encoder.config.bits):
        raise ValueError("a column lies outside the buckets")
    if (np.diff(columns) <= 0).any():
        raise ValueError("the columns do not ascend")
    categories, depth = family.num_categories, len(encoder.columns)
    shapes = {
        "idf": (depth,),
        "linear": (depth, 2 * categories),
        "before": (depth, categories),
        "bias": (categories,),
        "size_bias": (family.num_sizes,),
        "size_shift": (family.num_sizes,),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"array {name!r} has shape {arrays[name].shape}, not {shape}")
    temperature = float(header["temperature"])
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature {temperature} is not above 0")
    reluctance = float(header["reluctance"])
    if not 0 <= reluctance < np.inf:
        raise ValueError(f"reluctance {reluctance} is below 0")
    names = ("linear", "before", "bias", "size_bias")
    return LocalPolicy(
        family,
        encoder,
        Parameters(**{name: arrays[name].astype(np.float32) for name in names}),
        float(header["pooling"]),
        Calibration(temperature, arrays["size_shift"].astype(np.float32), reluctance),
        header["metadata"],
    )
