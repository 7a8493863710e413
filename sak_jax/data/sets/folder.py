"""A data set of one's own: a folder of images and, for any subset of the tasks, a folder of labels.

    config.data = dict(
        name="folder", root="my_photos", encodings=dict(depth="millimetres"),
        train=dict(images="train/*.jpg", semseg="train_labels/{id}.png", depth="train_depth/{id}.png"),
        val=dict(images="val/*.jpg", semseg="val_labels/{id}.png", depth="val_depth/{id}.png"),
    )

`{id}` stands for the image's path below the part of its pattern that holds no `*`, without ending: `a` for
`train/a.jpg` of `train/*.jpg`, `rome/a` for `train/rome/a.jpg` of `train/*/*.jpg`. Images are turned upright by their
EXIF orientation, as viewers show them. Encodings are those of `sak_jax.data.labels`, by task; where nothing is said
that in `ENCODINGS`, else `index`.
"""

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from sak_jax.data import files, labels, listing
from sak_jax.data.source import FileSource, check_files, check_samples, find_root
from sak_jax.errors import UserError
from sak_jax.keys import Key

logger = logging.getLogger(__name__)

KEYS = {
    "train": Key({}, open=True),  # Patterns of images and labels.
    "val": Key({}, open=True),
    "encodings": Key({}, open=True),
}
ENCODINGS = {"sal": "binary", "edge": "fraction", "normals": "rgb_normals", "depth": "metres"}


class Folder(FileSource):
    """A Grain random access data source of one's own images.

    Args:
      root: the folder that patterns are relative to.
      patterns: `images`, as `listing.images` takes it, and by task the path of the labels with `{id}` in it.
      tasks: labels wanted.
      encodings: by task, where not as in `ENCODINGS`.
      on_error: "raise", or "skip" damaged samples.

    Raises:
      UserError: no images, a task without a pattern, an unknown encoding, missing files, sizes that differ.
    """

    def __init__(
        self,
        root: os.PathLike | str,
        patterns: Mapping[str, str],
        tasks: tuple[str, ...] = (),
        encodings: Mapping[str, str] | None = None,
        on_error: str = "raise",
    ):
        self._root = find_root(root, "the folder of images", "your own disk", None)
        self._encodings = {task: (encodings or {}).get(task, ENCODINGS.get(task, "index")) for task in tasks}
        self._labels = {}
        for task, encoding in self._encodings.items():
            if encoding not in labels.ENCODINGS:
                known = ", ".join(labels.ENCODINGS)
                raise UserError(f"data.encodings.{task}={encoding!r} is unknown; take one of {known}")
            self._labels[task] = _label_pattern(task, patterns.get(task, ""))
        pattern = patterns.get("images", "images/*")
        found = listing.images(self._root, pattern, "the pattern of images")
        self._images = found.paths
        super().__init__(str(self._root), list(found.paths), tasks, on_error)
        if found.left_out:
            example = f"{len(found.left_out)} files beside them, such as {found.left_out[0]}"
            logger.warning("%s: %s matches %d images, and leaves out %s", root, pattern, len(self), example)
        if not self.ids:
            others = f"; {example} are there" if found.left_out else ""
            raise UserError(f"no images match {self._root / pattern}{others}")
        label_files = {path for sample_id in self.ids for path in self.label_paths(sample_id).values()}
        both = next((path for path in self._images.values() if path in label_files), None)
        if both is not None:
            raise UserError(f"{both}: the pattern of images {pattern!r} matches labels too: let it match images alone")
        self.drop(check_samples(self.ids, lambda sample_id: check_files(self.paths(sample_id), upright=True)))

    def paths(self, sample_id: str) -> dict[str, epath.Path]:
        """The files of a sample, by image and label."""
        return {"image": self._images[sample_id]} | self.label_paths(sample_id)

    def label_paths(self, sample_id: str) -> dict[str, epath.Path]:
        """The files of a sample's labels."""
        return {task: self._root / pattern.replace("{id}", sample_id) for task, pattern in self._labels.items()}

    @property
    def identity(self) -> str:
        """As `FileSource.identity`."""
        return f"{super().identity} {sorted(self._encodings.items())} {sorted(self._labels.items())}"

    def inspect(self, index: int) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
        """As `FileSource.inspect`."""
        return files.image_size(self._images[self.ids[index]], upright=True), self._load_labels(index)

    def _load(self, index: int) -> dict[str, np.ndarray]:
        path = self._images[self.ids[index]]
        image = files.decode_image(files.read_bytes(path), str(path), upright=True)
        return {"image": image} | self._load_labels(index)

    def _load_labels(self, index: int) -> dict[str, np.ndarray]:
        paths = self.label_paths(self.ids[index])
        return {
            task: labels.decode(self._encodings[task], files.read_bytes(path), str(path))
            for task, path in paths.items()
        }


def _label_pattern(task: str, pattern: str) -> str:
    if "{id}" not in pattern:
        raise UserError(f"data has no pattern for the labels of {task!r}, such as '{task}/{{id}}.png'")
    listing.check_relative(pattern, f"the pattern of {task}")
    rest = pattern.replace("{id}", "")
    if "{" in rest or "}" in rest or "*" in rest:
        raise UserError(
            f"the pattern {pattern!r} of {task!r}: {{id}} alone stands for something, {{{{x}}}} and * do not"
        )
    return pattern


def create(
    split: str,
    tasks: Sequence[str],
    image_size: tuple[int, int],
    *,
    root: str,
    encodings: Mapping[str, str],
    on_error: str,
    **splits: Mapping[str, str],
) -> Folder:
    """The data source of a recipe; see `sak_jax.data.Dataset`."""
    if not splits.get(split):
        raise UserError(f"data.{split} is missing: for data.name='folder' it holds the patterns of images and labels")
    return Folder(root, splits[split], tuple(tasks), encodings, on_error)
