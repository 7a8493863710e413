"""What the data sets made of files share: checks at the start, errors, what happens to damaged samples."""

import abc
import codecs
import concurrent.futures
import contextlib
import json
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from etils import epath

from sak_jax.data import cache, files, stored
from sak_jax.errors import UserError
from sak_jax.paths import check_remote

logger = logging.getLogger(__name__)


@runtime_checkable
class Source(Protocol):
    """Samples by index: what Grain calls a random access data source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


ON_ERROR = ("raise", "skip")
_SHOWN = 10


class FileSource(abc.ABC):
    """A Grain random access data source of samples read from files; a data set gives `_load`.

    Under `on_error="skip"` a sample that cannot be read is replaced by the next that can, which then carries `skipped`;
    the property `skipped` tells which these were, in whichever process they were met, and so does a warning at the end.

    Args:
      name: of the data set and split, for messages.
      ids: of the samples.
      tasks: labels that samples hold.
      on_error: "raise" or "skip".
    """

    def __init__(
        self,
        name: str,
        ids: Sequence[str],
        tasks: Sequence[str],
        on_error: str = "raise",
    ):
        if on_error not in ON_ERROR:
            raise UserError(f"data.on_error={on_error!r} must be one of {', '.join(ON_ERROR)}")
        self.name = name
        self.ids = ids
        self.tasks = tuple(tasks)
        self._record = None
        self._seen: set[int] = set()
        if on_error == "skip":
            # A file, not a variable, because worker processes skip on their own.
            handle, self._record = tempfile.mkstemp(prefix="sak_jax_skipped_", suffix=".txt")
            os.close(handle)
            weakref.finalize(self, _report, self._record, name, len(ids))

    @abc.abstractmethod
    def _load(self, index: int) -> dict[str, np.ndarray]:
        """Image and labels of a sample. Raises UserError that names the file at fault."""

    @property
    def identity(self) -> str:
        """What decides what its label files are found to hold, beside these."""
        return f"{type(self).__name__} {self.name} {' '.join(self.tasks)}"

    def stamp(self, index: int) -> str:
        """Sizes and times of change of a sample's files."""
        return " ".join(_stamp(path) for path in self.paths(self.ids[index]).values())

    def file(self, sample_id: object, key: str) -> str:
        """Where the image or the labels of a task lie, for messages."""
        paths = self.paths(sample_id)
        return str(paths[key]) if key in paths else f"{self.name}, {sample_id}: {key}"

    def inspect(self, index: int) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
        """The image's size, and the labels, without decoding the image where that can be done."""
        sample = self.read(index)
        return sample["image"].shape[:2], {task: sample[task] for task in self.tasks}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, object]:
        index = int(index)
        if self._record is None:
            return self._sample(index)
        for attempt in range(len(self)):
            try:
                sample = self._sample((index + attempt) % len(self))
                return sample | {"skipped": True} if attempt else sample
            except UserError as error:
                self._skip((index + attempt) % len(self), str(error))
        raise UserError(f"{self.name}: none of its {len(self)} samples can be read")

    def read(self, index: int) -> dict[str, object]:
        """The very sample, as it is stored. Raises UserError if it cannot be read, whatever `on_error` says."""
        return self._sample(int(index))

    def _sample(self, index: int) -> dict[str, object]:
        sample = self._load(index)
        size = sample["image"].shape[:2]
        for key, value in sample.items():
            if isinstance(value, np.ndarray) and value.shape[:2] != size:
                raise UserError(
                    f"{self.name}: the {key} labels of {self.ids[index]} are {times(value.shape[:2])}, "
                    f"its image is {times(size)}"
                )
        return {"id": str(self.ids[index])} | sample

    def _skip(self, index: int, message: str) -> None:
        if index in self._seen:
            return
        self._seen.add(index)
        logger.warning("skipped: %s", _shown(message))
        with open(self._record, "a", encoding="utf-8") as file:
            file.write(json.dumps([str(self.ids[index]), " ".join(message.split())]) + "\n")

    @property
    def skipped(self) -> dict[str, str]:
        """Ids of the samples skipped so far, and why."""
        if self._record is None:
            return {}
        return _read_record(self._record)

    def drop(self, problems: dict[str, str]) -> None:
        """Raises all problems found at the start together, or takes the samples out under `on_error="skip"`."""
        if not problems:
            return
        if self._record is None or len(problems) == len(self.ids):
            raise UserError(f"{self.name}: {join(dict.fromkeys(problems.values()))}")
        for index, sample_id in enumerate(self.ids):
            if sample_id in problems:
                self._skip(index, problems[sample_id])
        self.ids = [sample_id for sample_id in self.ids if sample_id not in problems]
        self._seen.clear()


