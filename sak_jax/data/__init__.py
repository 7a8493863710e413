"""Data sets by name: samples by index, with image and labels as NumPy arrays at their original size.

A data set is a module with the class, `KEYS` (its keys in a recipe, with their defaults) and `create`; or what a recipe
registers. Nothing here knows what the labels are used for.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence

from sak_jax.data.source import Source
from sak_jax.errors import UserError
from sak_jax.keys import Key, Keys

__all__ = ["DATASETS", "KEYS", "Dataset", "Source", "create_source", "keys", "register"]

Size = tuple[int, int]

KEYS = {
    "name": Key(""),
    "root": Key("", runtime=True),  # The folder; data/NAME if empty.
    "threads": Key(0, at_least=0, runtime=True),  # That read and transform samples; 0 is one a processor.
    "workers": Key(0, at_least=0, runtime=True),  # Processes that do so instead, whole batches each; 0 is threads.
    "prefetch": Key(2, at_least=0, runtime=True),  # Batches made ahead on the host (with workers: by each of them).
    # Or "skip": leave out samples that can't be read, count and report them.
    "on_error": Key("raise", choices=("raise", "skip"), runtime=True),
    "resize": Key(False),  # Shrink larger images to fit into image_size; stage 1 crops from them as they are.
    "check": Key("full", choices=("full", "fast"), runtime=True),  # Read all labels at the start, or headers alone.
}
"""Keys of every data set, with their defaults and ranges."""

READING = ("threads", "workers", "prefetch")
"""Those that say how a run reads its batches, whatever they are of."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that a recipe can name.

    Attributes:
      create: function of (split, tasks, image_size, **values) that gives a `Source`. Values are `root`, `on_error`
        and those of `keys`.
      keys: keys of its own under `config.data`, with their defaults and ranges.
    """

    create: Callable[..., Source]
    keys: Keys


_MODULES = {
    "rooms": "rooms.source",
    "nyud": "sets.nyud",
    "pascal_context": "sets.pascal_context",
    "imagenet": "sets.imagenet",
    "shards": "sets.shards",
    "camvid": "sets.camvid",
    "folder": "sets.folder",
}
DATASETS: dict[str, Dataset | str] = dict(_MODULES)
"""By name; modules are imported when they are asked for."""


def register(name: str, create: Callable[..., Source], keys: Mapping[str, object] | None = None) -> None:
    """Makes a data set known under `name`; the fields of `Dataset` say what is wanted.

    `keys` may give plain defaults in place of `Key`s, which then have no range.

    Raises:
      UserError: the name is one of the package's own, or a key is one of `KEYS`.
    """
    if name in _MODULES or not name:
        raise UserError(f"a data set of the name {name!r} is there already; choose another")
    both = sorted(set(keys or ()) & set(KEYS))
    if both:
        raise UserError(f"the data set {name!r}: the key {both[0]!r} is one of every data set; choose another")
    wrapped = {key: value if isinstance(value, Key) else Key(value) for key, value in (keys or {}).items()}
    DATASETS[name] = Dataset(create, wrapped)


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise UserError(f"data.name={name!r} is unknown; the data sets are {', '.join(DATASETS)}")
    found = DATASETS[name]
    if isinstance(found, str):
        module = importlib.import_module(f"sak_jax.data.{found}")
        found = DATASETS[name] = Dataset(module.create, module.KEYS)
    return found


def keys(name: str) -> Keys:
    """All keys under `config.data` of a data set, with their ranges; those of every one where there is no name.

    Raises:
      UserError: an unknown name.
    """
    return KEYS | dict(_dataset(name).keys) if name else KEYS


def create_source(data: Mapping, split: str, tasks: Sequence[str], image_size: Size) -> Source:
    """The data source that a recipe names.

    Args:
      data: values of `keys(data["name"])`; what is missing has its default.
      split: "train" or "val".
      tasks: names of the labels wanted; none for stage 1.
      image_size: height and width that samples will be brought to.

    Returns:
      A Grain random access data source.

    Raises:
      UserError: an unknown name, and whatever the data set finds wrong at the start.
    """
    name = data.get("name", "")
    dataset = _dataset(name)
    values = {key: data.get(key, known.default) for key, known in dataset.keys.items()}
    return dataset.create(
        split,
        tuple(tasks),
        tuple(image_size),
        root=str(data.get("root") or f"data/{name}"),
        on_error=data.get("on_error", "raise"),
        **values,
    )
