"""NYUD-v2: 795 training and 654 validation photographs of rooms, 425 x 560, with four tasks.

The folder as the multi-task literature passes it on (ASTMT, ATRC, InvPT, SAK):

  images/{id}.png        segmentation/{id}.png   0 = void, then 40 classes from 1
  depth/{id}.npy         metres, 0 = no measurement
  normals/{id}.png       (n + 1) * 127.5
  edge/{id}.png          255 on boundaries
  gt_sets/{train,val}.txt
"""

import logging
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from sak_jax.data import files, labels
from sak_jax.data.prepared import Preparation, open_source
from sak_jax.data.source import FileSource, check_files, check_samples, find_root, read_split
from sak_jax.errors import UserError

logger = logging.getLogger(__name__)

NAMES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat"),
    *("clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box"),
    *("whiteboard", "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag"),
    *("other structure", "other furniture", "other prop"),
)
"""The classes by label (Gupta et al., 2013); in the files they are numbered from 1."""
CLASSES = len(NAMES)
COUNTS = {"train": 795, "val": 654}
ORIGIN = "the Google Drive folder linked at github.com/innovator-zero/SAK (NYUD-v2)"
_LABELS = {"semseg": "segmentation/{}.png", "depth": "depth/{}.npy", "normals": "normals/{}.png", "edge": "edge/{}.png"}
_ENCODINGS = {"semseg": "index_from_1", "depth": "measured_metres", "normals": "all_normals", "edge": "fraction"}
TASKS = tuple(_LABELS)


class NYUD(FileSource):
    """A Grain random access data source of NYUD-v2.

    Everything is checked at the start, headers and class labels included: about a second.

    Args:
      root: the folder described above.
      split: "train" or "val".
      tasks: labels wanted, of `TASKS`.
      on_error: "raise", or "skip" damaged samples.

    Raises:
      UserError: no folder, an unknown task, missing files, sizes that differ, unknown labels: all that was found.
    """

    def __init__(
        self,
        root: os.PathLike | str,
        split: str,
        tasks: Sequence[str] = TASKS,
        on_error: str = "raise",
    ):
        unknown = [task for task in tasks if task not in TASKS]
        if unknown:
            raise UserError(f"NYUD-v2 has no labels for {unknown[0]!r}; it has {', '.join(TASKS)}")
        self._root = find_root(root, "NYUD-v2", ORIGIN, "nyud")
        split_file = self._root / "gt_sets" / f"{split}.txt"
        super().__init__(f"NYUD-v2 {split}", read_split(split_file), tasks, on_error)
        if len(self) != COUNTS.get(split, len(self)):
            logger.warning("%s lists %d images; NYUD-v2 has %d.", split_file, len(self), COUNTS[split])
        self.drop(check_samples(self.ids, self._check))

    def paths(self, sample_id: str) -> dict[str, epath.Path]:
        """The files of a sample, by image and label."""
        labels = {task: self._root / _LABELS[task].format(sample_id) for task in self.tasks}
        return {"image": self._root / "images" / f"{sample_id}.png"} | labels

    def _check(self, sample_id: str) -> str | None:
        paths = self.paths(sample_id)
        problem = check_files(paths)
        if problem is None and "semseg" in paths:
            _read("semseg", paths["semseg"])
        return problem

    def _load(self, index: int) -> dict[str, np.ndarray]:
        return {key: _read(key, path) for key, path in self.paths(self.ids[index]).items()}

    def inspect(self, index: int) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
        """As `FileSource.inspect`."""
        paths = self.paths(self.ids[index])
        size = files.image_size(paths.pop("image"))
        return size, {key: _read(key, path) for key, path in paths.items()}

    def image_bytes(self, index: int) -> bytes:
        """The image's file as it is."""
        return files.read_bytes(self.paths(self.ids[index])["image"])


def _read(key: str, path: os.PathLike) -> np.ndarray:
    content, name = files.read_bytes(path), str(path)
    if key == "image":
        return files.decode_image(content, name)
    label = labels.decode(_ENCODINGS[key], content, name)
    return labels.check_range(label, CLASSES, name) if key == "semseg" else label


PREPARATION = Preparation(
    name="nyud",
    dataset=NYUD,
    tasks=TASKS,
    image_format="png",
    version="1.0.0",
    splits=("train", "val"),
    samples_per_shard=100,
)
KEYS = {}


def create(split: str, tasks: Sequence[str], image_size: tuple[int, int], *, root: str, **values) -> FileSource:
    """The data source of a recipe; see `sak_jax.data.Dataset`."""
    return open_source(PREPARATION, root, split, tasks, **values)
