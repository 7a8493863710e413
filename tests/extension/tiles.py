"""A data set of one's own: coloured tiles, and how far each pixel's tile has moved."""

import numpy as np

from sak_jax.keys import Key

KEYS = {"samples": Key(8, above=0), "largest": Key(3.0, above=0)}


class Tiles:
    def __init__(self, split, samples, largest, size):
        self.split, self.samples, self.largest, self.size = split, samples, largest, size

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        rng = np.random.default_rng([("train", "val").index(self.split), int(index)])
        tiles = tuple(-(-side // 8) for side in self.size)
        whole = lambda x: np.kron(x, np.ones((8, 8, 1)))[: self.size[0], : self.size[1]]  # noqa: E731
        moved = rng.uniform(-self.largest, self.largest, (*tiles, 2))
        image = np.concatenate([moved / self.largest * 127 + 128, rng.uniform(0, 255, (*tiles, 1))], axis=-1)
        return {
            "id": f"{self.split}_{index}",
            "image": whole(image).astype(np.uint8),
            "flow": whole(moved).astype(np.float32),
        }


def create(split, tasks, image_size, *, samples, largest, **values):
    return Tiles(split, samples, largest, image_size)
