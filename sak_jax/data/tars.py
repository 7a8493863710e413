"""Tar files as stores of images that are read by range: which there are, and where in them the images lie.

A listing is a file of `ENTRY`s, one a tar file. It lies in the folder `.sak_jax_index` beside the tar files, where all
hosts find it, or in ~/.cache/sak_jax/shards if nothing can be written there.
"""

import concurrent.futures
import contextlib
import dataclasses
import fnmatch
import hashlib
import os
import random
import socket
import tarfile
import threading
from collections.abc import Sequence
from typing import BinaryIO

import fsspec
import numpy as np
from etils import epath
from tqdm import tqdm

from sak_jax.data.source import join
from sak_jax.errors import UserError
from sak_jax.paths import is_remote

IMAGES = ("jpg", "jpeg", "png", "webp")
ENTRY = np.dtype([("block", "<u4"), ("size", "<u4")])
"""Where an image begins, in blocks of 512 bytes, and how many bytes it has."""

_BLOCK = tarfile.BLOCKSIZE
_README = "Where the images lie in each shard, for sak_jax. It may be deleted: the shards are then listed again.\n"
_LARGEST = 2**32  # Bytes of a member: they are stored in 32 bits.
_LONGEST_HEADER = 2**24  # Bytes of a member's name and attributes; a damaged header can claim any number.
_STREAM = 2**23  # Bytes of one request while a shard is read through.
_THREADS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A tar file: its folder and name, its bytes, and what tells it from others of that name and size."""

    folder: str
    name: str
    size: int
    version: str

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{self.folder}/{self.name}"

    @property
    def listing(self) -> str:
        """The name of its listing."""
        return f"{self.name}.{hashlib.sha256(f'{self.size} {self.version}'.encode()).hexdigest()[:12]}"

    def read(self, number: int) -> tuple[str, bytes]:
        """An image's name, with the shard's path before it, and its file.

        Raises:
          UserError: it cannot be read, or is not where it was when the shard was listed.
        """
        offset, size = self.locate(number)
        try:
            content = _read(self.path, offset - _BLOCK, _BLOCK + size)  # Its header, then itself.
            header = tarfile.TarInfo.frombuf(content[:_BLOCK], "utf-8", "replace")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error})") from error
        except tarfile.HeaderError:
            header = None
        if header is None or header.size != size or len(content) != _BLOCK + size:
            remedy = "start again; if that is no help, delete .sak_jax_index beside it"
            raise UserError(f"{self.path}: has changed since it was listed: {remedy}")
        return f"{self.path}/{header.name}", content[_BLOCK:]

    def locate(self, number: int) -> tuple[int, int]:
        """An image's offset and size in bytes."""
        content = _read_listing(self, number * ENTRY.itemsize, ENTRY.itemsize)
        (entry,) = np.frombuffer(content, ENTRY)
        return int(entry["block"]) * _BLOCK, int(entry["size"])


def find(place: str) -> list[Shard]:
    """The tar files of a folder, or those that a pattern names, in the order of their names.

    Raises:
      UserError: there are none.
    """
    folder, _, pattern = place.rstrip("/").rpartition("/")
    if not (set("*?[") & set(pattern) or pattern.endswith(".tar")):
        folder, pattern = place.rstrip("/"), "*.tar"
    folder = os.path.expanduser(folder or ".")
    listed = _list_folder(folder)
    names = [name for name in fnmatch.filter(listed, pattern) if name.endswith(".tar") and not name.startswith(".")]
    if not names:
        packed = any(name.endswith((".tar.gz", ".tgz", ".tar.zst")) for name in listed)
        remedy = "; the compressed ones there must be unpacked to .tar" if packed else ""
        raise UserError(f"data.root={place!r}: there are no tar files {folder}/{pattern}{remedy}")
    return [Shard(folder, name, *listed[name]) for name in sorted(names)]


def count_images(folder: str, shards: Sequence[Shard]) -> tuple[dict[Shard, int], dict[Shard, str]]:
    """Lists the shards of one folder that are not listed yet, reading them through.

    Hosts that do so at once share the work.

    Returns:
      The number of images by shard; and what is wrong by damaged shard, each of which is missing in the former.

    Raises:
      UserError: all that cannot be read. Not the same as damaged: it could differ between hosts.
    """
    listed = _list_folder(_cache(folder)) | _list_folder(_beside(folder))
    counts = {shard: _images(listed[shard.listing][0]) for shard in shards if shard.listing in listed}
    missing = [shard for shard in shards if shard not in counts]
    damaged, unreadable = {}, []
    if missing:
        index = _beside(folder) if _writable(_beside(folder)) else _cache(folder)
        random.shuffle(missing)  # Other hosts take them in another order, and pass over what they find done.
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            done = pool.map(lambda shard: _list_shard(shard, index), missing)
            progress = tqdm(done, f"listing {folder}", len(missing), unit="shard", disable=len(missing) < _THREADS)
            for shard, result in zip(missing, progress, strict=True):
                if isinstance(result, int):
                    counts[shard] = result
                elif isinstance(result, UserError):
                    damaged[shard] = str(result)
                else:
                    unreadable.append(f"{shard.path}: cannot be read ({result})")
    if unreadable:
        raise UserError(join(sorted(unreadable)))
    return (
        {shard: counts[shard] for shard in shards if shard in counts},
        {shard: damaged[shard] for shard in shards if shard in damaged},
    )


