"""A label file as it is stored: pixels with their bit depth, palette, alpha channel and compression told apart."""

import dataclasses
import os
import re

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from sak_jax.data import arrays, files
from sak_jax.data.headers import Header, header
from sak_jax.errors import UserError

_PNG_GREY, _PNG_RGB = 0, 2
_ANIMATED = 1024
"""Bytes of a PNG file within which it says that it is an animation."""
_WITHOUT_LOSS = ("PNG", "TIFF", "BMP", "PPM", "WEBP")  # Not GIF: writers number its colours anew.
_PPM_IN_FULL = re.compile(rb"P[56]\s(?:#[^\n]*\n|\s)*\d+\s+\d+\s+(?:255|65535)\s|P[Ff]\s")


@dataclasses.dataclass(frozen=True)
class Stored:
    """The content of a label file.

    Attributes:
      values: [h, w], or colours [h, w, 3]. Bits below 8 are undone: 4-bit grey holds 0..15, 1-bit is bool.
      name: of the file, for errors.
      lossy: whether compression may have changed the values.
      palette: uint8 [n, 3], the colours that `values` are indices of, or None.
      alpha: [h, w], 0 is transparent, or None where every pixel is opaque.
    """

    values: Shaped[np.ndarray, "h w *channels"]
    name: str
    lossy: bool = False
    palette: UInt8[np.ndarray, "n 3"] | None = None
    alpha: Shaped[np.ndarray, "h w"] | None = None

    def refuse_lossy(self, what: str) -> None:
        """Raises UserError where compression may have changed the values; `what` are they?"""
        if self.lossy:
            raise UserError(f"{self.name}: is compressed with loss (JPEG or the like), which changes {what}: save PNG")

    def one_channel(self, use_palette: bool = True) -> Shaped[np.ndarray, "h w"]:
        """The values, where they are one map: equal channels count as one.

        Args:
          use_palette: take the greys that a palette stands for (or its indices 0 and 1, where it is coloured).

        Raises:
          UserError: colours, transparent pixels, or an array of another shape.
        """
        if self.alpha is not None:
            raise UserError(f"{self.name}: has transparent pixels, which say nothing: save it without an alpha channel")
        values = self.values
        if self.palette is not None and use_palette:
            if (self.palette == self.palette[:, :1]).all():
                values = self._painted()[..., 0]
            elif values.max(initial=0) > 1:
                raise UserError(f"{self.name}: has a palette of colours: save it as an 8-bit grey PNG")
        if values.ndim == 3:
            if values.shape[2] != 3 or (values != values[..., :1]).any():
                raise UserError(f"{self.name}: has {values.shape[2]} channels that differ, and one is wanted")
            values = np.ascontiguousarray(values[..., 0])
        return values

    def colours(self) -> Shaped[np.ndarray, "h w 3"]:
        """Three channels of 8 or 16 bits, or of floats.

        Raises:
          UserError: one channel, other types, half transparent pixels, compression with loss.
        """
        self.refuse_lossy("normals")
        values = self.values if self.palette is None else self._painted()
        if values.ndim != 3:
            raise UserError(f"{self.name}: has one channel, and normals have three: save an RGB PNG")
        if values.dtype not in (np.uint8, np.uint16) and values.dtype.kind != "f":
            raise UserError(f"{self.name}: holds {values.dtype}; save normals as an RGB PNG of 8 or 16 bits")
        if self.alpha is not None and ((self.alpha != 0) & (self.alpha != np.iinfo(self.alpha.dtype).max)).any():
            raise UserError(f"{self.name}: has half transparent pixels: save it without, alpha 0 where nothing is")
        return values

    def _painted(self) -> UInt8[np.ndarray, "h w 3"]:
        if self.values.max(initial=0) >= len(self.palette):
            raise UserError(f"{self.name}: holds indices beyond its palette")
        return self.palette[self.values]


def read(content: bytes, name: str) -> Stored:
    """What a label file holds.

    Args:
      content: of a picture, `.npy` or `.npz` file.
      name: for errors.

    Raises:
      UserError: the file is damaged, or of a kind that cannot hold labels.
    """
    try:
        return _read(content, name)
    except UserError:
        raise
    except Exception as error:  # PIL's tags and palettes raise whatever the damage makes them stumble over.
        raise UserError(f"{name}: is not a whole label file ({error}): replace it, or data.on_error=skip") from error


