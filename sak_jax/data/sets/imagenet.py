"""ImageNet-1k images, without labels, from a tar file or folders.

Under `root`, for the split "train": `train.tar` (of `train/<class>/<image>`), or the original
`ILSVRC2012_img_train.tar` (a tar of one tar a class), or the folders `train/<class>/`. A tar file is not unpacked:
where its images lie is listed once and kept in the cache folder, so that any worker can read any image.
"""

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging
from etils import epath
from tqdm import tqdm

from sak_jax.data import files
from sak_jax.data.source import FileSource, find_root
from sak_jax.errors import UserError

COUNTS = {"train": 1_281_167, "val": 50_000}
ORIGIN = "image-net.org (ILSVRC2012_img_train.tar)"
_ENDINGS = (".jpeg", ".jpg", ".png")


class ImageNet(FileSource):
    """A Grain random access data source of ImageNet's images.

    Args:
      root: the folder described above.
      split: "train" or "val".
      tasks: none; ImageNet has no dense labels.
      on_error: "raise", or "skip" damaged images.
      fit: shrink to fit into this height and width.

    Raises:
      UserError: no folder, no images, a truncated tar file, a task.
    """

    def __init__(
        self,
        root: os.PathLike | str,
        split: str,
        tasks: Sequence[str] = (),
        on_error: str = "raise",
        fit: tuple[int, int] | None = None,
    ):
        if tasks:
            raise UserError(f"ImageNet has no labels for {tasks[0]!r}: it serves stage 1 alone")
        root = find_root(root, "ImageNet-1k", ORIGIN, "imagenet")
        tars = [root / f"{split}.tar", root / f"ILSVRC2012_img_{split}.tar"]
        self._tar = next((path for path in tars if path.is_file()), None)
        self._folder = root / split
        if self._tar is None and not self._folder.is_dir():
            raise UserError(f"{root}: has neither {tars[0].name}, {tars[1].name} nor a folder {split}")
        super().__init__(f"ImageNet {split}", _list(self._tar, self._folder), (), on_error, fit)
        if len(self) == 0:
            raise UserError(f"{self._tar or self._folder}: holds no images ({', '.join(_ENDINGS)})")
        if len(self) != COUNTS.get(split, len(self)):
            logging.warning("%s holds %d images; ImageNet has %d.", self._tar or self._folder, len(self), COUNTS[split])

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
        except OSError as error:
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
        return name.decode(), int(offset), int(size)


def _list(tar: epath.Path | None, folder: epath.Path) -> _Listing:
    source = tar or folder
    key = f"{source.resolve()} {_stamp(tar) if tar else ''}"
    cache = epath.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sak_jax" / "imagenet"
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if tar is None or not path.is_file():  # Folders may have changed within: list them every time.
        entries = list(_tar_entries(tar) if tar else _folder_entries(folder))
        longest = max((len(name) for name, _, _ in entries), default=1)
        table = np.array(entries, [("name", f"S{longest}"), ("offset", np.int64), ("size", np.int64)])
        path = _write(path, table)
    return _Listing(os.fspath(path))


def _stamp(tar: epath.Path) -> str:
    if "://" in str(tar):
        return f"{tar.stat().length} {tar.stat().mtime}"
    stat = os.stat(tar)  # epath's has whole seconds.
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _write(path: epath.Path, table: np.ndarray) -> epath.Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        path = epath.Path(tempfile.mkdtemp(prefix="sak_jax_imagenet_")) / path.name
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".npy")
    with os.fdopen(handle, "wb") as file:
        np.save(file, table)
    os.replace(temporary, path)
    return path


def _folder_entries(folder: epath.Path) -> Iterator[tuple[bytes, int, int]]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    for name in tqdm(["", *classes], desc=f"listing {folder}", unit="class", disable=len(classes) < 100):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() in _ENDINGS:
                yield f"{name}/{path.name}".lstrip("/").encode(), 0, 0


def _tar_entries(tar: epath.Path) -> Iterator[tuple[bytes, int, int]]:
    length = tar.stat().length
    with tar.open("rb") as file, tqdm(total=length, desc=f"listing {tar}", unit="B", unit_scale=True) as progress:
        try:
            yield from _members(file, "", str(tar), length, progress)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{tar}: is not a whole, uncompressed tar file ({error})") from error


def _members(file, prefix: str, name: str, length: int, progress: tqdm) -> Iterator[tuple[bytes, int, int]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members = []  # It would keep every member, some gigabytes of them.
            if not member.isfile():
                continue
            if member.offset_data + member.size > length:
                raise UserError(f"{name}: is truncated within {member.name}")
            if member.name.endswith(".tar"):
                file.seek(member.offset_data)
                yield from _members(file, f"{member.name.removesuffix('.tar')}/", name, length, progress)
            elif member.name.lower().endswith(_ENDINGS):
                yield (prefix + member.name).encode(), member.offset_data, member.size
            progress.update(member.offset_data + member.size - progress.n)
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # Python's reader ends as if all were well.
            raise UserError(f"{name}: is truncated, it has no end of archive")
