"""A folder of photographs with labels, as people keep them."""

import numpy as np
import pytest
from PIL import Image


def photographs(root, endings=("jpg",), count=4, size=(48, 64), classes=5):
    """`images/IMG_n.*`, with classes in `semseg/` (8-bit PNG) and depth in `depth/` (16-bit PNG, millimetres)."""
    rng = np.random.default_rng(0)
    for kind in ("images", "semseg", "depth"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    number = 0
    for ending in endings:
        for _ in range(count):
            image = np.kron(rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            label = np.kron(rng.integers(0, classes, (size[0] // 16, size[1] // 16)), np.ones((16, 16))).astype(
                np.uint8
            )
            kind = Image.registered_extensions()[f".{ending.lower()}"]
            Image.fromarray(image).save(root / "images" / f"IMG_{number:04d}.{ending}", format=kind)
            Image.fromarray(label).save(root / "semseg" / f"IMG_{number:04d}.png")
            depth = rng.integers(500, 9000, size).astype(np.uint16)
            Image.fromarray(depth).save(root / "depth" / f"IMG_{number:04d}.png")
            number += 1
    return root


@pytest.fixture
def photos(tmp_path):
    return photographs(tmp_path / "photos")
