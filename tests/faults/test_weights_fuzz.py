"""Damaged weight files, thousands of them: reading one gives arrays or a UserError, nothing else.

`SAK_JAX_FUZZ_SECONDS` sets how long (10); the mutations depend on the seed alone, `SAK_JAX_FUZZ_SEED` (0).
"""

import argparse
import io
import json
import os
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from sak_jax.errors import UserError
from sak_jax.weights.files import read_metadata, read_weights

SECONDS = float(os.environ.get("SAK_JAX_FUZZ_SECONDS", "10"))
SEED = int(os.environ.get("SAK_JAX_FUZZ_SEED", "0"))

ARRAYS = {
    "blocks.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "blocks.0.bias": np.ones(4, np.float16),
    "half": np.ones((2, 2), ml_dtypes.bfloat16),
    "count": np.zeros((), np.int64),
}


def tensors():
    weights = {key: torch.from_numpy(value.astype(np.float32)) for key, value in ARRAYS.items()}
    weights["half"] = weights["half"].bfloat16()
    beside = {"args": argparse.Namespace(lr=np.float64(0.1), names=["a"]), "mean": np.arange(3.0), "epoch": 3}
    return {"model": weights, "model_ema": weights, **beside}


def saved(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


EXAMPLES = {
    "safetensors": lambda: safetensors.numpy.save(ARRAYS, {"teacher": "x"}),
    "npz": lambda: saved(lambda file: np.savez(file, **ARRAYS)),
    "compressed.npz": lambda: saved(lambda file: np.savez_compressed(file, **ARRAYS)),
    "pth": lambda: saved(lambda file: torch.save(tensors(), file)),
    "legacy.pth": lambda: saved(lambda file: torch.save(tensors(), file, _use_new_zipfile_serialization=False)),
    "index.json": lambda: json.dumps({"metadata": {}, "weight_map": dict.fromkeys(ARRAYS, "x.safetensors")}).encode(),
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes of bytes, numbers or length."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(data) + 1))
        length = int(rng.integers(1, 9))
        kind = rng.integers(0, 7)
        if kind == 0:
            data[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + 4 * length]
        elif kind == 4:
            data[at : at + length] = rng.choice([b"\x00", b"\xff", b"\x7f", b"9"]) * length
        elif kind == 5:
            del data[at:]
        else:
            other = int(rng.integers(0, len(data) + 1))
            data[at : at + length] = data[other : other + length]
        if not data:
            break
    return bytes(data)


def damaged_inside(content: bytes, rng: np.random.Generator) -> bytes:
    """A zip archive whose checksums are right although a member is damaged."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as out:
        names = archive.namelist()
        chosen = names[int(rng.integers(0, len(names)))] if rng.random() < 0.5 else names[0]
        for name in names:
            member = archive.read(name)
            out.writestr(name, damaged(member, rng) if name == chosen else member)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_damaged_file_gives_arrays_or_one_line(tmp_path, kind):
    content, rng = EXAMPLES[kind](), np.random.default_rng(SEED)
    path = tmp_path / f"x.{kind}"
    (tmp_path / "x.safetensors").write_bytes(EXAMPLES["safetensors"]())
    end, tried, refused = time.monotonic() + SECONDS / len(EXAMPLES), 0, 0
    while time.monotonic() < end or tried < 20:
        inside = content[:2] == b"PK" and rng.random() < 0.7
        path.write_bytes(damaged_inside(content, rng) if inside else damaged(content, rng))
        wanted = "" if rng.random() < 0.7 else "ema"
        tried += 1
        try:
            weights = read_weights(path, weights=wanted)
            assert weights and all(isinstance(value, np.ndarray) for value in weights.values())
            if kind == "safetensors":
                read_metadata(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(tmp_path) in str(error)
        except BaseException:
            path.rename(os.path.join(os.environ.get("SAK_JAX_FUZZ_KEEP", tmp_path), f"failed_{path.name}"))
            raise
    print(f"{kind}: {tried} files, {refused} refused")
    assert refused
