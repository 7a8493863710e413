"""Augmentation and preparation of samples, as pure functions of a sample and an explicit random generator.

A transform maps `(sample, rng)` to a new sample; it never changes the arrays it is given. Labels are scaled, cropped
and flipped by one gather; the steps after the image's last rounding (contrast, normalisation) are one table.
Method: SAK, appendix on data augmentation; resampling matches OpenCV (stage 2) and torchvision (stage 1).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image

from sak_jax.data.tasks import IGNORE, TASKS, Task
from sak_jax.errors import UserError

Sample = Mapping[str, object]
Transform = Callable[[Sample, np.random.Generator], dict]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

_LEVELS = np.arange(256, dtype=np.float32)
_NORMALISED = ((_LEVELS[:, None] / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD)[None]
_MAX_CROPS = 10
_DEPTH_LOSSES, _NORMALS_LOSSES = ("l1",), ("normals_l1",)


def multitask_transform(
    size: tuple[int, int],
    tasks: Iterable[str | Task],
    *,
    scale_range: tuple[float, float] = (0.5, 2.0),
    max_class_ratio: float = 0.75,
    flip: bool = True,
    photometric: bool = True,
) -> Transform:
    """Stage 2's training transform: scale, crop, flip, distort colours, normalise, pad, mark what is to be ignored.

    Args:
      size: height and width of what comes out.
      tasks: the labels to carry, by name or as `Task`s (a new task's loss says how its labels are treated: "l1" as
        depth, "normals_l1" as normals, any other as plain maps).
      scale_range: image and labels are scaled by U(scale_range); depth is divided by the scale. (1, 1) switches it off.
      max_class_ratio: a crop is drawn again, up to 10 times, while one class covers this share of the valid pixels of
        `semseg` or more. Not applied without `semseg`, nor when >= 1.
      flip: mirror with probability 1/2; the x component of normals changes sign.
      photometric: distort brightness, contrast, saturation and hue, see `photometric_distortion`.

    Returns:
      A picklable function of (sample, generator).
    """
    return _Multitask(tuple(size), _kinds(tasks), tuple(scale_range), float(max_class_ratio), flip, photometric)


def evaluation_transform(size: tuple[int, int], tasks: Iterable[str | Task]) -> Transform:
    """Normalise, pad to `size` (centred) and mark what is to be ignored.

    Adds `size`, int32 [2], the height and width before padding. What is returned raises UserError for an image that is
    larger than `size`.
    """
    return _Evaluation(tuple(size), _kinds(tasks))


def distill_transform(
    size: tuple[int, int],
    scale_range: tuple[float, float] = (0.08, 1.0),
    *,
    ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Transform:
    """Stage 1's training transform: random resized crop, flip, normalise; only the image is kept.

    Args:
      size: height and width of what comes out.
      scale_range: range of the crop's share of the image's area.
      ratio_range: range of the crop's width / height, drawn uniformly in its logarithm.
      flip: mirror with probability 1/2.
    """
    return _Distill(tuple(size), tuple(scale_range), tuple(ratio_range), flip)


def _kinds(tasks: Iterable[str | Task]) -> tuple[tuple[str, str], ...]:
    """How each task's labels are treated: ("depth" | "normals" | "human_parts" | "plain")."""
    kinds = []
    for task in tasks:
        name = task.name if isinstance(task, Task) else task
        task = TASKS.get(task) if isinstance(task, str) else task
        loss = task.loss if task else ""
        if loss in _NORMALS_LOSSES:
            kinds.append((name, "normals"))
        elif loss in _DEPTH_LOSSES:
            kinds.append((name, "depth"))
        else:
            kinds.append((name, "human_parts" if name == "human_parts" else "plain"))
    return tuple(kinds)


