"""What the features of the `rooms` committee know: ridge regression from each 8 x 8 pixel block's features.

    python tools/probe_rooms_committee.py

Fitted on 256 scenes of the training split that no teacher was trained on, scored on 64 others. A row a network: the
stem, the teachers, the teachers side by side, and the same architectures untrained.
"""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sak_jax import cli
from sak_jax.data.rooms.source import CLASSES, Rooms
from sak_jax.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from sak_jax.nn.vit import ViT
from sak_jax.teachers import rooms

BLOCK = 8


def block_means(x: np.ndarray) -> np.ndarray:
    """Means over blocks: `[n, H, W, ...]` -> `[n * H / BLOCK * W / BLOCK, ...]`."""
    n, height, width, *rest = x.shape
    x = x.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK, *rest)
    return x.mean((2, 4), dtype=np.float64).reshape(-1, *rest)


def targets(samples: list[dict]) -> dict[str, np.ndarray]:
    """What each block holds, one row a block."""
    stacked = {name: np.stack([s[name] for s in samples]) for name in ("semseg", "depth", "normals", "edge", "sal")}
    normals = block_means(stacked["normals"])
    return {
        "semseg": block_means(np.eye(len(CLASSES), dtype=np.float32)[stacked["semseg"]]),
        "depth": np.log(block_means(stacked["depth"][..., None])),
        "normals": normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6),
        "edge": block_means(stacked["edge"][..., None]),
        "sal": block_means(stacked["sal"][..., None].astype(np.float32)),
    }


def features(vit: ViT, images: np.ndarray) -> np.ndarray:
    """The maps at all taps, resampled to the blocks and side by side, one row a block."""

    @jax.jit
    def run(vit, images):
        grid = images.shape[1] // BLOCK, images.shape[2] // BLOCK
        maps = [jax.image.resize(x, (len(x), *grid, x.shape[-1]), "bilinear") for x in vit(images)]
        maps = jnp.concatenate(maps, axis=-1)
        return maps.reshape(-1, maps.shape[-1])

    return np.concatenate([run(vit, images[k : k + 32]) for k in range(0, len(images), 32)]).astype(np.float64)


def probe(train: np.ndarray, test: np.ndarray, truth: dict, held: dict, penalty: float) -> dict[str, float]:
    """Fits each target linearly on `train`; scores on `test`."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (np.c_[(x - mean) / deviation, np.ones(len(x))] for x in (train, test))
    gram = train.T @ train + penalty * np.eye(train.shape[1])
    out = {name: test @ np.linalg.solve(gram, train.T @ value) for name, value in truth.items()}
    named, label = out["semseg"].argmax(-1), held["semseg"].argmax(-1)
    unions = [(np.sum((named == k) & (label == k)), np.sum((named == k) | (label == k))) for k in range(len(CLASSES))]
    cosine = np.sum(out["normals"] * held["normals"], -1) / np.maximum(np.linalg.norm(out["normals"], axis=-1), 1e-6)
    return {
        "semseg mIoU %": 100 * np.mean([i / u for i, u in unions if u]),
        "depth RMSE m": np.sqrt(np.mean(np.square(np.exp(out["depth"]) - np.exp(held["depth"])))),
        "normals deg": np.degrees(np.mean(np.arccos(np.clip(cosine, -1, 1)))),
        "edge R2": 1 - np.mean(np.square(out["edge"] - held["edge"])) / held["edge"].var(),
        "sal R2": 1 - np.mean(np.square(out["sal"] - held["sal"])) / held["sal"].var(),
    }


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Probe all networks; print a table."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--train", type=cli.count, default=256)
    parser.add_argument("--test", type=cli.count, default=64)
    parser.add_argument("--penalty", type=float, default=100.0)
    args = parser.parse_args(argv)
    source = Rooms("train", args.train + args.test, rooms.IMAGE_SIZE)
    samples = [source[k] for k in range(len(source))]
    images = np.stack([(s["image"] / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD for s in samples])
    truth, held = targets(samples[: args.train]), targets(samples[args.train :])

    networks = {"stem_tiny": rooms.load("stem_tiny")} | {name: rooms.load(name) for name in rooms.BIASES}
    for name in networks.copy():
        networks[f"{name}, untrained"] = ViT(rooms.CONFIGS[name], rngs=nnx.Rngs(0))
    maps = {name: features(vit, images) for name, vit in networks.items()}
    maps["all teachers"] = np.concatenate([maps[name] for name in rooms.BIASES], axis=1)
    rows = {}
    for name, x in maps.items():
        cut = args.train * len(x) // len(samples)
        rows[name] = probe(x[:cut], x[cut:], truth, held, args.penalty)
    columns = list(next(iter(rows.values())))
    print(f"| {'network':20} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in rows.items():
        print(f"| {name:20} | {' | '.join(f'{row[c]:{len(c)}.3f}' for c in columns)} |")


if __name__ == "__main__":
    nnx.set_graph_mode(False)
    nnx.set_graph_updates(False)
    sys.exit(main())
