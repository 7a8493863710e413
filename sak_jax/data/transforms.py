"""Augmentation and preparation of samples, as pure functions of a sample and an explicit random generator.

A transform maps `(sample, rng)` to a new sample; it never changes the arrays it is given. Labels are scaled, cropped
and flipped by one gather. Images stay uint8, to be normalised where they are used (`sak_jax.nn.levels`), and where they
are padded `size` tells what of them is image.
Method: SAK, appendix on data augmentation; resampling matches OpenCV (stage 2) and torchvision (stage 1).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np

from sak_jax.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_CROPS,
    class_share,
    commonest_class,
    distort,
    fitting,
    nearest_indices,
    pad,
    random_resized_crop,
    resize_antialiased,
    resize_bilinear,
    resize_by_area,
    unpad,
)
from sak_jax.errors import UserError
from sak_jax.tasks import IGNORE, Kind, Task, kind_of, named

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "distill_transform", "evaluation_transform", "multitask_transform", "unpad"
]  # fmt: skip

Sample = Mapping[str, object]
Transform = Callable[[Sample, np.random.Generator], dict]

Labels = tuple[tuple[Task, Kind], ...]
"""The labels to carry: each task with its kind, an object that worker processes need not know by name."""


def multitask_transform(
    size: tuple[int, int],
    tasks: Iterable[str | Task],
    *,
    scale_range: tuple[float, float] = (0.5, 2.0),
    max_class_ratio: float = 0.75,
    flip: bool = True,
    photometric: bool = True,
    shrink: bool = False,
) -> Transform:
    """Stage 2's training transform: scale, crop, flip, distort colours, pad, mark what is to be ignored.

    Adds `size`, int32 [2], the height and width before padding.

    Args:
      size: height and width of what comes out.
      tasks: the labels to carry, as `Task`s or by their names in `sak_jax.tasks.TASKS`; their kinds say what becomes
        of the values.
      scale_range: image and labels are scaled by U(scale_range); depth is divided by the scale. (1, 1) switches it off.
      max_class_ratio: a crop is drawn again, up to 10 times, while one class covers this share of the valid pixels of
        `semseg` or more. Not applied without `semseg`, nor when >= 1.
      flip: mirror with probability 1/2; the x component of normals changes sign.
      photometric: distort brightness, contrast, saturation and hue, see `augment.distort`.
      shrink: images that do not fit into `size` are first shrunk until they do, which is one with the random scale:
        there is one resampling. The depth is divided by the random scale alone.

    Returns:
      A picklable function of (sample, generator).
    """
    return _Multitask(
        tuple(size), _labels(tasks), tuple(scale_range), float(max_class_ratio), flip, photometric, shrink
    )


def evaluation_transform(size: tuple[int, int], tasks: Iterable[str | Task], *, shrink: bool = False) -> Transform:
    """Pad to `size` (centred) and mark what is to be ignored.

    Adds `size`, int32 [2], the height and width before padding. What is returned raises UserError for an image that is
    larger than `size`, or with `shrink` brings image (area averages) and labels (nearest) to fit.
    """
    return _Evaluation(tuple(size), _labels(tasks), shrink)


def distill_transform(
    size: tuple[int, int],
    scale_range: tuple[float, float] = (0.08, 1.0),
    *,
    ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Transform:
    """Stage 1's training transform: random resized crop, flip; only the image is kept.

    Args:
      size: height and width of what comes out.
      scale_range: range of the crop's share of the image's area.
      ratio_range: range of the crop's width / height, drawn uniformly in its logarithm.
      flip: mirror with probability 1/2.
    """
    return _Distill(tuple(size), tuple(scale_range), tuple(ratio_range), flip)


def _labels(tasks: Iterable[str | Task]) -> Labels:
    return tuple((task, kind_of(task)) for task in map(named, tasks))


def _label(sample: Sample, task: Task, kind: Kind) -> np.ndarray:
    """The task's labels in a sample; raises UserError where there are none, or of another kind."""
    where = f"sample {sample.get('id', '')!r}"
    if task.name not in sample:
        known = ", ".join(key for key in sample if key not in ("image", "id", "skipped")) or "none"
        raise UserError(
            f"{where} has no labels for task {task.name!r} (it has {known}): leave the task out of the config's tasks"
        )
    label = sample[task.name]
    kind.check(task, label, where)
    return label