@dataclasses.dataclass(frozen=True)
class _Multitask:
    size: tuple[int, int]
    kinds: tuple[tuple[str, str], ...]
    scale_range: tuple[float, float]
    max_class_ratio: float
    flip: bool
    photometric: bool

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict:
        image = sample["image"]
        height, width = image.shape[:2]
        low, high = self.scale_range
        scale = low if low == high else rng.uniform(low, high)
        scaled = max(1, int(height * scale)), max(1, int(width * scale))
        rows, columns = nearest_indices(height, scaled[0]), nearest_indices(width, scaled[1])

        semseg = sample.get("semseg") if self.max_class_ratio < 1 and ("semseg", "plain") in self.kinds else None
        top, left = self._crop(semseg, rows, columns, rng)
        rows, columns = rows[top : top + self.size[0]], columns[left : left + self.size[1]]
        flipped = self.flip and rng.random() < 0.5

        # The scaled image is rounded towards zero, as the colour distortion of the method does to its float image.
        image = resize_bilinear(image, scaled)[top : top + self.size[0], left : left + self.size[1]].astype(np.uint8)
        image = cv2.flip(image, 1) if flipped else image
        table = None
        if self.photometric:
            image, table = _distort(image, rng)
        result = {"image": pad(normalise(image, table), self.size, 0)}

        columns = columns[::-1] if flipped else columns
        for name, kind in self.kinds:
            label = gather(_label(sample, name), rows, columns)
            if kind == "depth":
                label /= np.float32(scale)
            elif kind == "normals" and flipped:
                label[..., 0] *= -1
            result[name] = pad(ignore_regions(label, kind), self.size, IGNORE)
        return _carry(sample, result)

    def _crop(self, semseg, rows, columns, rng) -> tuple[int, int]:
        """Top and left of the crop; beyond the tenth failure the next draw is taken unseen, as the method has it."""
        free = max(len(rows) - self.size[0], 0), max(len(columns) - self.size[1], 0)
        if free == (0, 0):
            return 0, 0
        for _ in range(_MAX_CROPS if semseg is not None else 0):
            top, left = (int(rng.integers(0, extent + 1)) for extent in free)
            crop = gather(semseg, rows[top : top + self.size[0]], columns[left : left + self.size[1]])
            if largest_class_ratio(crop) < self.max_class_ratio:
                return top, left
        return tuple(int(rng.integers(0, extent + 1)) for extent in free)


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    size: tuple[int, int]
    kinds: tuple[tuple[str, str], ...]

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> dict:
        del rng
        height, width = sample["image"].shape[:2]
        if height > self.size[0] or width > self.size[1]:
            raise UserError(
                f"image {sample.get('id', '')!r} is {height} x {width}, larger than image_size {self.size}: evaluation "
                "pads and does not shrink; set image_size to the largest image, or data.resize=True"
            )
        result = {"image": pad(normalise(sample["image"]), self.size, 0)}
        for name, kind in self.kinds:
            result[name] = pad(ignore_regions(_label(sample, name).copy(), kind), self.size, IGNORE)
        result["size"] = np.array([height, width], np.int32)
        return _carry(sample, result)


@dataclasses.dataclass(frozen=True)
class _Distill:
    size: tuple[int, int]
    scale_range: tuple[float, float]
    ratio_range: tuple[float, float]
    flip: bool

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict:
        image = sample["image"]
        top, left, height, width = random_resized_crop(image.shape[:2], self.scale_range, self.ratio_range, rng)
        image = resize_antialiased(image[top : top + height, left : left + width], self.size)
        if self.flip and rng.random() < 0.5:
            image = cv2.flip(image, 1)
        return _carry(sample, {"image": normalise(image)})


def _label(sample: Sample, name: str) -> np.ndarray:
    if name not in sample:
        known = ", ".join(key for key in sample if key not in ("image", "id", "skipped")) or "none"
        raise UserError(
            f"sample {sample.get('id', '')!r} has no labels for task {name!r} (it has {known}): "
            "leave the task out of the config's tasks"
        )
    return sample[name]


def _carry(sample: Sample, result: dict) -> dict:
    """Takes what is neither image nor label over into the result."""
    return result | {key: sample[key] for key in ("id", "skipped") if key in sample}


