"""ImageNet-1k images, without labels, from a tar file or folders.

Under `root`, for the split "train": `train.tar` (of `train/<class>/<image>`), or the original
`ILSVRC2012_img_train.tar` (a tar of one tar a class), or the folders `train/<class>/`. A tar file is not unpacked:
where its images lie is listed once and kept in the cache folder, so that any worker can read any image.
"""

import hashlib
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from tqdm import tqdm

from sak_jax.data import cache, files, listing
from sak_jax.data.prepared import Preparation, open_source
from sak_jax.data.source import FileSource, find_root
from sak_jax.errors import UserError
from sak_jax.paths import absolute, is_remote

logger = logging.getLogger(__name__)

COUNTS = {"train": 1_281_167, "val": 50_000}
ORIGIN = "image-net.org (ILSVRC2012_img_train.tar)"
_LONGEST_HEADER = 1 << 24
"""Bytes of a name in a tar file; a header that claims more is damaged."""


class ImageNet(FileSource):
    """A Grain random access data source of ImageNet's images.

    Args:
      root: the folder described above.
      split: "train" or "val".
      tasks: none; ImageNet has no dense labels.
      on_error: "raise", or "skip" damaged images.

    Raises:
      UserError: no folder, no images, a truncated tar file, a task.
    """

    def __init__(
        self,
        root: os.PathLike | str,
        split: str,
        tasks: Sequence[str] = (),
        on_error: str = "raise",
    ):
        if tasks:
            raise UserError(f"ImageNet has no labels for {tasks[0]!r}: it serves stage 1 alone")
        root = find_root(root, "ImageNet-1k", ORIGIN, "imagenet")
        tars = [root / f"{split}.tar", root / f"ILSVRC2012_img_{split}.tar"]
        self._tar = next((path for path in tars if path.is_file()), None)
        self._folder = root / split
        if self._tar is None and not self._folder.is_dir():
            raise UserError(f"{root}: has neither {tars[0].name}, {tars[1].name} nor a folder {split}")
        super().__init__(f"ImageNet {split}", _list(self._tar, self._folder), (), on_error)
        if len(self) == 0:
            raise UserError(f"{self._tar or self._folder}: holds no images")
        if len(self) != COUNTS.get(split, len(self)):
            logger.warning("%s holds %d images; ImageNet has %d.", self._tar or self._folder, len(self), COUNTS[split])

    def _load(self, index: int) -> dict[str, np.ndarray]:
        name = f"{self._tar or self._folder}/{self.ids[index]}"
        return {"image": files.decode_image(self.image_bytes(index), name)}

    def image_bytes(self, index: int) -> bytes:
        """The image's file as it is."""
        name, offset, size = self.ids.entry(index)
        if self._tar is None:
            return files.read_bytes(self._folder / name)
        try:
            with self._tar.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except (OSError, ValueError) as error:
            raise UserError(f"{self._tar}: cannot be read ({error})") from error


class _Listing(Sequence):
    """Names, offsets and sizes in a file that is mapped, not read: a million of them weigh nothing when pickled."""

    def __init__(self, path: str):
        self._path = path
        self._entries = None

    def __getstate__(self) -> dict:
        return {"_path": self._path, "_entries": None}

    @property
    def _table(self) -> np.ndarray:
        if self._entries is None:
            self._entries = np.load(self._path, mmap_mode="r")
        return self._entries

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> str:
        return self.entry(index)[0]

    def entry(self, index: int) -> tuple[str, int, int]:
        """Name, offset and size."""
        name, offset, size = self._table[index]
        return name.decode("utf-8", "surrogateescape"), int(offset), int(size)


