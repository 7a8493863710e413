"""DUNE's augmentation: one view of an image for the student and all teachers (its code, `data/transform.py`).

Steps on levels 0..255 are those of torchvision on uint8 tensors, which round towards zero.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from sak_jax.data.augment import normalise, random_resized_crop
from sak_jax.data.transforms import Sample, Transform
from sak_jax.normalisation import MEAN, STD

GREY = np.array([0.2989, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in torchvision's grey."""

Levels = UInt8[np.ndarray, "h w 3"]


def dune_transform(size: tuple[int, int]) -> Transform:
    """Random resized crop (0.4 to 1 of the area), flip, colours, grey, blur, solarize, normalise; the image alone.

    Args:
      size: height and width of what comes out.

    Returns:
      A picklable function of (sample, generator).
    """
    return _Dune(tuple(size))


@dataclasses.dataclass(frozen=True)
class _Dune:
    size: tuple[int, int]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict:
        image = sample["image"]
        top, left, height, width = random_resized_crop(image.shape[:2], (0.4, 1.0), (3 / 4, 4 / 3), rng)
        image = resize_bicubic(image[top : top + height, left : left + width], self.size)
        if rng.random() < 0.5:
            image = cv2.flip(image, 1)
        if rng.random() < 0.8:
            image = jitter(image, rng)
        if rng.random() < 0.2:
            image = np.repeat(grey(image)[..., None], 3, axis=2)
        sigma = rng.uniform(0.1, 5.0) if rng.random() < 0.2 else 0.0
        solarized = rng.random() < 0.2
        if not sigma and not solarized:
            image = normalise(image)
        else:
            image = image.astype(np.float32) / 255
            if sigma:
                image = cv2.GaussianBlur(image, (9, 9), sigma, borderType=cv2.BORDER_REFLECT_101)
            if solarized:
                image = np.where(image >= 0.5, 1 - image, image)
            image = ((image - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
        return {"image": image} | {key: sample[key] for key in ("id", "skipped", "group") if key in sample}


def resize_bicubic(image: Levels, size: tuple[int, int]) -> UInt8[np.ndarray, "i j 3"]:
    """Bicubic, antialiased where it shrinks: Pillow's."""
    return np.array(Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], Image.Resampling.BICUBIC))


def jitter(image: Levels, rng: np.random.Generator) -> Levels:
    """Brightness, contrast and saturation by factors of 0.6..1.4, 0.6..1.4 and 0.8..1.2, hue by -0.1..0.1 turns.

    In random order (torchvision's `ColorJitter(0.4, 0.4, 0.2, 0.1)`).
    """
    steps = [
        (brightness, rng.uniform(0.6, 1.4)),
        (contrast, rng.uniform(0.6, 1.4)),
        (saturation, rng.uniform(0.8, 1.2)),
        (hue, rng.uniform(-0.1, 0.1)),
    ]
    for step in rng.permutation(len(steps)):
        change, amount = steps[step]
        image = change(image, amount)
    return image


def brightness(image: Levels, factor: float) -> Levels:
    """Towards black, or away from it."""
    return _blend(image, np.float32(0), factor)


def contrast(image: Levels, factor: float) -> Levels:
    """Towards the mean grey, or away from it."""
    return _blend(image, np.float32(grey(image).mean()), factor)


def saturation(image: Levels, factor: float) -> Levels:
    """Towards each pixel's grey, or away from it."""
    return _blend(image, grey(image)[..., None].astype(np.float32), factor)


def hue(image: Levels, turns: float) -> Levels:
    """Every hue turned by a share of the circle."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # Hues in degrees.
    hsv[..., 0] = (hsv[..., 0] + 360 * turns) % 360
    turned = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.clip(turned * 255.999, 0, 255).astype(np.uint8)  # As torchvision goes from floats to levels.


def grey(image: Levels) -> UInt8[np.ndarray, "h w"]:
    """Each pixel's grey."""
    return (image.astype(np.float32) @ GREY).astype(np.uint8)


def _blend(image: Levels, other: Float32[np.ndarray, "..."] | np.float32, share: float) -> Levels:
    mixed = share * image.astype(np.float32) + (1 - share) * other
    return np.clip(mixed, 0, 255).astype(np.uint8)
