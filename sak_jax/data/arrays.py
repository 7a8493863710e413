"""Arrays in `.npy` and `.npz` files, read without trusting them; every failure is a UserError that names the file."""

import io
import os
import zipfile

import numpy as np
from etils import epath
from jaxtyping import Shaped

from sak_jax.errors import UserError

MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
_MAX_BYTES = 1 << 32
_SPARSE = {"format.npy", "shape.npy", "data.npy"}


def decode(content: bytes, name: str) -> Shaped[np.ndarray, "..."]:
    """The array of numbers in a `.npy` file, or the only one in a `.npz` file. `name` is for the error.

    Raises:
      UserError: damaged, of other than numbers, several arrays, or a sparse matrix.
    """
    if content[:4] == ZIP_MAGIC:
        content = _member(content, name)
    try:
        stream = io.BytesIO(content)
        shape, fortran, dtype = _read_header(stream)
        start = stream.tell()
    except Exception as error:  # NumPy parses the header as Python, and raises whatever that raises.
        kind = what_it_is(content)
        reason = f"it is {kind}" if kind else " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: is not a whole .npy file ({reason}): replace it, or data.on_error=skip") from error
    _check_numbers(dtype, name)
    size = 1
    for extent in shape:
        size *= extent
    if min(shape, default=1) < 0 or size * dtype.itemsize != len(content) - start:
        raise UserError(
            f"{name}: is not a whole .npy file (its header says {shape} of {dtype}, and {len(content) - start} bytes "
            "follow): replace it, or data.on_error=skip"
        )
    array = np.frombuffer(content, dtype, size, start) if size else np.empty(0, dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _read_header(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _check_numbers(dtype: np.dtype, name: str) -> None:
    if dtype.hasobject or dtype.kind not in "biuf" or dtype.itemsize > 8:
        what = "Python objects" if dtype.hasobject else "a struct" if dtype.names else str(dtype)
        raise UserError(f"{name}: holds {what}, not numbers: save one array of integers or floats")


def _member(content: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            names = {member.filename for member in members}
            if names >= _SPARSE:
                raise UserError(f"{name}: is a sparse matrix of SciPy: save its .toarray() as .npy")
            if len(members) != 1 or not members[0].filename.endswith(".npy"):
                held = ", ".join(sorted(item.removesuffix(".npy") for item in names)[:5]) or "nothing"
                raise UserError(f"{name}: holds {held}, and one array is wanted: save it alone, as .npy")
            if members[0].file_size > _MAX_BYTES:
                raise UserError(f"{name}: claims {members[0].file_size} bytes unpacked: it is damaged")
            with archive.open(members[0]) as file:
                return file.read(members[0].file_size)
    except UserError:
        raise
    except Exception as error:  # zipfile and zlib raise whatever the damage makes them stumble over.
        raise UserError(f"{name}: is not a whole .npz file ({error}): replace it, or data.on_error=skip") from error


def shape(path: os.PathLike | str) -> tuple[int, ...]:
    """The shape that the header of a `.npy` file gives; that of a `.npz` file is read with it."""
    try:
        with epath.Path(path).open("rb") as file:
            if file.read(4) != ZIP_MAGIC:
                file.seek(0)
                found, _, dtype = _read_header(file)
                _check_numbers(dtype, str(path))
                return tuple(found)
            file.seek(0)
            return decode(file.read(), str(path)).shape
    except UserError:
        raise
    except Exception as error:  # As in `decode`.
        raise UserError(f"{path}: its header cannot be read ({' '.join(str(error).split())})") from error


def what_it_is(content: bytes) -> str | None:
    """What a file is that is often found in another's place; None if it is none of these."""
    start = content[:512].lstrip()
    if not content:
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: `git lfs pull` fetches the file itself"
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page, as a failed download leaves it"
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content[:10] == b"MATLAB 7.3":
        return "HDF5 (MATLAB's version 7.3 is too)"
    if content[:10] == b"MATLAB 5.0":
        return "a MATLAB file"
    if content[:4] == b"v/1\x01":
        return "OpenEXR, which is not read: save the array as .npy"
    if content[:6] == MAGIC:
        return "a NumPy array"
    if content[:4] == ZIP_MAGIC:
        return "a zip archive"
    return None
