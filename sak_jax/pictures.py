"""Raw pictures of any size, and what a student is shown of them.

The rules, which `docs/predict.md` states for users:

  reading   files are turned by their EXIF orientation; grey becomes three equal channels, alpha is dropped, CMYK and
            16 bits become RGB of 8 bits (`data.files`)
  resize    on request the picture is scaled to fit into (height, width), proportions kept
  padding   the normalised picture lies in the centre of zeros, as in evaluation; each side becomes a multiple of
            `STEP` patches, or the side that the student was trained with where that is smaller
  tiles     a picture that would be more than `MOST_PATCHES` patches is cut into tiles of the trained size, any larger
            than `tile` into tiles of that size; they overlap by a quarter or more and are blended with linear ramps

Results always have the picture's own size.
"""

import dataclasses
import functools
import os

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float, Float32, Shaped, UInt8

from sak_jax.data import augment, files
from sak_jax.errors import UserError

STEP = 4
"""Sides are padded to multiples of this many patches, so that pictures of many sizes share few compiled programs."""
LEAST_STEP = 32
"""The least such multiple, in pixels: so many patches more where patches are small."""
MOST_PATCHES = 4096
"""A picture of more patches is cut into tiles: the cost of attention grows with their square."""
OVERLAP = 4
"""Neighbouring tiles share at least 1 / OVERLAP of their side."""
MOST_RESIZED = 8192 * 8192
"""Pixels of the largest size that pictures can be scaled to."""

Picture = UInt8[np.ndarray, "h w 3"]
Given = np.ndarray | epath.PathLike