@dataclasses.dataclass(frozen=True)
class _Multitask:
    size: tuple[int, int]
    labels: Labels
    scale_range: tuple[float, float]
    max_class_ratio: float
    flip: bool
    photometric: bool
    shrink: bool

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict:
        image = sample["image"]
        height, width = image.shape[:2]
        low, high = self.scale_range
        scale = float(low if low == high else rng.uniform(low, high))
        fitted, fit = fitting((height, width), self.size) if self.shrink else ((height, width), 1.0)
        scaled = max(1, int(fitted[0] * scale)), max(1, int(fitted[1] * scale))
        rows, columns = nearest_indices(height, scaled[0]), nearest_indices(width, scaled[1])

        ruled = self.max_class_ratio < 1 and any(
            task.name == "semseg" and kind.dtypes == (np.uint8,) for task, kind in self.labels
        )
        semseg = sample.get("semseg") if ruled else None
        top, left = self._crop(semseg, rows, columns, rng)
        rows, columns = rows[top : top + self.size[0]], columns[left : left + self.size[1]]
        flipped = self.flip and rng.random() < 0.5

        # The scaled image is rounded towards zero, as the colour distortion of the method does to its float image.
        resize = resize_bilinear if fit == 1 or scaled[0] >= height else resize_by_area
        image = resize(image, scaled)[top : top + self.size[0], left : left + self.size[1]].astype(np.uint8)
        image = cv2.flip(image, 1) if flipped else image
        image = distort(image, rng) if self.photometric else image
        result = {"image": pad(image, self.size, 0), "size": np.array(image.shape[:2], np.int32)}

        columns = columns[::-1] if flipped else columns
        for task, kind in self.labels:
            label = _label(sample, task, kind)
            label = kind.resample(task, kind.shrink(task, label, fit) if fit < 1 else label, rows, columns)
            label = kind.scale(task, label, scale)
            label = kind.flip(task, label) if flipped else label
            result[task.name] = pad(kind.ignore(task, label), self.size, IGNORE)
        return _carry(sample, result)

    def _crop(self, semseg, rows, columns, rng) -> tuple[int, int]:
        """Top and left of the crop; beyond the tenth failure the next draw is taken unseen, as the method has it."""
        free = max(len(rows) - self.size[0], 0), max(len(columns) - self.size[1], 0)
        if free == (0, 0):
            return 0, 0
        if semseg is not None:
            semseg = cv2.resize(semseg, (len(columns), len(rows)), interpolation=cv2.INTER_NEAREST)
        ruling, share = None, 1.0
        for _ in range(MAX_CROPS if semseg is not None else 0):
            top, left = (int(rng.integers(0, extent + 1)) for extent in free)
            crop = semseg[top : top + self.size[0], left : left + self.size[1]]
            # What ruled the crop before mostly rules this one too; of the valid pixels it has no less than of all.
            if ruling is None or class_share(crop, ruling) < self.max_class_ratio:
                ruling, share = commonest_class(crop)
            if share < self.max_class_ratio:
                return top, left
        return tuple(int(rng.integers(0, extent + 1)) for extent in free)


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    size: tuple[int, int]
    labels: Labels
    shrink: bool

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> dict:
        del rng
        image = sample["image"]
        height, width = image.shape[:2]
        (fitted, fit), rows, columns = fitting((height, width), self.size), None, None
        if self.shrink and fit < 1:
            rows, columns = nearest_indices(height, fitted[0]), nearest_indices(width, fitted[1])
            image, (height, width) = resize_by_area(image, fitted), fitted
        elif height > self.size[0] or width > self.size[1]:
            raise UserError(
                f"image {sample.get('id', '')!r} is {height} x {width}, larger than image_size {self.size}: evaluation "
                "pads and does not shrink; set image_size to the largest image, or data.resize=True"
            )
        result = {"image": pad(image, self.size, 0), "size": np.array([height, width], np.int32)}
        for task, kind in self.labels:
            label = _label(sample, task, kind)
            shrunk = rows is not None
            label = kind.resample(task, kind.shrink(task, label, fit), rows, columns) if shrunk else label.copy()
            result[task.name] = pad(kind.ignore(task, label), self.size, IGNORE)
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
        return _carry(sample, {"image": image})


def _carry(sample: Sample, result: dict) -> dict:
    """Takes what is neither image nor label over into the result."""
    return result | {key: sample[key] for key in ("id", "skipped", "group") if key in sample}