def _images(size: int) -> int:
    return size // ENTRY.itemsize


def _list_shard(shard: Shard, index: str) -> int | UserError | OSError:
    """Writes the listing of a shard, if it is not there yet; its images, or why there is none."""
    try:
        size = _size(f"{index}/{shard.listing}")
        if size is None:
            content = _entries(shard).tobytes()
            _write(f"{index}/{shard.listing}", content)
            size = len(content)
        return _images(size)
    except (UserError, OSError) as error:
        return error
    except (tarfile.TarError, EOFError, ValueError) as error:
        return UserError(f"{shard.path}: is not a whole, uncompressed tar file ({error})")


def _entries(shard: Shard) -> np.ndarray:
    """The listing of a tar file, read through. Raises UserError, TarError, EOFError or ValueError if it is damaged."""
    with _open(shard) as opened, tarfile.open(fileobj=(file := _Headers(opened)), mode="r:") as archive:
        entries, last = [], None
        for member in archive:
            archive.members = []  # It would keep every member.
            if not 0 <= member.size < _LARGEST:
                raise UserError(f"{shard.path}: is damaged, {member.name} would have {member.size} bytes")
            if member.offset_data + member.size > shard.size:
                raise UserError(f"{shard.path}: is truncated within {member.name}")
            folder, _, name = member.name.rpartition("/")
            key, _, extension = name.partition(".")
            if not member.isfile() or not key or extension.lower() not in IMAGES or (folder, key) == last:
                continue
            last = folder, key
            entries.append((member.offset_data // _BLOCK, member.size))
        file.seek(archive.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):  # Python's reader ends as if all were well.
            raise UserError(f"{shard.path}: is truncated, or damaged at byte {archive.offset}")
    return np.array(entries, ENTRY)


class _Headers:
    """A file of which headers are read, and no more than a header can have."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _beside(folder: str) -> str:
    return f"{folder}/.sak_jax_index"


def _cache(folder: str) -> str:
    root = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    where = folder if is_remote(folder) else os.path.abspath(folder)
    return f"{root}/sak_jax/shards/{hashlib.sha256(where.encode()).hexdigest()[:16]}"


def _read_listing(shard: Shard, start: int, size: int) -> bytes:
    """A part of a shard's listing; one that lies on `gs://` is fetched whole when it is first needed."""
    beside = f"{_beside(shard.folder)}/{shard.listing}"
    if not is_remote(beside):
        try:
            return _read(beside, start, size)
        except (FileNotFoundError, NotADirectoryError):
            return _read(f"{_cache(shard.folder)}/{shard.listing}", start, size)
    local = f"{_cache(shard.folder)}/{shard.listing}"
    if _size(local) is None:
        _write(local, epath.Path(beside).read_bytes())
    return _read(local, start, size)


def _writable(folder: str) -> bool:
    try:
        _write(f"{folder}/README", _README.encode())
    except OSError:
        return False
    return True


def _write(path: str, content: bytes) -> None:
    """Writes a file whole, whoever else does so at the same time."""
    if is_remote(path):
        epath.Path(path).write_bytes(content)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # Else a power cut may leave a part of it, which counts as fewer images.
    os.replace(temporary, path)


def _size(path: str) -> int | None:
    """The bytes of a file; None if there is none."""
    try:
        return epath.Path(path).stat().length if is_remote(path) else os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _list_folder(folder: str) -> dict[str, tuple[int, str]]:
    """Size and version by name of what lies in a folder; nothing if there is none."""
    if not is_remote(folder):
        found = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # A link to nothing.
                        found[entry.name] = entry.stat().st_size, str(entry.stat().st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise UserError(f"{folder} cannot be read ({error.strerror})") from error
        return found
    system, path = fsspec.core.url_to_fs(folder)
    try:
        found = system.ls(path, detail=True, refresh=True)
    except FileNotFoundError:
        return {}
    system.invalidate_cache(path)  # It would keep what is large and of no more use.
    return {os.path.basename(each["name"]): (each["size"], str(each.get("generation"))) for each in found}


def _open(shard: Shard) -> BinaryIO:
    """A tar file to be read through."""
    if not is_remote(shard.path):
        return open(shard.path, "rb")
    system, path = fsspec.core.url_to_fs(shard.path)
    return system.open(path, "rb", block_size=_STREAM, cache_type="readahead")


def _read(path: str, start: int, size: int) -> bytes:
    """A range of a file, by one request."""
    if is_remote(path):
        system, path = fsspec.core.url_to_fs(path)
        return system.cat_file(path, start=start, end=start + size)
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), size, start)