def read(picture: Given) -> Picture:
    """A picture in RGB, upright.

    Args:
      picture: a path, local or `gs://`, or an array: uint8 or uint16 of the shape [h, w, 3], [h, w, 4] (with alpha,
        which is dropped), [h, w] or [h, w, 1] (grey).

    Raises:
      UserError: a file that can't be read, names it; an array of another type or shape.
    """
    if isinstance(picture, str | os.PathLike):
        try:
            return files.decode_image(files.read_bytes(picture), os.fspath(picture), upright=True)
        except UserError as error:  # There is no data set here, whose key would be a remedy.
            raise UserError(str(error).removesuffix(", or data.on_error=skip")) from error
    shape, dtype = getattr(picture, "shape", None), getattr(picture, "dtype", None)
    if shape is None:
        raise UserError(f"a picture is a uint8 array [h, w, 3] or a path, not {type(picture).__name__}")
    grey = len(shape) == 2 or len(shape) == 3 and shape[2] == 1
    if not (grey or len(shape) == 3 and shape[2] in (3, 4)) or 0 in shape:
        raise UserError(f"a picture has the shape [h, w, 3], not {tuple(shape)}; give several as a list")
    if dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"a picture is uint8, levels 0..255, not {dtype}: convert it, or give normalised images to student(images)"
        )
    array = np.asarray(picture)
    if dtype == np.uint16:
        array = np.rint(array / np.float32(257)).astype(np.uint8)
    array = np.repeat(array.reshape(*shape[:2], 1), 3, axis=2) if grey else array[..., :3]
    return np.ascontiguousarray(array)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a picture is shown to a student: as windows of one size, a single one unless it is cut into tiles.

    Attributes:
      size: height and width of the picture after any resizing.
      window: height and width of each window; what the picture does not fill is zero.
      tops, lefts: where windows begin in the picture; every pair is one, row by row.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    tops: tuple[int, ...] = (0,)
    lefts: tuple[int, ...] = (0,)

    @functools.cached_property
    def places(self) -> list[tuple[slice, slice]]:
        """The part of the picture that each window shows."""
        (height, width), (rows, columns) = self.size, self.window
        return [
            (slice(top, min(top + rows, height)), slice(left, min(left + columns, width)))
            for top in self.tops
            for left in self.lefts
        ]

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of each window that shows the picture."""
        seen = [min(pair) for pair in zip(self.size, self.window, strict=True)]
        starts = [(outer - inner) // 2 for outer, inner in zip(self.window, seen, strict=True)]
        return slice(starts[0], starts[0] + seen[0]), slice(starts[1], starts[1] + seen[1])


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of images that a student takes.

    Attributes:
      patch: what sides are multiples of.
      trained: height and width it was trained with.
      fixed: it takes no other size: smaller pictures are padded to it, larger ones cut into tiles.
    """

    patch: int
    trained: tuple[int, int]
    fixed: bool = False

    def layout(self, size: tuple[int, int], tile: tuple[int, int] | None = None) -> Layout:
        """How a picture of this height and width is shown, see the module's rules.

        Args:
          size: of the picture, after any resizing.
          tile: height and width of tiles, rounded up to whole patches; None: tiles only where they are needed.
        """
        if self.fixed:
            window, tile = self.trained, self.trained
        else:
            tile = None if tile is None else tuple(-(-side // self.patch) * self.patch for side in tile)
            if tile is None and self._patches(size) > MOST_PATCHES:
                tile = self.trained
            window = tuple(
                cut if tile is not None and (cut := tile[axis]) < size[axis] else self._padded(size[axis], axis)
                for axis in (0, 1)
            )
        tops, lefts = (_starts(side, length) for side, length in zip(size, window, strict=True))
        return Layout(tuple(size), window, tops, lefts)

    def _padded(self, side: int, axis: int) -> int:
        step = self.patch * max(STEP, -(-LEAST_STEP // self.patch))
        rounded = -(-side // step) * step
        return min(rounded, self.trained[axis]) if self.trained[axis] >= side else rounded

    def _patches(self, size: tuple[int, int]) -> int:
        height, width = (self._padded(side, axis) // self.patch for axis, side in enumerate(size))
        return height * width


def _starts(side: int, length: int) -> tuple[int, ...]:
    """Evenly spaced windows that cover a side and overlap by `1 / OVERLAP` of their length at least."""
    if side <= length:
        return (0,)
    stride = max(1, length - length // OVERLAP)
    count = 1 + -(-(side - length) // stride)
    return tuple(round(index * (side - length) / (count - 1)) for index in range(count))


def scaled(picture: Picture, fit: tuple[int, int] | None) -> Picture:
    """The picture scaled to fit into (height, width), proportions kept; area averages where it gets smaller.

    Raises:
      UserError: the size is larger than `MOST_RESIZED`.
    """
    if fit is None:
        return picture
    if fit[0] * fit[1] > MOST_RESIZED:
        raise UserError(f"resize is {fit[0]},{fit[1]}: give a size of no more than 8192 x 8192 pixels in all")
    height, width = picture.shape[:2]
    scale = min(fit[0] / height, fit[1] / width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size == (height, width):
        return picture
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def window(picture: Picture, layout: Layout, index: int) -> Float32[np.ndarray, "H W 3"]:
    """One of a layout's windows, ImageNet-normalised and padded with zeros as evaluation pads."""
    return augment.pad(augment.normalise(picture[layout.places[index]]), layout.window, 0)


class Blend:
    """A picture's output, put together from those of its windows: padding cut off, overlapping tiles averaged.

    A tile's weight falls linearly from one at the overlap's inner end to zero at the tile's border. Tiles are added one
    by one, so that no more than one need be kept beside the whole.

    Args:
      layout: how the picture is shown.
    """

    def __init__(self, layout: Layout):
        self._layout = layout
        self._total = self._weights = None

    def add(self, index: int, output: Float[np.ndarray, "H W c"]) -> None:
        """Adds the output of a window."""
        output, layout = np.asarray(output[self._layout.inside], np.float32), self._layout
        if len(layout.places) == 1:
            self._total = output
            return
        if self._total is None:
            self._total = np.zeros((*layout.size, output.shape[-1]), np.float32)
            self._weights = np.zeros((*layout.size, 1), np.float32)
        rows, columns = (_ramp(length) for length in output.shape[:2])
        weight = (rows[:, None] * columns)[..., None]
        self._total[layout.places[index]] += weight * output
        self._weights[layout.places[index]] += weight

    def result(self) -> Float32[np.ndarray, "h w c"]:
        """The whole, once all windows were added."""
        return self._total if self._weights is None else np.divide(self._total, self._weights, out=self._total)


def _ramp(length: int) -> Float32[np.ndarray, " length"]:
    overlap = max(1, length // OVERLAP)
    distance = np.arange(length, dtype=np.float32) + 0.5
    return np.minimum(1, np.minimum(distance, length - distance) / overlap)


def at_size(output: Shaped[np.ndarray, "i j c"], size: tuple[int, int]) -> Shaped[np.ndarray, "h w c"]:
    """Raw output scaled (bilinear) to a picture's own size."""
    if output.shape[:2] == size:
        return output
    result = np.empty((*size, output.shape[-1]), output.dtype)
    for start in range(0, output.shape[-1], 64):  # OpenCV takes no more than 128 channels at once.
        part = np.ascontiguousarray(output[..., start : start + 64])
        result[..., start : start + 64] = cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(
            *size, part.shape[-1]
        )
    return result
