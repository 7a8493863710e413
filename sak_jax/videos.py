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
from sak_jax.pictures import Picture, scaled

ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
"""Of files that are read as videos."""

MOST_SIDE = 8190
"""Of a video that is written, in pixels: what MPEG-4 allows, even."""
RATES = (1.0, 1000.0)
"""The least and the most frames a second of a video that is written."""

_USUAL_RATE = 25.0


class VideoError(UserError):
    """A video that OpenCV can't read or write."""


class Reader:
    """The frames of a video, RGB and upright.

    Attributes:
      rate: frames a second; 25 where the file says nothing.

    Raises:
      VideoError: the file holds no frame that can be read.
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
            raise VideoError(f"{path}: cannot be read ({error.strerror or error})") from error
        self._capture = cv2.VideoCapture(local)
        self._resources.callback(self._capture.release)
        self._frames = 0
        self._first = self._read()
        if self._first is None:
            self.close()
            raise VideoError(f"{path}: is no video that OpenCV can read: convert it to MP4")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and rate > 0 else _USUAL_RATE

    def __iter__(self) -> Iterator[Picture]:
        frame, self._first = self._first, None
        while frame is not None:
            yield frame
            frame = self._read()

    def _read(self) -> Picture | None:
        there, frame = self._capture.read()
        if not there or frame is None:
            return None
        self._frames += 1
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    @property
    def lost(self) -> int:
        """Once all frames were read: how many more the file announces; 0 where it announces none, or just a few.

        Some containers give no number of frames, of which OpenCV takes duration x rate; frames that come at a varying
        rate are fewer, so that the time of the last one counts too.
        """
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        last = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 * self._capture.get(cv2.CAP_PROP_FPS)
        lost = count - max(self._frames, last + 1)
        return round(lost) if math.isfinite(lost) and lost > max(2, 0.02 * count) else 0

    def close(self) -> None:
        """Lets go of the file."""
        self._resources.close()


class Writer:
    """A video that is put together from pictures; the first one's size, rounded up to even sides, is that of all.

    Pictures that are larger than MPEG-4 allows are scaled down.

    Args:
      path: of a local file to write.
      rate: frames a second; what is outside of `RATES` becomes their least or most.
    """

    def __init__(self, path: epath.PathLike, rate: float):
        self._path, self._rate, self._writer, self._frames = os.fspath(path), float(np.clip(rate, *RATES)), None, 0

    def write(self, picture: Picture) -> None:
        """Adds a picture; one of another size is cut or laid on white.

        Raises:
          VideoError: OpenCV can't begin the video.
        """
        if max(picture.shape[:2]) > MOST_SIDE:
            picture = scaled(picture, (MOST_SIDE, MOST_SIDE))
        if self._writer is None:
            self._size = tuple(side + side % 2 for side in picture.shape[:2])
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(self._path, code, self._rate, self._size[::-1])
            if not self._writer.isOpened():
                height, width = self._size
                raise VideoError(
                    f"OpenCV can't write MPEG-4 of {width} x {height} pixels, {self._rate:g} frames a second: give "
                    "pictures, or install opencv-python-headless if yours has no encoder"
                )
        self._writer.write(cv2.cvtColor(_on_white(picture, self._size), cv2.COLOR_RGB2BGR))
        self._frames += 1

    def close(self) -> bytes:
        """Ends the video and gives its content.

        Raises:
          VideoError: it is not whole; OpenCV does not say why.
        """
        self._writer.release()
        written = cv2.VideoCapture(self._path)
        count = written.get(cv2.CAP_PROP_FRAME_COUNT)
        written.release()
        if count != self._frames:
            folder = os.path.dirname(self._path)
            raise VideoError(f"a video could not be written to {folder}: is its disk full? TMPDIR names another folder")
        return Path(self._path).read_bytes()


def _on_white(picture: Picture, size: tuple[int, int]) -> Picture:
    if picture.shape[:2] == size:
        return picture
    ground = np.full((*size, 3), 255, np.uint8)
    seen = picture[: size[0], : size[1]]
    ground[: seen.shape[0], : seen.shape[1]] = seen
    return ground