def nearest_indices(length: int, scaled: int) -> Int[np.ndarray, " scaled"]:
    """The source index of each target pixel along one axis; matches `cv2.resize` with INTER_NEAREST."""
    step = 1 / (scaled / length)
    return np.minimum(np.floor(np.arange(scaled) * step).astype(np.intp), length - 1)


def gather(
    label: Shaped[np.ndarray, "h w *channels"], rows: Int[np.ndarray, " i"], columns: Int[np.ndarray, " j"]
) -> Shaped[np.ndarray, "i j *channels"]:
    """A new array of the given rows and columns: nearest scaling, cropping and flipping in one."""
    return label.take(rows, axis=0).take(columns, axis=1)


def resize_bilinear(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Float32[np.ndarray, "i j 3"]:
    """Bilinear without antialias and without rounding, levels 0..255; matches `cv2.resize` of a float32 image."""
    image = image.astype(np.float32)
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


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
    for _ in range(_MAX_CROPS):
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


def largest_class_ratio(semseg: UInt8[np.ndarray, "h w"]) -> float:
    """The share of the commonest class in the valid pixels; 1 if there is no valid pixel."""
    counts = cv2.calcHist([semseg], [0], None, [256], [0, 256]).ravel()[:IGNORE]
    total = counts.sum()
    return float(counts.max() / total) if total else 1.0


def photometric_distortion(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Distorts colours; every step has probability 1/2, is clipped to 0..255 and rounded towards zero.

    Brightness +-32; contrast x 0.5..1.5, before or after the following by a coin; saturation x 0.5..1.5; hue -18..17 on
    OpenCV's scale of 180.
    """
    image, table = _distort(image, rng)
    return image if table is None else cv2.LUT(image, table)


def _distort(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator):
    """The distorted image, and the table of the last contrast step, which is left to be merged with what follows."""
    contrast_first = rng.random() < 0.5
    table = _linear_table(1.0, rng.uniform(-32, 32)) if rng.random() < 0.5 else None
    if contrast_first and rng.random() < 0.5:
        contrast = _linear_table(rng.uniform(0.5, 1.5), 0.0)
        table = contrast if table is None else contrast[table]
    image = image if table is None else cv2.LUT(image, table)

    # The way to HSV and back loses a little even where nothing is changed in between, and is gone in any case.
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    identity = _LEVELS.astype(np.uint8)
    saturation = _linear_table(rng.uniform(0.5, 1.5), 0.0) if rng.random() < 0.5 else identity
    hue = ((np.arange(256) + rng.integers(-18, 18)) % 180).astype(np.uint8) if rng.random() < 0.5 else identity
    if saturation is not identity or hue is not identity:
        hsv = cv2.LUT(hsv, np.stack([hue, saturation, identity], axis=-1)[None])
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

    last = _linear_table(rng.uniform(0.5, 1.5), 0.0) if not contrast_first and rng.random() < 0.5 else None
    return image, last


def _linear_table(factor: float, offset: float) -> UInt8[np.ndarray, "256"]:
    return np.clip(_LEVELS * factor + offset, 0, 255).astype(np.uint8)


def normalise(
    image: UInt8[np.ndarray, "h w 3"], table: UInt8[np.ndarray, "256"] | None = None
) -> Float32[np.ndarray, "h w 3"]:
    """(level / 255 - mean) / std with ImageNet's statistics; `table` maps the levels before."""
    return cv2.LUT(image, _NORMALISED if table is None else np.ascontiguousarray(_NORMALISED[:, table]))


def ignore_regions(label: np.ndarray, kind: str) -> np.ndarray:
    """Sets to 255, in place, what is to be ignored: zero normals, zero depth, human parts that show no part at all."""
    if kind == "normals":
        # With no sum of squares in between this is three times as fast as comparing the norm.
        label[(label[..., 0] == 0) & (label[..., 1] == 0) & (label[..., 2] == 0)] = IGNORE
    elif kind == "depth":
        label[label == 0] = IGNORE
    elif kind == "human_parts" and not ((label != 0) & (label != IGNORE)).any():
        label[...] = IGNORE
    return label


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
