"""What label files may hold, by encoding, and how each is turned into the labels that tasks are trained on.

Every reader of labels uses this contract. A file is converted where what it means is beyond doubt; else a UserError
names it and says how to save it. A file is a one-channel picture (PNG, TIFF, BMP, PGM, PFM, lossless WebP) or one
array (`.npy`, `.npz`); equal colour channels count as one, and an alpha channel must be opaque.

  encoding      gives           of                                                        not counted
  index         uint8 [h, w]    classes 0..254: integers or whole floats; of a palette    255, 65535, -1, NaN
                                its indices
  index_from_1  uint8 [h, w]    the same, classes from 1                                  0, 255, 65535, -1, NaN
  binary        uint8 [h, w]    0 and 1, or levels of which at least half is 1;           NaN
                                JPEG too
  fraction      float32 [h, w]  levels 0..255 or 0..65535 for 0..1; 0 and 1; floats       NaN
                                0..1
  rgb_normals   float32 [h,w,3] RGB of 8 or 16 bits, (n + 1) / 2 of the largest level;    black, alpha 0, NaN
                                float arrays of unit vectors as they are
  metres        float32 [h, w]  floats, at most 1000                                      0, -1, NaN, infinite
  millimetres   float32 [h, w]  16 or more bits, at most 1000 m; in metres                0, 65535, -1, NaN, infinite

What is not counted becomes 255 in classes and fractions, 0 in normals and depth.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from sak_jax.data.stored import Stored, read
from sak_jax.errors import UserError

IGNORE = 255
MISSING = 65535
"""What 16-bit files hold where there is nothing."""
FARTHEST = 1000.0
"""Metres; beyond, another unit is likelier than such a distance."""
_NEAREST = 100
"""Millimetres; a whole map of less is likelier one of metres."""

_JPEG_NOISE = 32

_NORMALS = (2 * np.arange(256, dtype=np.float32) / np.float32(255) - 1)[None]


def decode(encoding: str, content: bytes, name: str) -> Shaped[np.ndarray, "h w *channels"]:
    """The labels in a file.

    Args:
      encoding: one of `ENCODINGS` or `PUBLISHED`.
      content: of the file.
      name: for errors.

    Raises:
      UserError: the file is damaged, or holds what the encoding does not allow.
    """
    return (ENCODINGS | PUBLISHED)[encoding](read(content, name))


def index(stored: Stored) -> UInt8[np.ndarray, "h w"]:
    """Classes 0..254, and 255 where there is none."""
    stored.refuse_lossy("class indices")
    palette = stored.palette
    if palette is not None and (palette == palette[:, :1]).all():
        used = np.unique(stored.values)
        if (used >= len(palette)).any() or (palette[used, 0] != used).any():
            raise UserError(
                f"{stored.name}: its palette holds greys other than its indices, so that either may be meant: "
                "save the classes as an 8-bit grey PNG"
            )
    values = stored.one_channel(use_palette=False)
    if values.dtype == np.uint8:
        return values
    return _small_integers(values, stored.name)


def _small_integers(values: np.ndarray, name: str) -> UInt8[np.ndarray, "h w"]:
    if values.dtype == bool:
        return values.astype(np.uint8)
    nothing = values == -1
    if values.dtype.kind == "f":
        nothing |= np.isnan(values)
        wrong = ~nothing & ~(np.isfinite(values) & (values == np.rint(values)))
        if wrong.any():
            raise UserError(f"{name}: holds {values[wrong][0]}, and classes are whole numbers 0..254, 255 is void")
    if values.dtype.itemsize > 1:
        nothing |= values == MISSING
    wrong = ~nothing & ((values < 0) | (values > IGNORE))
    if wrong.any():
        raise UserError(f"{name}: label {values[wrong][0]:.0f} does not fit 0..254, 255 is void")
    return np.where(nothing, IGNORE, values).astype(np.uint8)


def index_from_1(stored: Stored) -> UInt8[np.ndarray, "h w"]:
    """Classes 0..253 of a file that counts them from 1; its 0 and 255 are void."""
    values = index(stored)
    shifted = values - np.uint8(1)  # 0, void, wraps to 255
    if values.size and values.max() == IGNORE:
        shifted[values == IGNORE] = IGNORE
    return shifted


def check_range(label: UInt8[np.ndarray, "h w"], classes: int, name: str) -> UInt8[np.ndarray, "h w"]:
    """`label` itself. Raises UserError if it holds anything but 0 .. classes - 1 and 255."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
    unknown = np.flatnonzero(counts[classes:IGNORE]) + classes
    if unknown.size:
        raise UserError(
            f"{name}: label {unknown[0]} is unknown, there are the classes 0..{classes - 1} and 255 for void"
        )
    return label


