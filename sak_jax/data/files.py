"""Reading one file into an array; every failure is a UserError that names the file.

Paths may be local or `gs://` (etils.epath). Pixels are those that PIL gives; OpenCV decodes where it gives the same,
faster.
"""

import io
import os

import cv2
import numpy as np
import scipy.io
from etils import epath
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from sak_jax.errors import UserError

_NORMALS = (2 * np.arange(256, dtype=np.float32) / np.float32(255) - 1)[None]
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND"


def read_bytes(path: os.PathLike | str) -> bytes:
    """The content of a file. Raises UserError if it cannot be read."""
    try:
        # epath adds nothing for local files, and costs more than the reading of a small one.
        return epath.Path(path).read_bytes() if "://" in str(path) else _local_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _local_bytes(path: os.PathLike | str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def decode_image(content: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a PNG or JPEG file, without turning it by its EXIF orientation. `name` is for the error."""
    image = None
    # OpenCV fills what is missing of a truncated JPEG with grey: leave files without an end to PIL, which complains.
    if content[-1024:].rfind(_JPEG_END) >= 0 or _PNG_END in content[-64:]:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is not None:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return np.array(_open(content, name, "RGB"))


def decode_label(content: bytes, name: str) -> UInt8[np.ndarray, "h w"]:
    """The values of a one-channel PNG; of a palette PNG the indices. `name` is for the error."""
    label = decode_integers(content, name)
    if label.dtype != np.uint8:
        if label.max() > 255 or label.min() < 0:
            raise UserError(f"{name}: label {label.max()} does not fit 0..255")
        label = label.astype(np.uint8)
    return label


def decode_integers(content: bytes, name: str) -> Shaped[np.ndarray, "h w"]:
    """The values of a one-channel PNG of any depth. `name` is for the error."""
    label = np.array(_open(content, name, None))
    if label.ndim != 2:
        raise UserError(f"{name}: a label map must have one channel, this has the shape {label.shape}")
    return label.astype(np.uint8) if label.dtype == bool else label


def decode_normals(colours: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Colour / 255 * 2 - 1, in float32."""
    return cv2.LUT(colours, _NORMALS)


def check_range(label: UInt8[np.ndarray, "h w"], classes: int, name: str) -> UInt8[np.ndarray, "h w"]:
    """`label` itself. Raises UserError if it holds anything but 0 .. classes - 1 and 255."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
    unknown = np.flatnonzero(counts[classes:255]) + classes
    if unknown.size:
        raise UserError(
            f"{name}: label {unknown[0]} is unknown, there are the classes 0..{classes - 1} and 255 for void"
        )
    return label


def _open(content: bytes, name: str, mode: str | None) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
        return image.convert(mode) if mode else image
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{name}: is not a whole PNG or JPEG file ({error}): replace it, or data.on_error=skip"
        ) from error


def decode_array(content: bytes, name: str) -> Shaped[np.ndarray, "..."]:
    """The array of a `.npy` file. `name` is for the error."""
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{name}: is not a whole .npy file ({error}): replace it, or data.on_error=skip") from error


def decode_depth(content: bytes, name: str) -> Float32[np.ndarray, "h w"]:
    """Metres from a `.npy` file; 0 where there is no measurement. `name` is for the error."""
    depth = np.squeeze(decode_array(content, name)).astype(np.float32)
    if depth.ndim != 2:
        raise UserError(f"{name}: depth must be one map, this has the shape {depth.shape}")
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise UserError(f"{name}: holds depths that are negative or not finite; 0 marks a missing one")
    return depth


def decode_mat(content: bytes, name: str, variable: str) -> np.ndarray:
    """One variable of a MATLAB file (version 5). `name` is for the error."""
    try:
        return scipy.io.loadmat(io.BytesIO(content), variable_names=[variable])[variable]
    except KeyError as error:
        raise UserError(f"{name}: has no variable {variable!r}") from error
    except Exception as error:  # scipy's reader raises whatever the damage makes it stumble over
        raise UserError(f"{name}: is not a whole .mat file ({error}): replace it, or data.on_error=skip") from error


def image_size(path: os.PathLike | str) -> tuple[int, int]:
    """Height and width from the header of an image file; `.npy` too."""
    try:
        if str(path).endswith(".npy"):
            with epath.Path(path).open("rb") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                return tuple(size for size in read(file)[0] if size != 1)[:2]
        with epath.Path(path).open("rb") as file, Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: its header cannot be read ({error})") from error
