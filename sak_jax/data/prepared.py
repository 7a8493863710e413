"""Which prepared data sets lie in a folder; needs neither TFDS nor TensorFlow."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from sak_jax.data import files, listing
from sak_jax.data.source import FileSource
from sak_jax.errors import UserError
from sak_jax.paths import check_remote, is_remote

INFO = "dataset_info.json"


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a data set is turned into ArrayRecord, and found again.

    Attributes:
      name: of the data set.
      dataset: the class that reads the original files, of (root, split, tasks, on_error).
      tasks: labels that are stored.
      image_format: of the images' files, "png" or "jpeg".
      version: of what is written.
      splits: written if nothing is said.
      samples_per_shard: of some 150 MB.
      oldest: the first version whose labels are those of today.
      release_notes: by version.
      also: other names that TFDS gives this data set.
    """

    name: str
    dataset: Callable[..., FileSource]
    tasks: tuple[str, ...]
    image_format: str
    version: str
    splits: tuple[str, ...]
    samples_per_shard: int
    oldest: tuple[int, ...] = ()
    release_notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    also: tuple[str, ...] = ()


_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Found(NamedTuple):
    """A prepared data set: its version compares as numbers do."""

    version: tuple[int, ...]
    name: str
    directory: epath.Path

    def __str__(self) -> str:
        version = ".".join(map(str, self.version))
        return f"{self.name} {version}" if self.name else f"{self.directory / INFO}, which is not ours or damaged,"


def find(root: os.PathLike | str, names: Sequence[str] = ()) -> epath.Path | None:
    """The newest prepared data set of one of `names` (of any, where none are given) at or below `root`, or None."""
    found = [each for each in list_all(root) if each.name in names or each.name and not names]
    return max(found).directory if found else None


def list_all(root: os.PathLike | str) -> list[Found]:
    """Every prepared data set at `root`, one folder below, or two as TFDS lays them out (`NAME/VERSION`)."""
    check_remote(root)
    root = epath.Path(root).expanduser()
    return [_read(folder) for folder in _folders(root) if (folder / INFO).is_file()] if root.is_dir() else []


def _folders(root: epath.Path) -> Iterator[epath.Path]:
    yield root
    for name, is_folder in listing.entries(root):
        if is_folder and not name.startswith("."):
            yield root / name
            yield from (root / name / version for version in _names(root / name) if _VERSION.fullmatch(version))


def _names(folder: epath.Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if is_remote(folder) else os.listdir(folder)


def _read(folder: epath.Path) -> Found:
    """What lies in a folder with metadata; another program's, or damaged, they are the data set ""."""
    try:
        info = json.loads(files.read_bytes(folder / INFO))
        name, version = info["name"], info["version"]
        numbers = version if _VERSION.fullmatch(version) else "0.0.0"
    except (UserError, ValueError, KeyError, TypeError, RecursionError):
        return Found((), "", folder)
    return Found(tuple(int(number) for number in numbers.split(".")), str(name), folder)


def open_source(preparation: Preparation, root: str, split: str, tasks: Sequence[str], **options) -> FileSource:
    """ArrayRecord of this data set if `root` holds it, else the original files.

    Raises:
      UserError: neither is there, labels of an old version, and what either finds wrong.
    """
    held = list_all(root)
    asked = [found for found in held if found.name in (preparation.name, *preparation.also)]
    if not asked:
        try:
            return preparation.dataset(root, split, tasks, **options)
        except UserError as error:
            others = f"; it holds {', '.join(map(str, held))} prepared, not {preparation.name}" if held else ""
            raise UserError(f"{error}{others}") from error
    newest = max(asked)
    if newest.version < preparation.oldest:
        raise UserError(f"{newest.directory}: is {newest}, whose labels were others: prepare the data again")
    from sak_jax.data.arrayrecord import Prepared  # TFDS takes a second to import.

    return Prepared(newest.directory, split, tasks, **options)