def _list(tar: epath.Path | None, folder: epath.Path) -> _Listing:
    key = f"{absolute(tar or folder)} {cache.stamp(tar) if tar else ''}"
    place = cache.folder("imagenet")
    path = os.path.join(place, f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}.npy")
    if tar is None or not _is_whole(path, tar):  # Folders may have changed within: list them every time.
        entries = list(_tar_entries(tar) if tar else _folder_entries(folder))
        longest = max((len(name) for name, _, _ in entries), default=1)
        table = np.array(entries, [("name", f"S{longest}"), ("offset", np.int64), ("size", np.int64)])
        try:
            cache.write(path, table)
        except OSError as error:
            raise UserError(f"{path}: the list of images cannot be kept ({error}): set XDG_CACHE_HOME") from error
    return _Listing(path)


def _is_whole(path: str, tar: epath.Path) -> bool:
    """Whether a kept list can be used; it is made again if not."""
    try:
        table = np.load(path, mmap_mode="r")
        ends = table["offset"] + table["size"]
        return bool((table["offset"] >= 0).all() and (table["size"] >= 0).all() and ends.max() <= _length(tar))
    except Exception:  # NumPy raises whatever the damage makes it stumble over.
        return False


def _length(tar: epath.Path) -> int:
    return tar.stat().length if is_remote(tar) else os.stat(tar).st_size  # epath's asks for the owner's name.


def _folder_entries(folder: epath.Path) -> Iterator[tuple[bytes, int, int]]:
    top = listing.entries(folder)
    classes = [name for name, is_folder in top if is_folder and not name.startswith(".")]
    yield from ((os.fsencode(name), 0, 0) for name, is_folder in top if not is_folder and files.is_image(name))
    for kind in tqdm(classes, desc=f"listing {folder}", unit="class", disable=len(classes) < 100):
        for name, is_folder in listing.entries(folder / kind):
            if not is_folder and files.is_image(name):
                yield os.fsencode(f"{kind}/{name}"), 0, 0


def _tar_entries(tar: epath.Path) -> Iterator[tuple[bytes, int, int]]:
    length = _length(tar)
    with tar.open("rb") as file, tqdm(total=length, desc=f"listing {tar}", unit="B", unit_scale=True) as progress:
        try:
            yield from _members(_Headers(file), "", str(tar), length, progress)
        except UserError:
            raise
        except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
            raise UserError(f"{tar}: is not a whole, uncompressed tar file ({error})") from error


class _Headers:
    """A file of which no more is read at once than a header may hold."""

    def __init__(self, file):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """So many bytes. Raises TarError if a header claims to be negative or huge."""
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _members(file: _Headers, prefix: str, name: str, length: int, progress: tqdm) -> Iterator[tuple[bytes, int, int]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members = []  # It would keep every member, some gigabytes of them.
            if member.size < 0:
                raise UserError(f"{name}: says that {member.name} has {member.size} bytes: it is damaged")
            if not member.isfile():
                continue
            if member.offset_data + member.size > length:
                raise UserError(f"{name}: is truncated within {member.name}")
            hidden = any(part.startswith(".") and part not in (".", "..") for part in member.name.split("/"))
            if member.name.endswith(".tar") and not hidden:
                file.seek(member.offset_data)
                yield from _members(file, f"{member.name.removesuffix('.tar')}/", name, length, progress)
            elif not hidden and files.is_image(member.name.rpartition("/")[2]):
                yield (prefix + member.name).encode("utf-8", "surrogateescape"), member.offset_data, member.size
            progress.update(member.offset_data + member.size - progress.n)
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # Python's reader ends as if all were well.
            raise UserError(f"{name}: is truncated, it has no end of archive")


PREPARATION = Preparation(
    name="imagenet",
    dataset=ImageNet,
    tasks=(),
    image_format="jpeg",
    version="1.0.0",
    splits=("train",),
    samples_per_shard=1250,
    also=("imagenet2012",),
)
KEYS = {}


def create(split: str, tasks: Sequence[str], image_size: tuple[int, int], *, root: str, **values) -> FileSource:
    """The data source of a recipe; see `sak_jax.data.Dataset`."""
    return open_source(PREPARATION, root, split, tasks, **values)