def _stamp(path: epath.Path) -> str:
    try:
        return cache.stamp(path)
    except OSError:
        return "none"


def _read_record(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8") as file:
        return dict(json.loads(line) for line in file)


def _report(path: str, name: str, count: int) -> None:
    """Says how many samples were skipped in all, at the end of the source's life."""
    with contextlib.suppress(FileNotFoundError):
        skipped = _read_record(path)
        if skipped:
            logger.warning("%s: skipped %d of %d samples: %s", name, len(skipped), count, _shown(", ".join(skipped)))
        os.unlink(path)


def times(size: Iterable[int]) -> str:
    """`height x width`."""
    return " x ".join(str(extent) for extent in size)


def join(problems: Iterable[str]) -> str:
    """One line of problems, the first ten in full."""
    problems = list(problems)
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    count = f"{len(problems)} problems: " if len(problems) > 1 else ""
    return count + "; ".join(problems[:_SHOWN]) + more


def find_root(root: os.PathLike | str, dataset: str, origin: str, prepare: str | None) -> epath.Path:
    """The folder of a data set. Raises UserError that says how to come by it if it is not there.

    Args:
      root: the folder.
      dataset: its name for people.
      origin: where it is to be had.
      prepare: the data set's name on the command line of tools/prepare_data.py, if it has one.
    """
    check_remote(root)
    try:
        path = epath.Path(root).expanduser()
        if path.is_dir():
            return path
    except (OSError, RuntimeError, ValueError) as error:  # no home folder, no permission, a null character
        raise UserError(f"data.root={str(root)!r} cannot be read ({error})") from error
    command = (
        f" or prepare it with `python tools/prepare_data.py {prepare} --source=DIR --output={root}`" if prepare else ""
    )
    raise UserError(
        f"{dataset} is not in data.root={str(root)!r}: get it from {origin} and unpack it there{command}; "
        "configs/rooms.py runs at once, without any download"
    )


def read_split(path: epath.Path) -> list[str]:
    """The ids in a split file, one a line. Raises UserError if it is missing, empty or names a sample twice."""
    if not path.is_file():
        raise UserError(f"{path}: the split file is missing")
    ids = [line.strip() for line in decode_text(files.read_bytes(path), str(path)).splitlines() if line.strip()]
    if not ids:
        raise UserError(f"{path}: the split file is empty")
    twice = sorted({sample_id for sample_id in ids if ids.count(sample_id) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise UserError(f"{path}: names {twice[0]} more than once")
    return ids


def decode_text(content: bytes, name: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark; a mark is left out. `name` is for the error."""
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: is not text in UTF-8 ({error}): save it so") from error
    if "\0" in text:
        raise UserError(f"{name}: holds null characters: save it as text in UTF-8")
    return text


def check_samples(ids: Sequence, check: Callable[..., str | None], threads: int = 16) -> dict:
    """Runs `check` on every sample, many at once; what it says, or the UserError it raises, by sample."""

    def guarded(sample_id) -> str | None:
        try:
            return check(sample_id)
        except UserError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return {sample_id: problem for sample_id, problem in zip(ids, pool.map(guarded, ids), strict=True) if problem}


def check_files(paths: dict[str, epath.Path], upright: bool = False) -> str | None:
    """Whether the files of one sample are there, and the sizes in their headers agree (`.mat` files aside).

    Args:
      paths: by "image" and task.
      upright: the image is turned by its EXIF orientation.

    Returns:
      What is wrong, naming the files, or None.
    """
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        return f"{', '.join(missing)} is missing" if len(missing) == 1 else f"{', '.join(missing)} are missing"
    image = paths["image"]
    size = files.image_size(image, upright)
    sizes = {path: stored.size(path) for path in paths.values() if path != image and path.suffix.lower() != ".mat"}
    differing = [f"{path} is {times(found)}" for path, found in sizes.items() if found != size]
    if not differing:
        return None
    turned = upright and size != files.image_size(image)
    exif = ", turned upright by its EXIF orientation (draw labels on the image as viewers show it)" if turned else ""
    return f"{', '.join(differing)}, but {image} is {times(size)}{exif}"


def _shown(text: str) -> str:
    """Text as one line that any terminal can print, whatever a file is called."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())
