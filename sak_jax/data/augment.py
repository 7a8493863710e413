"""The steps that transforms are made of: resampling, cropping, colours, padding. Each takes and gives plain arrays."""

import math

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from sak_jax import normalisation
from sak_jax.normalisation import FACTOR, OFFSET
from sak_jax.tasks import IGNORE

IMAGENET_MEAN = np.array(normalisation.MEAN, np.float32)
IMAGENET_STD = np.array(normalisation.STD, np.float32)

_LEVELS = np.arange(256, dtype=np.float32)
MAX_CROPS = 10
"""Crops drawn before one is taken as it comes."""


def nearest_indices(length: int, scaled: int) -> Int[np.ndarray, " scaled"]:
    """The source index of each target pixel along one axis; matches `cv2.resize` with INTER_NEAREST."""
    step = 1 / (scaled / length)
    return np.minimum(np.floor(np.arange(scaled) * step).astype(np.intp), length - 1)


def resize_bilinear(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Float32[np.ndarray, "i j 3"]:
    """Bilinear without antialias and without rounding, levels 0..255; matches `cv2.resize` of a float32 image."""
    image = image.astype(np.float32)
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def resize_by_area(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "i j 3"]:
    """Averages of areas, for shrinking."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def fitting(shape: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """Height and width of what fits into `size`, proportions kept, and the factor to get there; small ones stay."""
    factor = min(size[0] / shape[0], size[1] / shape[1], 1.0)
    return (shape, 1.0) if factor == 1 else (tuple(max(1, round(extent * factor)) for extent in shape), factor)


def resize_antialiased(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "i j 3"]:
    """Bilinear, antialiased where it shrinks; matches torchvision's resizing of PIL images to within one grey level.

    Where both axes grow nothing is antialiased, and OpenCV does the same several times faster, rounding once instead of
    twice.
    """
    if image.shape[0] <= size[0] and image.shape[1] <= size[1]:
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def random_resized_crop(
    shape: tuple[int, int],
    scale_range: tuple[float, float],
    ratio_range: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop; the distribution matches torchvision's `RandomResizedCrop`."""
    height, width = shape
    for _ in range(MAX_CROPS):
        area = height * width * rng.uniform(*scale_range)
        ratio = math.exp(rng.uniform(math.log(ratio_range[0]), math.log(ratio_range[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio_range[0]:
        h = round(width / ratio_range[0])
    elif width / height > ratio_range[1]:
        w = round(height * ratio_range[1])
    return (height - h) // 2, (width - w) // 2, h, w


def commonest_class(semseg: UInt8[np.ndarray, "h w"]) -> tuple[int, float]:
    """The commonest class and its share in the valid pixels; the share is 1 if there is no valid pixel."""
    counts = cv2.calcHist([semseg], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    total = float(counts.sum())
    return int(counts.argmax()), float(counts.max()) / total if total else 1.0


def class_share(semseg: UInt8[np.ndarray, "h w"], label: int) -> float:
    """The share of a class in all pixels; five times as fast as `commonest_class`."""
    return cv2.countNonZero(cv2.compare(semseg, label, cv2.CMP_EQ)) / semseg.size


def distort(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Distorts colours; every step has probability 1/2, is clipped to 0..255 and rounded towards zero.

    Brightness +-32; contrast x 0.5..1.5, before or after the following by a coin; saturation x 0.5..1.5; hue -18..17 on
    OpenCV's scale of 180.
    """
    contrast_first = rng.random() < 0.5
    table = _linear_table(1.0, rng.uniform(-32, 32)) if rng.random() < 0.5 else None
    if contrast_first and rng.random() < 0.5:
        contrast = _linear_table(rng.uniform(0.5, 1.5), 0.0)
        table = contrast if table is None else contrast[table]
    image = image if table is None else cv2.LUT(image, table)

    # The way to HSV and back loses a little even where nothing is changed in between, and is gone in any case.
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if rng.random() < 0.5:
        _map_channel(hsv, 1, _linear_table(rng.uniform(0.5, 1.5), 0.0))
    if rng.random() < 0.5:
        _map_channel(hsv, 0, ((np.arange(256) + rng.integers(-18, 18)) % 180).astype(np.uint8))
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    if not contrast_first and rng.random() < 0.5:
        image = cv2.LUT(image, _linear_table(rng.uniform(0.5, 1.5), 0.0))
    return image


def _linear_table(factor: float, offset: float) -> UInt8[np.ndarray, "256"]:
    return np.clip(_LEVELS * factor + offset, 0, 255).astype(np.uint8)


def _map_channel(image: UInt8[np.ndarray, "h w 3"], channel: int, table: UInt8[np.ndarray, "256"]) -> None:
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(image, channel), table), image, channel)


def normalise(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """(level / 255 - mean) / std with ImageNet's statistics, up to rounding."""
    result = image.reshape(image.shape[0], -1).astype(np.float32)  # Whole rows, as three channels at a time are slow.
    result *= np.tile(FACTOR, image.shape[1])
    result += np.tile(OFFSET, image.shape[1])
    return result.reshape(image.shape)


def pad(array: np.ndarray, size: tuple[int, int], value: float) -> np.ndarray:
    """Pads height and width to `size`, centred, the odd row or column at the end; `unpad` is the inverse."""
    height, width = array.shape[:2]
    if (height, width) == size:
        return array
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    padded = np.full((*size, *array.shape[2:]), value, array.dtype)
    padded[top : top + height, left : left + width] = array
    return padded


def unpad(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts the centred region of height and width `size` out again: the inverse of `pad`."""
    top, left = (array.shape[0] - size[0]) // 2, (array.shape[1] - size[1]) // 2
    return array[top : top + size[0], left : left + size[1]]
