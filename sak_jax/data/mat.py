"""MATLAB's files of version 5, read in Python alone: SciPy's reader crashes the process on some damaged ones.

Format: "MAT-File Format", MathWorks, chapter 1. Arrays have the shapes, and structs the fields, that `scipy.io.loadmat`
gives them.
"""

import math
import struct
import zlib

import numpy as np

from sak_jax.data import arrays
from sak_jax.errors import UserError

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_MAX_BYTES, _MAX_DEPTH = 1 << 28, 16


def decode(content: bytes, name: str, variable: str) -> np.ndarray:
    """One variable of a MATLAB file: numbers, text, cells or structs. `name` is for the error.

    Raises:
      UserError: another version, damaged, no such variable, or of a kind that is not read (sparse, objects).
    """
    if content[:10] == b"MATLAB 7.3" or content[:8] == b"\x89HDF\r\n\x1a\n":
        raise UserError(f"{name}: is MATLAB's version 7.3 (HDF5), and 5 is read: save it with '-v7'")
    if content[126:128] not in (b"IM", b"MI"):
        kind = arrays.what_it_is(content)
        reason = f"it is {kind}" if kind else "it has no header of version 5"
        raise UserError(f"{name}: is not a whole .mat file ({reason}): replace it, or data.on_error=skip")
    try:
        reader = _Reader("<" if content[126:128] == b"IM" else ">")
        for kind, data in reader.elements(memoryview(content)[128:], padded=False):
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                data = unpacker.decompress(data, _MAX_BYTES)
                if not unpacker.eof:
                    raise ValueError("a compressed variable is truncated")
                kind, data = next(reader.elements(memoryview(data), padded=False))
            if kind == _MATRIX and reader.name(data) == variable:
                return reader.array(data, 0)
    except Exception as error:  # struct, zlib, NumPy and the codecs raise whatever the damage makes them stumble over.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: is not a whole .mat file ({reason}): replace it, or data.on_error=skip") from error
    raise UserError(f"{name}: has no variable {variable!r}")


class _Reader:
    """Reads elements of one byte order, "<" or ">"."""

    def __init__(self, order: str):
        self._order = order
        self._tag = struct.Struct(f"{order}II")

    def elements(self, data: memoryview, padded: bool = True):
        """Type and content of each of a row of elements; all but the outermost are padded to 8 bytes."""
        position, end = 0, len(data)
        while position < end:
            kind, size = self._tag.unpack_from(data, position)
            if kind >> 16:  # a small element, within its tag
                size, kind = kind >> 16, kind & 0xFFFF
                if size > 4:
                    raise ValueError("a small element is too large")
                yield kind, data[position + 4 : position + 4 + size]
                position += 8
                continue
            position += 8
            if size > end - position:
                raise ValueError("an element is truncated")
            yield kind, data[position : position + size]
            position += size + (-size % 8 if padded else 0)

    def name(self, matrix: memoryview) -> str:
        """The name of a variable."""
        elements = self.elements(matrix)
        next(elements), next(elements)
        return bytes(next(elements)[1]).decode("latin-1")

    def array(self, matrix: memoryview, depth: int) -> np.ndarray:
        """The array of a matrix element."""
        if not len(matrix):
            return np.zeros((0, 0))
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deep")
        elements = self.elements(matrix)
        kind = self._tag.unpack(next(elements)[1])[0]
        shape = tuple(self._numbers(next(elements)).tolist())
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"an array has the shape {shape}")
        next(elements)  # its name
        count, kind, is_complex = math.prod(shape), kind & 0xFF, kind & 0x800
        if kind in (_CELL, _STRUCT):
            if count > len(matrix):
                raise ValueError(f"it has no room for an array of the shape {shape}")
            return self._nested(elements, shape, count, depth, is_struct=kind == _STRUCT)
        if kind == _CHAR:
            return self._text(elements, shape, count)
        if kind not in _CLASSES or is_complex:
            raise ValueError("it holds a variable that is neither real numbers, text, cells nor structs")
        values = self._numbers(next(elements))
        if len(values) != count:
            raise ValueError(f"{len(values)} numbers do not fill the shape {shape}")
        return values.astype(_CLASSES[kind], copy=False).reshape(shape, order="F")

    def _numbers(self, element: tuple[int, memoryview]) -> np.ndarray:
        kind, data = element
        if kind not in _NUMBERS:
            raise ValueError("numbers of an unknown type")
        values = np.frombuffer(data, self._order + _NUMBERS[kind])
        return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))

    def _nested(self, elements, shape: tuple[int, ...], count: int, depth: int, is_struct: bool) -> np.ndarray:
        fields = self._fields(elements) if is_struct else [None]
        found = np.empty(count, [(field, object) for field in fields] if is_struct else object)
        for index in range(count):
            for field in fields:
                kind, data = next(elements)
                if kind != _MATRIX:
                    raise ValueError("a field is no array")
                value = self.array(data, depth + 1)
                if field is None:
                    found[index] = value
                else:
                    found[field][index] = value
        return found.reshape(shape, order="F")

    def _fields(self, elements) -> list[str]:
        length = int(self._numbers(next(elements))[0])
        names = bytes(next(elements)[1])
        if length < 1 or len(names) % length:
            raise ValueError("the fields of a struct have no names")
        parts = (names[start : start + length] for start in range(0, len(names), length))
        return [part.split(b"\0")[0].decode("latin-1") for part in parts]

    def _text(self, elements, shape: tuple[int, ...], count: int) -> np.ndarray:
        if not count:
            return np.array([], "<U1")
        kind, data = next(elements)
        encoding = _TEXT[kind] + ("" if kind in (1, 2, 16) else "-le" if self._order == "<" else "-be")
        text = bytes(data).decode(encoding)
        if len(text) != count or len(shape) != 2:
            raise ValueError(f"{len(text)} letters do not fill the shape {shape}")
        return np.array(["".join(text[row :: shape[0]]) for row in range(shape[0])])
