"""Safetensors, sharded safetensors and `.npz` files as arrays by name; nothing in a file is trusted."""

import json
import math
import zipfile
from collections.abc import Callable

import ml_dtypes
import numpy as np
from etils import epath

from sak_jax.errors import UserError

Weights = dict[str, np.ndarray]

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
"""Safetensors' names of what NumPy can hold."""

INFLATED, RATIO = 256 << 20, 100
"""An archive whose arrays are larger than the former and than the latter times the file is no archive of weights."""


def read_safetensors(path: epath.Path) -> Weights:
    """The arrays of a safetensors file: views of its bytes, bfloat16 as such.

    Raises:
      UserError: not a whole safetensors file, or of a type that is not read (float8).
    """
    return _guarded(path, "not a whole safetensors file", lambda: _parse_safetensors(path, path.read_bytes()))


def read_header(path: epath.Path) -> dict:
    """The header of a safetensors file; raises UserError as `read_safetensors` does, without reading the arrays."""

    def read():
        with path.open("rb") as file:
            return _header(int.from_bytes(file.read(8), "little"), file.read, path.stat().length - 8)

    return _guarded(path, "not a whole safetensors file", read)


def _header(length: int, read: Callable[[int], bytes], available: int) -> dict:
    if not 2 <= length <= available:
        raise ValueError(f"its header of {length} bytes is longer than the file")
    header = json.loads(read(length).decode())
    if not isinstance(header, dict):
        raise ValueError("its header is not a table")
    return header


def _parse_safetensors(path: epath.Path, content: bytes) -> Weights:
    start = 8 + int.from_bytes(content[:8], "little")
    header = _header(start - 8, lambda n: content[8 : 8 + n], len(content) - 8)
    header.pop("__metadata__", None)
    weights, end = {}, 0
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (begin, stop) = entry["shape"], entry["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, stop)):
            raise ValueError(f"{key} has a shape or place that is not of whole numbers")
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{path}: {key} is of the type {entry['dtype']}, which is not read; give weights in float32, float16 or"
                " bfloat16"
            )
        dtype = np.dtype(DTYPES[entry["dtype"]])
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{key} does not lie where the header says")
        if start + stop > len(content):
            raise ValueError(f"{key} lies beyond its end")
        weights[key] = np.frombuffer(content, dtype, math.prod(shape), start + begin).reshape(shape)
        end = stop
    if start + end != len(content):
        raise ValueError("there is more in it than its header says")
    return weights


def read_npz(path: epath.Path) -> Weights:
    """The arrays of a `.npz` file.

    Raises:
      UserError: not a whole file of plain arrays, or arrays that are far larger than the file.
    """
    return _guarded(path, "not a whole .npz file of plain arrays", lambda: _parse_npz(path))


def _parse_npz(path: epath.Path) -> Weights:
    size = path.stat().length
    weights = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        inflated = sum(member.file_size for member in members)
        if inflated > max(INFLATED, RATIO * size):
            raise UserError(
                f"{path}: its arrays of {inflated / 1e9:.1f} GB in {size / 1e6:.1f} MB are no trained weights; give the"
                " original file"
            )
        for member in members:
            with archive.open(member) as data:
                shape, fortran, dtype = _npy_header(data)
                if data.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    raise ValueError(f"{member.filename} is not as large as it says")
                array = np.frombuffer(data.read(), dtype)
            array = array.reshape(shape, order="F" if fortran else "C")
            weights[member.filename.removesuffix(".npy")] = array.astype(dtype.newbyteorder("="), copy=False)
    return weights


def _npy_header(data) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(data)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"arrays of version {version}")
    shape, fortran, dtype = read[version](data)
    if dtype == np.dtype("V2"):  # This is how NumPy saves the bfloat16 arrays of JAX.
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif dtype.kind not in "fiub":
        raise ValueError(f"an array of {dtype}")
    return shape, fortran, dtype


def read_index(path: epath.Path, read: Callable[[epath.Path], Weights]) -> Weights:
    """The arrays of a sharded file by its index.

    Args:
      path: the `.index.json`.
      read: of one shard.

    Raises:
      UserError: not an index, shards that are not beside it, or that lack what the index says they hold.
    """
    what = "not the index of a sharded weight file (give model.safetensors.index.json)"
    places = _guarded(path, what, lambda: json.loads(path.read_text())["weight_map"])
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{path}: {what}; its weight_map must give a file for each key")
    weights = {}
    for name in sorted(set(places.values())):
        if name != epath.Path(name).name or name in ("", ".", ".."):
            raise UserError(f"{path}: names {name!r}, which is not a file beside it; put the shards beside the index")
        if name.endswith(".json"):
            raise UserError(f"{path}: names {name}, an index like itself, as a shard; fetch the index again")
        shard = read(path.parent / name)
        missing = next((key for key, file in places.items() if file == name and key not in shard), None)
        if missing is not None:
            raise UserError(f"{path.parent / name}: lacks {missing}, which {path.name} says it holds; fetch both again")
        weights |= {key: shard[key] for key, file in places.items() if file == name}
    return weights


def _guarded(path: epath.Path, what: str, read: Callable[[], object]):
    """What `read` gives; anything that a damaged file makes it trip over is a `UserError`."""
    try:
        return read()
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # Decoders raise whatever they trip over.
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise UserError(f"{path}: {what} ({reason}); fetch it again") from error
