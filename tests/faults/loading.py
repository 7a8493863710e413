"""A loader with two worker processes, to be killed: `python -m tests.faults.loading [megabytes of a sample]`."""

import multiprocessing
import sys
import time

import numpy as np

from sak_jax.data import pipeline
from sak_jax.errors import EndedEarly


class Large:
    """Samples of so many bytes."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return {"id": str(index), "image": np.full(self.size, index % 251, np.uint8)}


def same(sample, rng):
    """A transform that changes nothing."""
    return sample


def main():
    """Prints the workers' process ids, then reads for ever."""
    size = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1_000_000
    batches = pipeline.train_batches(Large(size), same, 4, seed=0, workers=2)
    try:
        for _ in range(2):  # One of each worker, so that both have got as far as to leave signals to their parent.
            next(batches)
        print(batches._memory.prefix, *(child.pid for child in multiprocessing.active_children()), flush=True)
        while True:
            next(batches)
            time.sleep(0.05)
    except EndedEarly as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
