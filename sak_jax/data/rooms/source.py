"""`rooms`: procedural indoor scenes with exact labels; the data set that needs no download.

A scene follows from (seed, split, index) alone and is rendered when it is asked for, at any size. Labels:

  semseg       uint8 [H, W], an index into `CLASSES`
  human_parts  uint8 [H, W], an index into `PARTS`
  depth        float32 [H, W], metres along the optical axis
  normals      float32 [H, W, 3], unit; x right, y up, z towards the camera. A mirrored image has x negated.
  edge         float32 [H, W], 1 where the object differs from that of the right or lower neighbour, else 0
  sal          uint8 [H, W], 1 on the main foreground object
  instance     uint8 [H, W] (on request): 0 floor, 1 ceiling, 2..5 walls, then objects
"""

from collections.abc import Sequence

import numpy as np

from sak_jax.data.files import MAX_PIXELS
from sak_jax.data.rooms import render
from sak_jax.data.rooms.furniture import CLASSES, PARTS
from sak_jax.data.rooms.scene import Scene, sample_scene
from sak_jax.errors import UserError
from sak_jax.keys import Key

__all__ = ["CLASSES", "EXTRAS", "PARTS", "SPLITS", "TASKS", "Rooms"]

SPLITS = {"train": 0, "val": 1}
TASKS = ("semseg", "human_parts", "sal", "normals", "edge", "depth")
EXTRAS = ("instance",)
LOOKS = ("plain", "close", "night")
KEYS = {
    "train_length": Key(0, at_least=0),  # Scenes.
    "val_length": Key(0, at_least=0),
    "seed": Key(0, at_least=0, at_most=2**32 - 1),
    "cache": Key(False, runtime=True),  # Keep what was rendered in memory.
    "look": Key("plain", choices=LOOKS),  # See `Rooms`.
}


class Rooms:
    """A Grain random access data source of rendered rooms.

    Args:
      split: "train" or "val"; their scenes come from different random streams.
      length: number of samples; a longer set begins with the same samples.
      size: (height, width) in pixels. The scene is the same at every size; a wider image shows more at the sides.
      seed: of the whole set.
      tasks: labels wanted, of `TASKS`.
      extras: further maps wanted, of `EXTRAS`.
      cache: keep what was rendered in memory (15 bytes a pixel or so); such arrays are read-only.
      look: `plain`; `close`: the middle of the view, twice as large; `night`: the picture dark, bluish and noisy.

    Raises:
      UserError: an unknown look, split, task or extra, or a size or length that is not positive.
    """

    def __init__(
        self,
        split: str,
        length: int,
        size: tuple[int, int] = (72, 96),
        seed: int = 0,
        tasks: Sequence[str] = ("semseg", "depth", "normals", "edge", "sal"),
        extras: Sequence[str] = (),
        cache: bool = False,
        look: str = "plain",
    ):
        if look not in LOOKS:
            raise UserError(f"rooms has no look {look!r}; it has {', '.join(LOOKS)}")
        if split not in SPLITS:
            raise UserError(f"rooms has no split {split!r}; it has {', '.join(SPLITS)}")
        for known, given, what in ((TASKS, tasks, "task"), (EXTRAS, extras, "extra")):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise UserError(f"rooms has no {what} {unknown[0]!r}; it has {', '.join(known)}")
        if length < 1 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise UserError(
                f"rooms needs a positive length and size of at most {MAX_PIXELS} pixels, not {length} and {tuple(size)}"
            )
        if seed < 0:
            raise UserError(f"rooms needs a seed that is not negative, not {seed}")
        self.split, self.length, self.size, self.seed = split, int(length), (int(size[0]), int(size[1])), int(seed)
        self.tasks, self.extras, self.look = tuple(tasks), tuple(extras), look
        self._cache: dict[int, dict] | None = {} if cache else None

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"Rooms(split={self.split!r}, length={self.length}, size={self.size}, seed={self.seed})"

    def __getstate__(self) -> dict:
        # A worker process renders for itself rather than being sent what this one has rendered.
        return {**self.__dict__, "_cache": None if self._cache is None else {}}

    def scene(self, index: int) -> Scene:
        """The scene of a sample."""
        return sample_scene(np.random.default_rng([self.seed, SPLITS[self.split], index]))

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < self.length:
            raise IndexError(f"{self!r} has no sample {index}")
        if self._cache is None:
            return self._render(index)
        if index not in self._cache:
            sample = self._render(index)
            for value in sample.values():
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False
            self._cache[index] = sample
        return dict(self._cache[index])

    def _render(self, index: int) -> dict:
        scene = self.scene(index)
        height, width = (2 * side for side in self.size) if self.look == "close" else self.size
        # Rays parallel to a face divide by zero and then compare as a miss; roots of negative numbers are misses too.
        with np.errstate(divide="ignore", invalid="ignore"):
            surfaces = render.trace(scene, height, width)
            image = render.shade(scene, surfaces, np.random.default_rng([self.seed, SPLITS[self.split], index, 1]))
        if self.look == "close":
            top, left = height // 4, width // 4
            middle = lambda x: x[top : top + self.size[0], left : left + self.size[1]]  # noqa: E731
            image, surfaces = middle(image), {name: middle(x) for name, x in surfaces.items()}
        elif self.look == "night":
            image = _darkened(image, np.random.default_rng([self.seed, SPLITS[self.split], index, 2]))
        instance, label = surfaces["instance"], surfaces["label"]
        sample = {"image": image, "id": f"{self.split}_{index:06d}"}
        for name in (*self.tasks, *self.extras):
            if name == "semseg":
                sample[name] = label.astype(np.uint8)
            elif name == "human_parts":
                sample[name] = surfaces["part"].astype(np.uint8)
            elif name == "sal":
                sample[name] = render.salient(instance, label)
            elif name == "normals":
                sample[name] = render.camera_normals(scene, surfaces["normal"])
            elif name == "edge":
                sample[name] = render.boundaries(instance)
            elif name == "depth":
                sample[name] = surfaces["depth"]
            else:
                sample[name] = instance.astype(np.uint8)
        return sample


def _darkened(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    levels = image * np.array([0.16, 0.2, 0.3]) + rng.normal(0, 5, image.shape)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def create(
    split: str, tasks: Sequence[str], image_size: tuple[int, int], *, seed: int, cache: bool, look: str, **values
) -> Rooms:
    """The data source of a recipe; see `sak_jax.data.Dataset`."""
    length = values.get(f"{split}_length", 0)
    if length <= 0:
        raise UserError(f"data.{split}_length={length} must be the positive number of scenes of the split {split!r}")
    return Rooms(split, length, size=image_size, seed=seed, tasks=tasks, cache=cache, look=look)