def levels(stored: Stored) -> UInt8[np.ndarray, "h w"]:
    """The levels of an 8-bit picture, as they are: for data sets that are known to be stored so."""
    stored.refuse_lossy("its levels")
    values = stored.one_channel()
    if values.dtype != np.uint8:
        raise UserError(f"{stored.name}: holds {values.dtype}, and an 8-bit picture is wanted")
    return values


def binary(stored: Stored) -> UInt8[np.ndarray, "h w"]:
    """1 where the level is at least half of the largest possible, else 0."""
    values = stored.one_channel()
    share, nothing = _share(values, stored.name)
    mask = (share >= 0.5).astype(np.uint8)
    highest = np.nanmax(values, initial=0) if values.dtype != bool else 1
    if highest > 1 and not mask.any() and not (stored.lossy and highest < _JPEG_NOISE):
        raise UserError(
            f"{stored.name}: its largest level is {highest:.0f}, and a mask is 0 and 1, or 0 and 255: save it so, "
            "or set data.encodings to index if these are classes"
        )
    if highest == IGNORE and not stored.lossy and (values == 1).any() and np.isin(values, (0, 1, IGNORE)).all():
        raise UserError(
            f"{stored.name}: holds 0, 1 and 255, so that 255 may be void or the object: set data.encodings to index "
            "(255 is void), or save it as 0 and 255"
        )
    if nothing is not None:
        mask[nothing] = IGNORE
    return mask


def fraction(stored: Stored) -> Float32[np.ndarray, "h w"]:
    """0..1, and 255 where there is nothing."""
    stored.refuse_lossy("edges")
    share, nothing = _share(stored.one_channel(), stored.name)
    if nothing is not None:
        share[nothing] = IGNORE
    return share


def _share(values: np.ndarray, name: str) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"] | None]:
    """Levels as 0..1, by the smallest of the usual ranges that holds them; of floats, where there is nothing (NaN)."""
    if values.dtype == bool:
        return values.astype(np.float32), None
    nothing = np.isnan(values) if values.dtype.kind == "f" else None
    known = values if nothing is None else np.where(nothing, 0, values)
    low, high = known.min(initial=0), known.max(initial=0)
    whole = nothing is None or high <= 1 or bool((known == np.rint(known)).all())
    largest = next((limit for limit in (1, IGNORE, MISSING) if high <= limit), None)
    if low < 0 or largest is None or not whole:
        raise UserError(
            f"{name}: holds {values.dtype} of {low} to {high}; save fractions 0..1 as floats, "
            "or as levels 0..255 of an 8-bit grey PNG"
        )
    return (known / np.float32(largest)).astype(np.float32, copy=False), nothing


def rgb_normals(stored: Stored) -> Float32[np.ndarray, "h w 3"]:
    """Unit vectors, and 0 where there is none: where the colour is black or transparent."""
    values = stored.colours()
    if values.dtype.kind == "f":
        return _vectors(values, stored.name)
    normals = colours_to_normals(values)
    black = (values == 0).all(axis=-1, keepdims=True)
    if stored.alpha is not None:
        black |= stored.alpha[..., None] == 0
    return np.where(black, np.float32(0), normals)


def all_normals(stored: Stored) -> Float32[np.ndarray, "h w 3"]:
    """As `rgb_normals`, and black is a normal too: for data sets that say otherwise where normals hold."""
    colours = stored.colours()
    if colours.dtype.kind == "f":
        raise UserError(f"{stored.name}: holds floats, and an RGB PNG is wanted")
    return colours_to_normals(colours)


