"""Images in tar shards of WebDataset's layout, without labels; local or `gs://`, for data that outgrow ImageNet.

    --config.data.name=shards --config.data.root=gs://bucket/laion,gs://bucket/imagenet/train-*.tar

`data.root` names one or several places, separated by commas: folders of `*.tar`, or patterns. `{split}` in it stands
for "train" or "val". A member `KEY.EXTENSION` (the key ends at the first dot of the file's name) with an extension of
`tars.IMAGES` is a sample; other members, hidden files and a key's second image are passed over.

Shards are read through once, to list where their images lie (see `tars`); after that an image is one read of one range.
Memory grows with the number of shards, not with that of images.
"""

import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
from grain.experimental import index_shuffle

from sak_jax.data import files, tars
from sak_jax.data.source import FileSource, join
from sak_jax.errors import UserError
from sak_jax.paths import check_remote

logger = logging.getLogger(__name__)

LIMIT = 2**32
"""So many images can be shuffled."""

# Grain shuffles in 4 rounds, after which the places of neighbours are still correlated (0.55 at 1e9 images).
_ROUNDS = 8


class Shards(FileSource):
    """A Grain random access data source of images in tar shards, in an order that is scattered over all of them.

    Args:
      root: the places described above.
      split: "train" or "val".
      tasks: none; there are no labels.
      on_error: "raise", or "skip" damaged images, and damaged shards whole.

    Raises:
      UserError: no shards or images, damaged or unreadable shards (all of them together), a task, a split that `root`
        does not tell apart.
    """

    def __init__(
        self,
        root: os.PathLike | str,
        split: str,
        tasks: Sequence[str] = (),
        on_error: str = "raise",
    ):
        if tasks:
            raise UserError(f"tar shards have no labels for {tasks[0]!r}: they serve stage 1 alone")
        root = os.fspath(root)
        images = Images(_count(_find(root, split), on_error))
        if not len(images):
            raise UserError(f"data.root={root!r}: no member is an image, KEY.{', KEY.'.join(tars.IMAGES)}")
        if len(images) > LIMIT:
            raise UserError(f"data.root={root!r}: {len(images)} images are more than the {LIMIT} that can be shuffled")
        super().__init__(f"shards {split}", images, (), on_error)

    def _load(self, index: int) -> dict[str, np.ndarray]:
        shard, number = self.ids.locate(index)
        name, content = shard.read(number)
        return {"image": files.decode_image(content, name)}

    def image_bytes(self, index: int) -> bytes:
        """The image's file as it is."""
        shard, number = self.ids.locate(index)
        return shard.read(number)[1]


class Images(Sequence):
    """The images of shards as `SHARD/NUMBER`, in a scattered order that is always the same.

    Args:
      counts: the number of images of each shard.
    """

    def __init__(self, counts: Mapping[tars.Shard, int]):
        self._shards = list(counts)
        self._ends = np.cumsum(np.array(list(counts.values()), np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._shards else 0

    def __getitem__(self, index: int) -> str:
        shard, number = self.locate(index)
        return f"{shard.path}/{number}"

    def place(self, index: int) -> int:
        """The image's number among those of all shards, one after another. Raises IndexError beyond the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index_shuffle(int(index), max_index=len(self) - 1, seed=0, rounds=_ROUNDS)

    def locate(self, index: int) -> tuple[tars.Shard, int]:
        """The shard of an image, and its number among those of the shard."""
        place = self.place(index)
        shard = int(np.searchsorted(self._ends, place, side="right"))
        return self._shards[shard], place - (int(self._ends[shard - 1]) if shard else 0)


def _find(root: str, split: str) -> list[tars.Shard]:
    """The shards of all places. Raises UserError: none, one named twice, a split without `{split}`."""
    shards = []
    for place in (part.strip() for part in root.split(",")):
        if split != "train" and "{split}" not in place:
            raise UserError(f"data.root={place!r}: serves training alone, as there is no {{split}} in it")
        place = place.replace("{split}", split)
        check_remote(place)
        shards += tars.find(place)
    known = set()
    for shard in shards:
        if shard.path in known:
            raise UserError(f"data.root={root!r}: names {shard.path} more than once")
        known.add(shard.path)
    return shards


def _count(shards: Sequence[tars.Shard], on_error: str) -> dict[tars.Shard, int]:
    """The number of images of each shard; damaged shards raise UserError, or are left out."""
    counts, damaged = {}, {}
    for folder in dict.fromkeys(shard.folder for shard in shards):
        found = tars.count_images(folder, [shard for shard in shards if shard.folder == folder])
        counts |= found[0]
        damaged |= found[1]
    if damaged and on_error != "skip":
        raise UserError(f"{join(damaged.values())}: replace them, or data.on_error=skip")
    for problem in damaged.values():
        logger.warning("skipped: %s", problem)
    return counts


KEYS = {}


def create(split: str, tasks: Sequence[str], image_size: tuple[int, int], *, root: str, **values) -> Shards:
    """The data source of a recipe."""
    return Shards(root, split, tasks, **values)
