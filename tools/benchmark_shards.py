"""Start-up, memory and shuffle of stage 1 on tar shards, by simulation: 1e6 to 1e9 images in made-up shards.

python tools/benchmark_shards.py [--images=1000000,1000000000] [--images_per_shard=10000] [--output=FILE.json]

Shards and their listings are files of the right sizes without content, so that 1e9 images take some 100 MB of disk.
What is measured is all that training does before it reads an image. Each size has a process of its own. Columns:

  start     seconds until the data source is there, its shards having been listed before
  memory    MB that it takes
  worker    MB that are sent to each worker process
  resume    milliseconds until the first image after a restart in the middle of an epoch
  order     microseconds for the next image of the shuffled epoch and its place in its shard
  shards    different shards in a batch of 1024, and the number expected of independent draws
  r         correlation of the places of consecutive images, and that under Grain's shuffle alone
"""

import itertools
import json
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grain
import numpy as np
from tqdm import tqdm

from sak_jax import cli, paths
from sak_jax.data import tars
from sak_jax.data.sets.shards import Shards

BATCH = 1024
BATCHES = 8
KILOBYTES = 110
"""Of an image; decides the apparent size of a shard."""


def write_made_up(folder: Path, images: int, images_per_shard: int) -> None:
    """Shards without content, and their listings."""
    (folder / ".sak_jax_index").mkdir(parents=True)
    counts = [images_per_shard] * (images // images_per_shard)
    counts += [images % images_per_shard] if images % images_per_shard else []
    for number, count in enumerate(tqdm(counts, f"{images:.0e} images", disable=None)):
        with open(folder / f"{number:06d}.tar", "wb") as file:
            file.truncate(count * KILOBYTES * 1000)
    for shard in tars.find(str(folder)):
        with open(folder / ".sak_jax_index" / shard.listing, "wb") as file:
            file.truncate(shard.size // (KILOBYTES * 1000) * tars.ENTRY.itemsize)


def memory() -> float:
    """MB that this process has in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1e3


class Places:
    """The numbers of images among those of all shards, found as training finds them: shard, listing, offset."""

    def __init__(self, source: Shards):
        self._images = source.ids

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> int:
        shard, number = self._images.locate(index)
        shard.locate(number)
        return self._images.place(index)


def shuffled(source: Sequence, count: int) -> Iterator[int]:
    """The samples after the middle of a shuffled epoch."""
    dataset = grain.MapDataset.source(source).seed(0).shuffle().repeat()[len(source) // 2 :]
    return itertools.islice(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)), count)


def correlation(places: Sequence[int]) -> float:
    """Of each place and the next."""
    return float(np.corrcoef(places[1:], places[:-1])[0, 1])


def measure(folder: str, images_per_shard: int) -> dict[str, float]:
    """The figures of one size."""
    before = memory()
    start = time.perf_counter()
    source = Shards(folder, "train")
    figures = {"images": len(source), "start": time.perf_counter() - start, "memory": memory() - before}
    figures["worker"] = len(pickle.dumps(source)) / 1e6
    start = time.perf_counter()
    places = shuffled(Places(source), BATCH * BATCHES)
    first = next(places)
    figures["resume"] = 1e3 * (time.perf_counter() - start)
    start = time.perf_counter()
    places = np.array([first, *places])
    figures["order"] = 1e6 * (time.perf_counter() - start) / len(places)
    batches = np.reshape(places // images_per_shard, (BATCHES, BATCH))
    figures["shards"] = float(np.mean([len(set(batch)) for batch in batches]))
    shards = -(-len(source) // images_per_shard)
    figures["shards_expected"] = shards * (1 - (1 - 1 / shards) ** BATCH)
    figures["r"] = correlation(places)
    figures["r_grain"] = correlation(np.array(list(shuffled(range(len(source)), len(places)))))
    return figures


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--images", default="1000000,10000000,100000000,1000000000", help="comma-separated numbers")
    parser.add_argument("--images_per_shard", type=cli.count, default=10_000)
    parser.add_argument("--output", metavar="FILE.json", help="the figures as JSON too")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    flags = parser.parse_args(argv)
    output = None if flags.output is None else paths.check_output(flags.output, force=flags.force)
    try:
        sizes = [int(images) for images in flags.images.split(",")]
    except ValueError:
        parser.error(f"--images={flags.images} must be whole numbers, separated by commas")
    if min(sizes) <= 0:
        parser.error(f"--images={flags.images} must be positive")
    rows = []
    for images in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_made_up(Path(folder), images, flags.images_per_shard)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (folder, flags.images_per_shard)))
    print("images     start s  memory MB  worker MB  resume ms  order us     shards (expected)    r  (Grain alone)")
    for row in rows:
        print(
            f"{row['images']:<10.3g} {row['start']:7.2f} {row['memory']:10.1f} {row['worker']:10.2f} "
            f"{row['resume']:10.1f} {row['order']:9.0f} {row['shards']:10.1f} ({row['shards_expected']:.1f}) "
            f"{row['r']:8.3f} ({row['r_grain']:.3f})"
        )
    if output is not None:
        paths.write_text(output, json.dumps(rows, indent=2))


if __name__ == "__main__":
    sys.exit(main())