def _read(content: bytes, name: str) -> Stored:
    if content[:6] == arrays.MAGIC or content[:4] == arrays.ZIP_MAGIC:
        return Stored(_map(arrays.decode(content, name), name), name)
    first = header(content)
    if first is not None:
        files.check_pixels(first.height, first.width, name)
        if first.kind == "PNG" and first.bits == 8 and first.layout == _PNG_RGB and files.is_whole(content):
            pixels = files.decode_by_opencv(content, cv2.IMREAD_UNCHANGED)  # The same as PIL's, faster.
            if pixels is not None and pixels.shape[2:] == (3,) and b"acTL" not in content[:_ANIMATED]:
                return Stored(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels), name)
    try:
        image = files.open_image(content, name)
    except UserError:
        if content[:4] in (b"II*\0", b"MM\0*"):  # OpenCV reads more kinds of numbers in TIFF.
            return _by_opencv(content, name, lossy=False)
        raise
    if image.format not in _WITHOUT_LOSS and image.format not in ("JPEG", "MPO"):
        raise UserError(f"{name}: is a {image.format} file, which labels are not read from: save PNG or .npy")
    if image.format == "PPM" and not _PPM_IN_FULL.match(content[:512]):
        raise UserError(f"{name}: is a PNM file whose levels are not 0..255 or 0..65535: save PNG")
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{name}: holds {image.n_frames} pictures, and one is wanted")
    lossy = image.format not in _WITHOUT_LOSS or image.format == "WEBP" and content[12:16] != b"VP8L"
    if image.format == "TIFF":
        lossy = "jpeg" in str(image.info.get("compression", ""))
        if image.tag_v2.get(262) == 0:
            raise UserError(f"{name}: counts its levels from white: save PNG")
    if _needs_opencv(image, first):
        return _by_opencv(content, name, lossy)
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return Stored(np.array(image), name, lossy, palette)
    if image.mode in ("LA", "RGBA", "PA"):
        pixels = np.array(image.convert("LA" if image.mode == "LA" else "RGBA"))
        colours = pixels[..., 0] if image.mode == "LA" else np.ascontiguousarray(pixels[..., :3])
        return Stored(colours, name, lossy, alpha=_unless_opaque(pixels[..., -1]))
    if image.mode not in ("1", "L", "RGB", "F") and not image.mode.startswith("I"):
        raise UserError(f"{name}: has the colours {image.mode}: save a grey or RGB PNG")
    values = np.array(image)
    if first is not None and first.kind == "PNG" and first.layout == _PNG_GREY and first.bits in (2, 4):
        values //= 255 // (2**first.bits - 1)  # Pillow spreads few levels over 0..255.
    return Stored(values, name, lossy)


def _map(array: np.ndarray, name: str) -> np.ndarray:
    """An array as [h, w] or [h, w, 3]; axes of length 1 before or after the two are dropped."""
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3:
        return array.astype(np.float32) if array.dtype == np.float16 else array
    raise UserError(f"{name}: labels must be one map, this has the shape {array.shape}")


def _needs_opencv(image: Image.Image, first: Header | None) -> bool:
    """Whether Pillow would cut the values: to the high byte of 16 bits in colours, to other types in TIFF."""
    if first is not None and first.kind == "PNG":
        return first.bits == 16 and first.layout != _PNG_GREY
    if image.format != "TIFF":
        return False
    tags = image.tag_v2
    return image.mode != "P" and (max(tags.get(258, (1,))) > 8 or max(tags.get(339, (1,))) > 1)


def _by_opencv(content: bytes, name: str, lossy: bool) -> Stored:
    pixels = files.decode_by_opencv(content, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        raise UserError(f"{name}: holds pixels of a type that is not read: save PNG or .npy")
    if pixels.ndim == 2:
        return Stored(pixels, name, lossy)
    alpha = _unless_opaque(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return Stored(np.ascontiguousarray(pixels[..., 2::-1]), name, lossy, alpha=alpha)


def _unless_opaque(alpha: np.ndarray) -> np.ndarray | None:
    return None if alpha.dtype.kind == "f" or (alpha == np.iinfo(alpha.dtype).max).all() else alpha


def size(path: os.PathLike | str, upright: bool = False) -> tuple[int, int]:
    """Height and width from the header of an image or label file; `upright` as in `files.decode_image`."""
    if str(path).lower().endswith((".npy", ".npz")):
        return _map(np.broadcast_to(np.uint8(0), arrays.shape(path)), str(path)).shape[:2]
    return files.image_size(path, upright)
