"""Weight files: read the usual formats as numpy arrays, never running code from a file; write whole files."""

import io
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors.numpy
from etils import epath

from sak_jax import paths
from sak_jax.errors import UserError
from sak_jax.weights import nesting, pickles, readers, signature


def read_weights(path: epath.PathLike, *, weights: str = "") -> dict[str, np.ndarray]:
    """Key -> array of a weight file, whose kind is told by its content.

    Args:
      path: `.safetensors`, a sharded file's `.index.json`, PyTorch's `.bin`, `.pth`, `.pt` (read with `weights_only`),
        or `.npz`. Weights nested in a training checkpoint (`state_dict`, `model`) are taken out, and prefixes of DDP
        and torch.compile taken off.
      weights: which are meant where there are several, see `nesting.choose`: `ema`, `teacher.backbone`, ..

    Returns:
      Arrays in the file's own precision; bfloat16, which numpy lacks, becomes float32, which is exact.

    Raises:
      UserError: no such file, truncated, not a weight file, or a pickle that holds more than weights.
    """
    path = paths.given(path)
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file; give the path of a weight file")
        if path.is_dir():
            inside = sorted(file.name for file in path.iterdir() if file.suffix in signature.SUFFIXES)
            raise UserError(f"{path}: a folder; give the weight file in it{f' ({inside[0]})' if inside else ''}")
        tensors = nesting.choose(_read(path), weights, str(path))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: can't be read ({reason}); give the path of a weight file") from error
    except MemoryError as error:
        raise UserError(f"{path}: its arrays do not fit into memory; use a machine with more") from error
    kept = {key: value for key, value in tensors.items() if isinstance(value, np.ndarray)}
    others = {key: value for key, value in tensors.items() if key not in kept}
    found = kept | (pickles.arrays(others, str(path)) if others else {})
    return {
        key: value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value for key, value in found.items()
    }


def _read(path: epath.Path) -> Mapping[str, object]:
    """What a file holds, by key."""
    kind = signature.kind(path)
    if kind == "index":
        return readers.read_index(path, _read_shard)
    return {"safetensors": readers.read_safetensors, "npz": readers.read_npz, "torch": pickles.read}[kind](path)


def _read_shard(path: epath.Path) -> Mapping[str, object]:
    if not path.is_file():
        raise UserError(f"{path}: no such file, which the index names; fetch all shards")
    content = _read(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not weights by name; fetch it again")
    return content


def check_finite(weights: Mapping[str, np.ndarray], name: str) -> None:
    """Checks that all arrays hold finite numbers. (That they are floating where they must be, `rules.load` checks.)

    Args:
      weights: key -> array.
      name: what the weights are called in errors.

    Raises:
      UserError: an array holds NaN or infinity; names its key.
    """
    for key, value in weights.items():
        if not np.isfinite(value).all():
            raise UserError(f"{name}: {key} holds NaN or infinity; give another file, or fetch it again")


def read_metadata(path: epath.PathLike) -> dict[str, str]:
    """The text metadata in the header of a safetensors file; raises UserError as `read_weights` does."""
    path = epath.Path(path)
    try:
        metadata = readers.read_header(path).get("__metadata__") or {}
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from error
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: not a whole safetensors file (its metadata is no table); fetch or convert it again")
    return {str(key): str(value) for key, value in metadata.items()}


def write_safetensors(
    path: epath.PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file whole or not at all; raises UserError where it can't be written."""
    contiguous = {key: np.asarray(value, order="C") for key, value in arrays.items()}
    _write(path, safetensors.numpy.save(contiguous, dict(metadata or {})))


def write_torch(path: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a PyTorch state dict whole or not at all; raises UserError where PyTorch is missing, or it can't be."""
    torch = pickles.import_torch(path)
    content = io.BytesIO()
    torch.save({key: torch.tensor(value) for key, value in arrays.items()}, content)
    _write(path, content.getbuffer())


def check_torch(path: epath.PathLike) -> None:
    """Checks that a PyTorch file can be written: raises UserError where PyTorch is not installed."""
    pickles.import_torch(path)


def _write(path: epath.PathLike, content: bytes) -> None:
    try:
        paths.write_bytes(path, content)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error}); give another place") from error