def colours_to_normals(colours: Shaped[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Colour / largest level * 2 - 1, in float32."""
    if colours.dtype == np.uint8:
        return cv2.LUT(colours, _NORMALS)
    return colours / np.float32(MISSING) * np.float32(2) - np.float32(1)


def normals_to_colours(normals: Float32[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """(n + 1) * 127.5, rounded."""
    return np.rint((normals + 1) * 127.5).astype(np.uint8)


def _vectors(values: np.ndarray, name: str) -> Float32[np.ndarray, "h w 3"]:
    nothing = ~np.isfinite(values).all(axis=-1, keepdims=True)
    vectors = np.where(nothing, 0, values).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=-1)
    lengths = lengths[lengths > 0]
    if lengths.size and np.median(np.abs(lengths - 1)) > 0.1:
        raise UserError(
            f"{name}: holds floats that are no unit vectors: save normals n as an RGB PNG of (n + 1) * 127.5, "
            "or as unit vectors"
        )
    return vectors


def metres(stored: Stored) -> Float32[np.ndarray, "h w"]:
    """Metres, and 0 where there is no measurement."""
    depth = _metres(stored)
    depth[~np.isfinite(depth) | (depth == -1)] = 0
    return _far_or_behind(depth, stored.name)


def measured_metres(stored: Stored) -> Float32[np.ndarray, "h w"]:
    """As `metres`, where nothing but 0 stands for a missing measurement."""
    depth = _metres(stored)
    if not np.isfinite(depth).all() or depth.min(initial=0) < 0:
        raise UserError(f"{stored.name}: holds depths that are negative or not finite; 0 marks a missing one")
    return _far_or_behind(depth, stored.name)


def _metres(stored: Stored) -> Float32[np.ndarray, "h w"]:
    values = stored.one_channel()
    if values.dtype.kind != "f":
        raise UserError(
            f"{stored.name}: holds {values.dtype}, and metres are floats: set data.encodings to millimetres if it "
            "holds these, or save metres as float32 in .npy"
        )
    return values.astype(np.float32)


def _far_or_behind(depth: np.ndarray, name: str) -> np.ndarray:
    low, high = float(depth.min(initial=0)), float(depth.max(initial=0))
    if low < 0:
        raise UserError(f"{name}: holds depths of {low:g} m: depth is positive, 0 marks a missing one")
    if high > FARTHEST:
        raise UserError(
            f"{name}: holds depths of {high:g} m: set data.encodings to millimetres if these are, "
            "and mark missing ones by 0"
        )
    return depth


def millimetres(stored: Stored) -> Float32[np.ndarray, "h w"]:
    """Metres of a file of millimetres, and 0 where there is no measurement."""
    stored.refuse_lossy("depth")
    values = stored.one_channel()
    if values.dtype == bool or values.dtype.itemsize == 1:
        raise UserError(f"{stored.name}: has 8 bits, too few for millimetres: save 16-bit PNG")
    nothing = values == MISSING
    if values.dtype.kind != "u":
        nothing |= (values == -1) | ~np.isfinite(values)
    depth = np.where(nothing, 0, values)
    if 0 < depth.max(initial=0) < _NEAREST:
        raise UserError(
            f"{stored.name}: holds nothing farther than {depth.max():g} mm: set data.encodings to metres if these "
            "are, or save millimetres"
        )
    return _far_or_behind(depth.astype(np.float32) / np.float32(1000), stored.name)


ENCODINGS: dict[str, Callable[[Stored], np.ndarray]] = {
    "index": index,
    "index_from_1": index_from_1,
    "binary": binary,
    "fraction": fraction,
    "rgb_normals": rgb_normals,
    "metres": metres,
    "millimetres": millimetres,
}
"""What `data.encodings` may name, in the order of the table above."""

PUBLISHED: dict[str, Callable[[Stored], np.ndarray]] = {
    "levels": levels,
    "all_normals": all_normals,
    "measured_metres": measured_metres,
}
"""Encodings of published data sets, which say more surely what a file holds."""
