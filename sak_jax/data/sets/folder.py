"""A data set of one's own: a folder of images and, for any subset of the tasks, a folder of labels.

    config.data = dict(
        name="folder", root="my_photos", encodings=dict(depth="millimetres"),
        train=dict(images="train/*.jpg", semseg="train_labels/{id}.png", depth="train_depth/{id}.png"),
        val=dict(images="val/*.jpg", semseg="val_labels/{id}.png", depth="val_depth/{id}.png"),
    )

`{id}` stands for the image's name without folder and ending. Encodings, by task or new task (those in `ENCODINGS`, else
`index`, where nothing is said):

  index         one-channel PNG of class indices, 255 = ignore
  index_from_1  the same, 0 = ignore, classes from 1
  binary        one-channel PNG: 0 below 128, else 1
  fraction      one-channel PNG, 0..255 for 0..1
  rgb_normals   RGB PNG, (n + 1) * 127.5; black is invalid
  metres        .npy of metres, 0 = invalid
  millimetres   one-channel 16-bit PNG, 0 = invalid
"""

import os
from collections.abc import Mapping

import numpy as np
from etils import epath

from sak_jax.data import files
from sak_jax.data.source import FileSource, check_files, check_samples, find_root
from sak_jax.errors import UserError

ENCODINGS = {"sal": "binary", "edge": "fraction", "normals": "rgb_normals", "depth": "metres"}


class Folder(FileSource):
    """A Grain random access data source of one's own images.

    Args:
      root: the folder that patterns are relative to.
      patterns: `images`, a glob pattern, and by task the path of the labels with `{id}` in it.
      tasks: labels wanted.
      encodings: by task, where not as in `ENCODINGS`.
      on_error: "raise", or "skip" damaged samples.
      fit: shrink to fit into this height and width.

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
        fit: tuple[int, int] | None = None,
    ):
        self._root = find_root(root, "the folder of images", "your own disk", None)
        self._encodings = {task: (encodings or {}).get(task, ENCODINGS.get(task, "index")) for task in tasks}
        self._labels = {}
        for task, encoding in self._encodings.items():
            if encoding not in _DECODERS:
                raise UserError(f"data.encodings.{task}={encoding!r} is unknown; take one of {', '.join(_DECODERS)}")
            if "{id}" not in patterns.get(task, ""):
                raise UserError(f"data has no pattern for the labels of {task!r}, such as '{task}/{{id}}.png'")
            self._labels[task] = patterns[task]
        pattern = patterns.get("images", "images/*")
        self._images = {path.stem: path for path in sorted(self._root.glob(pattern)) if path.is_file()}
        super().__init__(str(self._root), sorted(self._images), tasks, on_error, fit)
        if not self.ids:
            raise UserError(f"no images match {self._root / pattern}")
        self._drop(check_samples(self.ids, lambda sample_id: check_files(self.paths(sample_id))))

    def paths(self, sample_id: str) -> dict[str, epath.Path]:
        """The files of a sample, by image and label."""
        labels = {task: self._root / pattern.format(id=sample_id) for task, pattern in self._labels.items()}
        return {"image": self._images[sample_id]} | labels

    def _load(self, index: int) -> dict[str, np.ndarray]:
        sample = {}
        for key, path in self.paths(self.ids[index]).items():
            content, name = files.read_bytes(path), str(path)
            decode = files.decode_image if key == "image" else _DECODERS[self._encodings[key]]
            sample[key] = decode(content, name)
        return sample


def _index_from_1(content: bytes, name: str) -> np.ndarray:
    return files.decode_label(content, name) - np.uint8(1)  # 0, void, wraps to 255


def _binary(content: bytes, name: str) -> np.ndarray:
    return (files.decode_label(content, name) > 127).astype(np.uint8)


def _fraction(content: bytes, name: str) -> np.ndarray:
    return files.decode_label(content, name) / np.float32(255)


def _millimetres(content: bytes, name: str) -> np.ndarray:
    return files.decode_integers(content, name).astype(np.float32) / np.float32(1000)


def _rgb_normals(content: bytes, name: str) -> np.ndarray:
    colours = files.decode_image(content, name)
    return np.where((colours == 0).all(axis=-1, keepdims=True), np.float32(0), files.decode_normals(colours))


_DECODERS = {
    "index": files.decode_label,
    "index_from_1": _index_from_1,
    "binary": _binary,
    "fraction": _fraction,
    "rgb_normals": _rgb_normals,
    "metres": files.decode_depth,
    "millimetres": _millimetres,
}
