"""Tasks, transforms, the input pipeline, and one module a data set; `create_source` makes the one a config names."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from sak_jax.errors import UserError
from sak_jax.keys import Key, Keys

Size = tuple[int, int]


@runtime_checkable
class Source(Protocol):
    """Samples by index: what Grain calls a random access data source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


def create_source(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    """The data source that `config.data` names.

    Args:
      data: `config.data`. `name` is a key of `DATASETS`; the other keys are read by the data set: `root`
        (`data/<name>` if empty), `on_error` ("raise" or "skip"), `resize` (shrink larger images to fit `image_size`)
        and those of its own.
      split: "train" or "val".
      tasks: names of the labels wanted; none for stage 1.
      image_size: height and width that samples will be brought to.

    Returns:
      A Grain random access data source.

    Raises:
      UserError: an unknown name, and whatever the data set finds wrong at the start.
    """
    name = data.get("name", "")
    if name not in DATASETS:
        raise UserError(f"data.name={name!r} is unknown; the data sets are {', '.join(DATASETS)}")
    return DATASETS[name].create(data, split, tuple(tasks), tuple(image_size))


def keys(name: str) -> Keys:
    """The keys of `config.data` that are a data set's own.

    Raises:
      UserError: an unknown name.
    """
    if name not in DATASETS:
        raise UserError(f"data.name={name!r} is unknown; the data sets are {', '.join(DATASETS)}")
    return DATASETS[name].keys


def _rooms(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    from sak_jax.data.rooms.source import Rooms

    length = data.get(f"{split}_length", 0)
    if length <= 0:
        raise UserError(f"data.{split}_length={length} must be the positive number of scenes of the split {split!r}")
    return Rooms(split, length, size=image_size, seed=data.get("seed", 0), tasks=tasks, cache=data.get("cache", False))


def _camvid(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    from sak_jax.data.sets.camvid import CamVid

    return CamVid(_root(data), split, tasks, **_options(data, image_size))


def _folder(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    from sak_jax.data.sets.folder import Folder

    if split not in data:
        raise UserError(f"data.{split} is missing: for data.name='folder' it holds the patterns of images and labels")
    return Folder(_root(data), data[split], tasks, data.get("encodings", {}), **_options(data, image_size))


def _nyud(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    from sak_jax.data.sets.nyud import NYUD

    return _files_or_prepared(NYUD, data, split, tasks, image_size)


def _pascal_context(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    from sak_jax.data.sets.pascal_context import PASCALContext

    return _files_or_prepared(PASCALContext, data, split, tasks, image_size)


def _imagenet(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    from sak_jax.data.sets.imagenet import ImageNet

    return _files_or_prepared(ImageNet, data, split, tasks, image_size)


def _shards(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    from sak_jax.data.sets.shards import Shards

    return Shards(_root(data), split, tasks, **_options(data, image_size))


_PREPARED = {"imagenet": ("imagenet", "imagenet2012")}
"""Names that TFDS knows a data set by, where not by our own."""
_OLDEST = {"pascal_context": (2, 0, 0)}
"""Versions before which labels were others."""


def _files_or_prepared(dataset: type, data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    """ArrayRecord of this data set if `data.root` holds it, else the original files."""
    from sak_jax.data import prepared

    root, name = _root(data), data["name"]
    held = prepared.list_all(root)
    asked = [found for found in held if found.name in _PREPARED.get(name, (name,))]
    if not asked:
        try:
            return dataset(root, split, tasks, **_options(data, image_size))
        except UserError as error:
            others = f"; it holds {', '.join(map(str, held))} prepared, not {name}" if held else ""
            raise UserError(f"{error}{others}") from error
    newest = max(asked)
    if newest.version < _OLDEST.get(name, ()):
        raise UserError(f"{newest.directory}: is {newest}, whose labels were others: prepare the data again")
    from sak_jax.data.arrayrecord import Prepared  # TFDS takes a second to import.

    return Prepared(newest.directory, split, tasks, **_options(data, image_size))


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set that a recipe can name.

    Attributes:
      create: makes a split's source from `config.data`, the split, the labels wanted and the image size.
      keys: those of `config.data` that it reads besides name, root, workers, on_error and resize.
    """

    create: Callable[[Mapping, str, Sequence[str], Size], Source]
    keys: Keys = dataclasses.field(default_factory=dict)


_ROOMS_KEYS = {
    "train_length": Key(0, at_least=0),  # Scenes.
    "val_length": Key(0, at_least=0),
    "seed": Key(0, at_least=0, at_most=2**32 - 1),
    "cache": Key(False, runtime=True),  # Keep what was rendered in memory.
}
_FOLDER_KEYS = {
    "train": Key({}, open=True),  # Patterns of images and labels, see `sak_jax.data.sets.folder`.
    "val": Key({}, open=True),
    "encodings": Key({}, open=True),
}

DATASETS: dict[str, DataSet] = {
    "rooms": DataSet(_rooms, _ROOMS_KEYS),
    "nyud": DataSet(_nyud),
    "pascal_context": DataSet(_pascal_context),
    "imagenet": DataSet(_imagenet),
    "shards": DataSet(_shards),
    "camvid": DataSet(_camvid),
    "folder": DataSet(_folder, _FOLDER_KEYS),
}
"""A new data set is one module and one entry here, or a call of `register`; modules are imported when asked for."""


def register(
    name: str, create: Callable[[Mapping, str, Sequence[str], Size], Source], keys: Keys | None = None
) -> None:
    """Makes a data set known under a name, so that a recipe can say `data.name = name`.

    Args:
      name: of the data set.
      create: see `DataSet`.
      keys: see `DataSet`.
    """
    DATASETS[name] = DataSet(create, keys or {})


def _root(data: Mapping) -> str:
    return data.get("root") or f"data/{data['name']}"


def _options(data: Mapping, image_size: Size) -> dict:
    return {"on_error": data.get("on_error", "raise"), "fit": image_size if data.get("resize", False) else None}
