"""Videos as sequences of pictures: read by OpenCV, written as MP4."""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from etils import epath

from sak_jax import paths
from sak_jax.errors import UserError
from sak_jax.pictures import Picture

ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
"""Of files that are read as videos."""

_USUAL_RATE = 25.0


class Unreadable(UserError):
    """A file that is no video that OpenCV can read."""


class Reader:
    """The frames of a video, RGB and upright.

    Attributes:
      rate: frames a second; 25 where the file says nothing.

    Raises:
      Unreadable: the file holds no frame that can be read.
    """

    def __init__(self, path: epath.PathLike):
        self._resources = contextlib.ExitStack()
        local = os.fspath(path)
        try:
            if paths.is_remote(path):
                folder = self._resources.enter_context(tempfile.TemporaryDirectory())
                local = os.path.join(folder, "video" + os.path.splitext(local)[1])
                Path(local).write_bytes(epath.Path(path).read_bytes())
            with open(local, "rb"):  # OpenCV does not say why it can't.
                pass
        except OSError as error:
            self.close()
            raise Unreadable(f"{path}: cannot be read ({error.strerror or error})") from error
        self._capture = cv2.VideoCapture(local)
        self._resources.callback(self._capture.release)
        self._first = self._read()
        if self._first is None:
            self.close()
            raise Unreadable(f"{path}: is no video that OpenCV can read: convert it to MP4")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _USUAL_RATE

    def __iter__(self) -> Iterator[Picture]:
        frame, self._first = self._first, None
        while frame is not None:
            yield frame
            frame = self._read()

    def _read(self) -> Picture | None:
        there, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if there and frame is not None else None

    def close(self) -> None:
        """Lets go of the file."""
        self._resources.close()


class Writer:
    """A video that is put together from pictures; the first one's size, rounded up to even sides, is that of all.

    Args:
      path: of a local file to write.
      rate: frames a second.
    """

    def __init__(self, path: epath.PathLike, rate: float):
        self._path, self._rate, self._writer = os.fspath(path), rate, None

    def write(self, picture: Picture) -> None:
        """Adds a picture; one of another size is cut or laid on white.

        Raises:
          UserError: OpenCV was built without an encoder.
        """
        if self._writer is None:
            self._size = tuple(side + side % 2 for side in picture.shape[:2])
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(self._path, code, self._rate, self._size[::-1])
            if not self._writer.isOpened():
                raise UserError("this OpenCV can't write videos: install opencv-python-headless, or give pictures")
        self._writer.write(cv2.cvtColor(_on_white(picture, self._size), cv2.COLOR_RGB2BGR))

    def close(self) -> bytes:
        """Ends the video and gives its content."""
        self._writer.release()
        return Path(self._path).read_bytes()


def _on_white(picture: Picture, size: tuple[int, int]) -> Picture:
    if picture.shape[:2] == size:
        return picture
    ground = np.full((*size, 3), 255, np.uint8)
    seen = picture[: size[0], : size[1]]
    ground[: seen.shape[0], : seen.shape[1]] = seen
    return ground
