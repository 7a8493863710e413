"""Augmentation and preparation of samples, as pure functions of a sample and an explicit random generator.

A transform maps `(sample, rng)` to a new sample; it never changes the arrays it is given. Labels are scaled, cropped
and flipped by one gather; the steps after the image's last rounding (contrast, normalisation) are one table.
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
    gather,
    ignore_regions,
    nearest_indices,
    normalise,
    pad,
    random_resized_crop,
    resize_antialiased,
    resize_bilinear,
    unpad,
)
from sak_jax.errors import UserError
from sak_jax.tasks import IGNORE, TASKS, Task

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "distill_transform", "evaluation_transform", "multitask_transform", "unpad"
]  # fmt: skip

Sample = Mapping[str, object]
Transform = Callable[[Sample, np.random.Generator], dict]

_ENCODINGS = {"depth": "metres, millimetres or fraction", "normals": "rgb_normals"}
"""What `data.encodings` may say of labels that are no classes, by kind."""


@dataclasses.dataclass(frozen=True)
class _Label:
    """How a task's labels are treated.

    Attributes:
      name: of the task.
      kind: `depth`, `normals`, `human_parts` or `plain`.
      classes: labels from this to 254 are a mistake; 0: they are no classes.
    """

    name: str
    kind: str
    classes: int

    def of(self, sample: Sample) -> np.ndarray:
        """The task's labels in a sample; raises UserError where there are none, or of another kind."""
        if self.name not in sample:
            known = ", ".join(key for key in sample if key not in ("image", "id", "skipped")) or "none"
            raise UserError(
                f"sample {sample.get('id', '')!r} has no labels for task {self.name!r} (it has {known}): "
                "leave the task out of the config's tasks"
            )
        label = sample[self.name]
        if self.kind in _ENCODINGS and label.dtype != np.float32:
            raise UserError(
                f"the labels of task {self.name!r} are {label.dtype}, and its loss measures {self.kind}: "
                f"set data.encodings.{self.name} to {_ENCODINGS[self.kind]}"
            )
        if self.classes and label.dtype == np.uint8 and cv2.countNonZero(cv2.inRange(label, self.classes, IGNORE - 1)):
            unknown = label[(label >= self.classes) & (label != IGNORE)].max()
            raise UserError(
                f"sample {sample.get('id', '')!r} has the label {unknown} of task {self.name!r}, whose channels are "
                f"for 0..{self.classes - 1}; 255 is void: set config.tasks.{self.name}.channels, or mend the labels"
            )
        return label


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
      photometric: distort brightness, contrast, saturation and hue, see `augment.distort`.

    Returns:
      A picklable function of (sample, generator).
    """
    return _Multitask(tuple(size), _labels(tasks), tuple(scale_range), float(max_class_ratio), flip, photometric)


def evaluation_transform(size: tuple[int, int], tasks: Iterable[str | Task]) -> Transform:
    """Normalise, pad to `size` (centred) and mark what is to be ignored.

    Adds `size`, int32 [2], the height and width before padding. What is returned raises UserError for an image that is
    larger than `size`.
    """
    return _Evaluation(tuple(size), _labels(tasks))


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


def _labels(tasks: Iterable[str | Task]) -> tuple[_Label, ...]:
    labels = []
    for name, task in ((task.name, task) if isinstance(task, Task) else (task, TASKS.get(task)) for task in tasks):
        loss = task.loss if task else ""
        kind = {"l1": "depth", "normals_l1": "normals"}.get(loss, "human_parts" if name == "human_parts" else "plain")
        labels.append(_Label(name, kind, task.channels if loss.endswith("cross_entropy") else 0))
    return tuple(labels)


@dataclasses.dataclass(frozen=True)
class _Multitask:
    size: tuple[int, int]
    labels: tuple[_Label, ...]
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

        ruled = self.max_class_ratio < 1 and any(task.name == "semseg" and task.kind == "plain" for task in self.labels)
        semseg = sample.get("semseg") if ruled else None
        top, left = self._crop(semseg, rows, columns, rng)
        rows, columns = rows[top : top + self.size[0]], columns[left : left + self.size[1]]
        flipped = self.flip and rng.random() < 0.5

        # The scaled image is rounded towards zero, as the colour distortion of the method does to its float image.
        image = resize_bilinear(image, scaled)[top : top + self.size[0], left : left + self.size[1]].astype(np.uint8)
        image = cv2.flip(image, 1) if flipped else image
        table = None
        if self.photometric:
            image, table = distort(image, rng)
        result = {"image": pad(normalise(image, table), self.size, 0)}

        columns = columns[::-1] if flipped else columns
        for task in self.labels:
            label = gather(task.of(sample), rows, columns)
            if task.kind == "depth":
                label /= np.float32(scale)
            elif task.kind == "normals" and flipped:
                label[..., 0] *= -1
            result[task.name] = pad(ignore_regions(label, task.kind), self.size, IGNORE)
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
    labels: tuple[_Label, ...]

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> dict:
        del rng
        height, width = sample["image"].shape[:2]
        if height > self.size[0] or width > self.size[1]:
            raise UserError(
                f"image {sample.get('id', '')!r} is {height} x {width}, larger than image_size {self.size}: evaluation "
                "pads and does not shrink; set image_size to the largest image, or data.resize=True"
            )
        result = {"image": pad(normalise(sample["image"]), self.size, 0)}
        for task in self.labels:
            result[task.name] = pad(ignore_regions(task.of(sample).copy(), task.kind), self.size, IGNORE)
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


def _carry(sample: Sample, result: dict) -> dict:
    """Takes what is neither image nor label over into the result."""
    return result | {key: sample[key] for key in ("id", "skipped") if key in sample}
