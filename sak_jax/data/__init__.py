"""Tasks, transforms, the input pipeline, and one module a data set; `create_source` makes the one a config names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from sak_jax.errors import UserError

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
    return DATASETS[name](data, split, tuple(tasks), tuple(image_size))


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
    from sak_jax.data.sets import shards

    return shards.create(split, tasks, image_size, root=str(_root(data)), **_options(data, image_size))


def _files_or_prepared(dataset: type, data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    """ArrayRecord if `data.root` holds it, else the original files."""
    from sak_jax.data.arrayrecord import Prepared, find_prepared

    prepared = find_prepared(_root(data))
    if prepared is not None:
        return Prepared(prepared, split, tasks, **_options(data, image_size))
    return dataset(_root(data), split, tasks, **_options(data, image_size))


DATASETS: dict[str, Callable[[Mapping, str, Sequence[str], Size], Source]] = {
    "rooms": _rooms,
    "nyud": _nyud,
    "pascal_context": _pascal_context,
    "imagenet": _imagenet,
    "shards": _shards,
    "camvid": _camvid,
    "folder": _folder,
}
"""A new data set is one module and one entry here; modules are imported when they are asked for."""


def _root(data: Mapping) -> str:
    return data.get("root") or f"data/{data['name']}"


def _options(data: Mapping, image_size: Size) -> dict:
    return {"on_error": data.get("on_error", "raise"), "fit": image_size if data.get("resize", False) else None}
