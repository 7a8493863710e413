"""Weight files: read the usual formats as numpy arrays, never running code from a file; write safetensors."""

import argparse
import json
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from sak_jax.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts nest the weights of a PyTorch file."""


def read_weights(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Key -> array of a weight file.

    Args:
      path: `.safetensors`, a sharded file's `.index.json`, PyTorch's `.bin`, `.pth`, `.pt` (read with `weights_only`),
        or `.npz`. A weight dict nested in a PyTorch training checkpoint (`state_dict`, `model`) is taken out.

    Returns:
      Arrays in the file's own precision; bfloat16, which numpy lacks, becomes float32, which is exact.

    Raises:
      UserError: no such file, truncated, not a weight file, or a pickle that holds more than weights.
    """
    path = epath.Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file; give the path of a weight file")
    if path.is_dir():
        raise UserError(f"{path}: a folder; give the weight file in it")
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".json": _read_shards}
    readers |= dict.fromkeys((".bin", ".pth", ".pt", ".tar"), _read_torch)
    if path.suffix not in readers:
        raise UserError(f"{path}: unknown kind of file; give one of {', '.join(sorted(readers))}")
    weights = readers[path.suffix](path)
    if not weights:
        raise UserError(f"{path}: holds no weights; give a file of a model's weights")
    return {
        key: value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value for key, value in weights.items()
    }


def write_safetensors(
    path: epath.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
):
    """Writes a safetensors file whole or not at all: under a temporary name, then renamed."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    contiguous = {key: np.asarray(value, order="C") for key, value in arrays.items()}
    try:
        temporary.write_bytes(safetensors.numpy.save(contiguous, dict(metadata or {})))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_torch(path: epath.PathLike, arrays: Mapping[str, np.ndarray]):
    """Writes a PyTorch state dict whole or not at all; raises UserError where PyTorch is not installed."""
    torch = _torch(path)
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save({key: torch.tensor(value) for key, value in arrays.items()}, file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_metadata(path: epath.PathLike) -> dict[str, str]:
    """The text metadata in the header of a safetensors file; raises UserError as `read_weights` does."""
    try:
        with safetensors.safe_open(epath.Path(path), "numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch or convert it again") from error


def _read_safetensors(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch it again") from error


def _read_shards(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not the index of a sharded weight file; give model.safetensors.index.json") from error
    weights = {}
    for shard in shards:
        weights |= read_weights(path.parent / epath.Path(shard).name)
    return weights


def _read_npz(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a whole .npz file of plain arrays ({error}); fetch it again") from error


def _read_torch(path: epath.Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    import pickle

    try:
        # Training scripts often keep their arguments beside the weights; a Namespace is plain data.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a PyTorch file of weights alone; it is damaged or would run code when read. Give a file saved"
            " from a state dict"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a whole PyTorch file ({reason}); fetch it again") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not weights by name; save the model's state dict")
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return {
        str(key): (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
        for key, value in tensors.items()
    }


def _torch(path: epath.PathLike):
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: PyTorch files need PyTorch: pip install 'sak_jax[torch]', or use .safetensors"
        ) from error
    return torch
