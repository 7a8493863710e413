"""Reading one photograph into an array; every failure is a UserError that names the file.

Paths may be local or `gs://` (etils.epath). Pixels are those that PIL gives; OpenCV decodes where it gives the same,
faster. Labels are read by `labels`.
"""

import functools
import io
import os

import cv2
import numpy as np
from etils import epath
from jaxtyping import Shaped, UInt8
from PIL import Image

from sak_jax.data import arrays
from sak_jax.data.headers import Header, header
from sak_jax.errors import UserError
from sak_jax.paths import is_remote

MAX_PIXELS = 178_956_970
"""Larger images are refused, as Pillow does by default: mostly a damaged header."""
_TOO_LARGE = f"its header is damaged, or scale it to {MAX_PIXELS} at most (data.on_error=skip leaves it out)"

_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND"
_HEAD = 1 << 18
"""Bytes at the start of a file that hold its size and orientation."""
_TO_8_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)
_12_BITS = 4095


def read_bytes(path: os.PathLike | str) -> bytes:
    """The content of a file. Raises UserError if it cannot be read."""
    try:
        # epath adds nothing for local files, and costs more than the reading of a small one.
        return epath.Path(path).read_bytes() if is_remote(path) else _local_bytes(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in a path
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _local_bytes(path: os.PathLike | str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@functools.cache
def endings() -> frozenset[str]:
    """Endings, in lower case, of the images that Pillow reads (without those that it only recognises)."""
    stubs = ("BUFR", "GRIB", "HDF5", "MPEG", "PDF", "EPS", "WMF")
    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in Image.OPEN and kind not in stubs)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name: of an ending that Pillow reads, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in endings()


def decode_image(content: bytes, name: str, upright: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an image file; 16-bit levels are scaled to 0..255.

    Args:
      content: of the file.
      name: for errors.
      upright: turn it by its EXIF orientation, as viewers do.
    """
    first = header(content)
    image = _decode(content, name, first)
    return turn(image, orientation(content, first)) if upright else image


def _decode(content: bytes, name: str, first: Header | None) -> UInt8[np.ndarray, "h w 3"]:
    if first is not None:
        check_pixels(first.height, first.width, name)
        # OpenCV fills what is missing of a truncated JPEG with grey: leave files without an end to PIL.
        cmyk = first.kind == "JPEG" and first.layout == 4  # PIL's colours of these differ from OpenCV's.
        if is_whole(content) and not cmyk and first.bits <= 8:
            image = decode_by_opencv(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is not None:
                return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    image = open_image(content, name)
    if first is not None and first.bits == 16 or image.mode.startswith("I") or _tiff_bits(image) == 16:
        return _from_16_bits(content, name)
    if image.mode == "F":
        raise UserError(f"{name}: is an image of floating point numbers: save it with 8 bits a channel")
    return np.array(image.convert("RGB"))


def _from_16_bits(content: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    levels = decode_by_opencv(content, cv2.IMREAD_UNCHANGED)
    if levels is None or levels.dtype != np.uint16:
        raise UserError(f"{name}: holds neither 8 nor 16 bits a channel: save it with 8")
    if 0 < levels.max() <= _12_BITS:
        raise UserError(
            f"{name}: has 16 bits a channel and no level above {levels.max()} of 65535, it would be black: "
            "save it with 8 bits, scaled to 0..255"
        )
    image = _TO_8_BITS[levels]
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(image[..., 2::-1])


def is_whole(content: bytes) -> bool:
    """Whether a PNG or JPEG file has an end."""
    return content[-1024:].rfind(_JPEG_END) >= 0 or _PNG_END in content[-64:]


def decode_by_opencv(content: bytes, flags: int) -> np.ndarray | None:
    """What OpenCV makes of a picture; None if it can't."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def _tiff_bits(image: Image.Image) -> int:
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    return max(bits) if isinstance(bits, tuple) else bits


def orientation(content: bytes, first: Header | None) -> int:
    """EXIF's number for how an image file of this header lies, 1..8; 1 is upright. (Pillow turns TIFF by itself.)"""
    if first is not None and not first.exif:
        return 1
    try:
        if first is None:
            with Image.open(io.BytesIO(content)) as image:
                return _known(1 if image.format == "TIFF" else image.getexif().get(0x0112))
        tags = Image.Exif()
        tags.load(first.exif)
        return _known(tags.get(0x0112))
    except Exception:  # Damaged EXIF says nothing, to viewers as to us; PIL raises whatever it stumbles over.
        return 1


def _known(number: object) -> int:
    return number if number in range(1, 9) else 1


def turn(image: Shaped[np.ndarray, "h w *channels"], number: int) -> Shaped[np.ndarray, "i j *channels"]:
    """An image of EXIF orientation `number`, upright."""
    if number == 1:
        return image
    image = image if number <= 4 else image.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[number]
    return np.ascontiguousarray(image[::rows, ::columns])


def open_image(content: bytes, name: str) -> Image.Image:
    """The loaded image of a file."""
    try:
        image = Image.open(io.BytesIO(content))
        if image.height * image.width > MAX_PIXELS:  # Pillow's own limit may be another.
            check_pixels(image.height, image.width, name)
        image.load()
        return image
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: claims more than {MAX_PIXELS} pixels; {_TOO_LARGE}") from error
    except Exception as error:  # PIL's plugins raise whatever the damage makes them stumble over.
        raise UserError(
            f"{name}: is not a whole PNG or JPEG file ({_reason(error, content)}): replace it, or data.on_error=skip"
        ) from error


def _reason(error: Exception, content: bytes) -> str:
    known = arrays.what_it_is(content)
    if known:
        return f"it is {known}"
    if isinstance(error, Image.UnidentifiedImageError):  # It names a buffer.
        return "it is none that Pillow knows"
    return " ".join(str(error).split()) or type(error).__name__


def check_pixels(height: int, width: int, name: str) -> None:
    """Raises UserError for an image of no pixels, or of more than `MAX_PIXELS`."""
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"{name}: claims {height} x {width} pixels; {_TOO_LARGE}")


def size_of(content: bytes, name: str) -> tuple[int, int]:
    """Height and width of an encoded image."""
    first = header(content)
    if first is None:
        image = open_image(content, name)
        return image.height, image.width
    check_pixels(first.height, first.width, name)
    return first.height, first.width


def image_size(path: os.PathLike | str, upright: bool = False) -> tuple[int, int]:
    """Height and width from the header of an image file; `upright` as in `decode_image`."""
    start = b""
    try:
        with epath.Path(path).open("rb") as file:
            start = file.read(_HEAD)
            first = header(start)
            if first is None:
                file.seek(0)
                with Image.open(file) as image:
                    number = image.getexif().get(0x0112) if upright and image.format != "TIFF" else 1
                    size = image.height, image.width
            else:
                number, size = orientation(start, first) if upright else 1, (first.height, first.width)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: claims more than {MAX_PIXELS} pixels; {_TOO_LARGE}") from error
    except Exception as error:  # PIL's plugins raise whatever the damage makes them stumble over.
        raise UserError(f"{path}: its header cannot be read ({_reason(error, start)})") from error
    check_pixels(*size, str(path))
    return size[::-1] if _known(number) >= 5 else size
