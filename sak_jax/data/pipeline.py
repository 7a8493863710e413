"""From a data source to batches: shuffling, transforms, batching, processes and hosts, on Grain.

What batch k holds depends on the source, the transform, the seed and the global batch size alone: not on threads,
workers, prefetching or the number of hosts. The state of an iterator is therefore the number of batches taken from it.
"""

import dataclasses
import functools
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from sak_jax import processes
from sak_jax.data import Source
from sak_jax.data import workers as worker_processes
from sak_jax.data.transforms import Transform
from sak_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Share:
    """A process's rows of every global batch: consecutive ones.

    Attributes:
      batch_size: of the global batch.
      index, count: which of how many processes.
    """

    batch_size: int
    index: int
    count: int

    @property
    def rows(self) -> int:
        """Of a batch, that are this process's."""
        return self.batch_size // self.count

    def place(self, number: int) -> int:
        """The place among all samples of the process's sample of that number."""
        batch, row = divmod(number, self.rows)
        return batch * self.batch_size + self.index * self.rows + row


class Batches(grain.DatasetIterator):
    """An iterator over the batches of one process, with `get_state` and `set_state` as Grain's (and so Orbax's).

    `next` raises the UserError of a source or a transform as it was raised, from threads and worker processes alike.
    `len` is the number of batches in all: for training so many that there is no end.

    Attributes:
      images: samples of the source.
    """

    def __init__(self, samples: grain.MapDataset, share: Share, images: int, threads: int, workers: int, prefetch: int):
        super().__init__()
        self.images = images
        self._samples = samples
        self._share = share
        self._threads = threads or processes.cpus()
        self._workers = workers
        self._prefetch = prefetch
        self._next_batch = 0
        self._batches: Iterator | None = None
        self._memory = worker_processes.SharedMemory() if workers > 0 else None

    def __len__(self) -> int:
        return len(self._samples) // self._share.batch_size

    def __next__(self) -> dict[str, np.ndarray]:
        if self._next_batch >= len(self):
            raise StopIteration
        batch = self._next_of_workers() if self._workers > 0 else self._next_of_threads()
        self._next_batch += 1
        return batch

    def _next_of_threads(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            worker_processes.one_thread()
            # A thread makes one sample after another, whichever batch they are of.
            ahead = self._prefetch and max(self._threads, self._prefetch * self._share.rows)
            options = grain.ReadOptions(num_threads=self._threads if ahead else 0, prefetch_buffer_size=ahead)
            samples = grain.MapDataset.range(self._next_batch * self._share.rows, len(self) * self._share.rows)
            samples = samples.map(functools.partial(_sample_of, self._samples, self._share))
            self._batches = iter(samples.to_iter_dataset(options).batch(self._share.rows, drop_remainder=True))
        return next(self._batches)

    def _next_of_workers(self) -> dict[str, np.ndarray]:
        try:
            if self._batches is None:
                batches = self._samples.batch(self._share.rows, drop_remainder=True)
                batches = batches[self._share.index :: self._share.count][self._next_batch :]
                with processes.starting():  # By threads of Grain's, once it is asked for a batch.
                    self._batches = _start(batches, self._workers, self._prefetch, self._memory)
                    return _copied(next(self._batches))
            return _copied(next(self._batches))
        except (OSError, RuntimeError) as error:
            reason = worker_processes.explained(error)
            if reason is None:
                raise
            self._stop()
            self._memory.free()
            raise reason from error

    def get_state(self) -> dict[str, int]:
        """The number of batches taken."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues as after `state["next_batch"]` batches, on any number of workers and hosts."""
        self._stop()
        self._next_batch = int(state["next_batch"])

    def close(self) -> None:
        """Ends threads and worker processes. Idempotent; a later `next` starts them again."""
        self._stop()

    def _stop(self) -> None:
        if self._batches is not None:
            batches, self._batches = self._batches, None
            batches.close()

    def __str__(self) -> str:
        return f"Batches(next_batch={self._next_batch})"


def train_batches(
    source: Source | tuple[Source, ...],
    transform: Transform,
    batch_size: int,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Endless shuffled batches, every epoch in a new order; epochs run on through batches.

    Args:
      source: samples by index (a Grain random access data source); of a tuple of them each gives an equal
        share of the samples, in turn, and has epochs of its own.
      transform: function of (sample, generator); the generator depends on the seed and the sample's place in the order.
      batch_size: samples of the global batch.
      seed: decides order and augmentation.
      process_index: which process this is, of
      process_count: so many, each of which gets its consecutive slice of every global batch.
      threads: that read and transform, one sample each at a time; 0 is one a processor.
      workers: processes that do so instead, one batch each at a time; 0 is threads.
      prefetch: batches made ahead (with workers: by each of them); 0 makes them when asked for.

    Returns:
      An iterator over dicts of arrays [batch_size / process_count, ...]; `id` is dropped.

    Raises:
      UserError: the source is empty, or the batch cannot be shared evenly.
    """
    sources = source if isinstance(source, tuple) else (source,)
    (share,) = {_share(each, batch_size, process_index, process_count) for each in sources}
    seeds = [seed] if len(sources) == 1 else np.random.SeedSequence(seed).generate_state(len(sources)).tolist()
    shares = [
        grain.MapDataset.source(each).seed(own).shuffle().repeat().random_map(transform).map(_arrays)
        for each, own in zip(sources, seeds, strict=True)
    ]
    samples = shares[0] if len(shares) == 1 else grain.MapDataset.mix(shares)
    return Batches(samples, share, sum(map(len, sources)), threads, workers, prefetch)


def evaluation_batches(
    source: Source,
    transform: Transform,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Every sample once, in order, in full batches; every process gets the same number of batches.

    Arguments are those of `train_batches`. Batches also carry `index`, int32 [b], the sample's place in the source,
    and `mask`, bool [b], which is False for rows that only fill the last batch (they repeat the last sample) and for
    samples that could not be read under `on_error="skip"`.

    Raises:
      UserError: the source is empty, or the batch cannot be shared evenly.
    """
    share = _share(source, batch_size, process_index, process_count)
    filled = -(-len(source) // batch_size) * batch_size
    samples = grain.MapDataset.range(filled).map(functools.partial(_evaluation_sample, source, transform))
    return Batches(samples, share, len(source), threads, workers, prefetch)


def _share(source: Source, batch_size: int, index: int, count: int) -> Share:
    if len(source) == 0:
        raise UserError("the data source holds no samples: check the split file and data.root")
    if batch_size <= 0 or batch_size % count:
        raise UserError(f"batch_size {batch_size} must be a positive multiple of the {count} processes")
    return Share(batch_size, index, count)


def _copied(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Out of shared memory, which would otherwise live, and complain, until the very end.
    return {name: np.array(value) for name, value in batch.items()}


def _sample_of(samples: grain.MapDataset, share: Share, number: int) -> dict[str, np.ndarray]:
    return samples[share.place(int(number))]


def _arrays(sample: dict) -> dict[str, np.ndarray]:
    return {key: value for key, value in sample.items() if key not in ("id", "skipped")}


def _evaluation_sample(source: Source, transform: Transform, index: int) -> dict[str, np.ndarray]:
    real = min(int(index), len(source) - 1)
    sample = transform(source[real], None)
    mask = int(index) == real and not sample.get("skipped", False)
    return _arrays(sample) | {"mask": np.array(mask), "index": np.array(real, np.int32)}


def _start(
    dataset: grain.MapDataset, workers: int, prefetch: int, memory: worker_processes.SharedMemory
) -> grain.DatasetIterator:
    # Batches are made before they are dealt out to the workers, so that their number changes nothing.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read flags; used as a library, nobody has parsed them.
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, prefetch))
    iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return iter(iterable.mp_prefetch(options, worker_init_fn=memory.starter()))
