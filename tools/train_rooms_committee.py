"""Train a member of the `rooms` committee, or the stem, on its pretext task.

    python tools/train_rooms_committee.py scene|regions|geometry|stem_tiny [--steps=N] [--output=FILE]

Scenes are of the training split, from index 1 000 000 on, where no recipe's labelled set reaches; the last ones are
held out for the pretext scores. They are rendered once into `--cache`; delete that file when the rendering changes.

The packaged weights are the defaults' (for regions and stem_tiny with --batch_size=24); on another machine, or after a
change of `rooms`, they differ a little. One takes 9 to 29 minutes on one core. Features: `probe_rooms_committee.py`.

  scene      which classes fill each 2 x 2 pixel cell (from patch tokens) and which are in the picture (pooled)
  regions    cells of one instance lie close, of others apart (contrastive, within a picture); boundary pixels
  geometry   log depth and surface normal of each 3 x 3 pixel cell
  stem_tiny  which classes are in the picture and how much of it each fills; nothing about where
"""

import argparse
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rooms_pretexts import PRETEXTS, Pretext
from tqdm import tqdm

from sak_jax import cli
from sak_jax.data.rooms.source import Rooms
from sak_jax.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from sak_jax.teachers import rooms

nnx.set_graph_mode(False)
nnx.set_graph_updates(False)

FIRST_SCENE = 1_000_000
HELD_OUT = 256
DEFAULT_STEPS = {"scene": 3000, "regions": 2500, "geometry": 3000, "stem_tiny": 1500}


def render(index: int) -> dict[str, np.ndarray]:
    """One scene with its maps, in compact types."""
    source = Rooms("train", FIRST_SCENE + 10_000_000, rooms.IMAGE_SIZE, tasks=("semseg", "depth", "normals", "edge"),
                   extras=("instance",))  # fmt: skip
    sample = source[FIRST_SCENE + index]
    return {
        "image": sample["image"],
        "semseg": sample["semseg"],
        "instance": sample["instance"],
        "edge": sample["edge"].astype(np.uint8),
        "depth": sample["depth"].astype(np.float16),
        "normals": sample["normals"].astype(np.float16),
    }


def rendered(cache: Path, count: int) -> dict[str, np.ndarray]:
    """`count` scenes, from the cache file if it holds them, else rendered by all processors and cached."""
    if cache.exists():
        with np.load(cache) as file:
            if len(file["image"]) == count:
                return {name: file[name] for name in file}
    with multiprocessing.get_context("spawn").Pool() as pool:
        samples = list(tqdm(pool.imap(render, range(count), chunksize=64), total=count, desc="render"))
    scenes = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    with open(f"{cache}.part", "wb") as file:
        np.savez(file, **scenes)
    os.replace(f"{cache}.part", cache)
    return scenes


def prepare(batch: dict, key: jax.Array | None = None) -> dict:
    """Normalised images and float labels; with a key randomly mirrored, and recoloured."""
    image = batch["image"].astype(jnp.float32) / 255
    batch = {**batch, "depth": batch["depth"].astype(jnp.float32), "normals": batch["normals"].astype(jnp.float32)}
    if key is not None:
        flip, gain, offset, power = jax.random.split(key, 4)
        shape = (len(image), 1, 1, 3)
        image = image ** jnp.exp(0.2 * jax.random.normal(power, (len(image), 1, 1, 1)))
        image = image * jnp.exp(0.1 * jax.random.normal(gain, shape)) + 0.03 * jax.random.normal(offset, shape)
        image = jnp.clip(image, 0, 1)
        flip = jax.random.bernoulli(flip, shape=(len(image),))
        mirrored = {**batch, "image": image[:, :, ::-1]}
        mirrored = {name: (x if name == "image" else x[:, :, ::-1]) for name, x in mirrored.items()}
        mirrored["normals"] = mirrored["normals"] * jnp.array([-1.0, 1.0, 1.0])
        choose = lambda a, b: jnp.where(flip.reshape(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
        batch = jax.tree.map(choose, mirrored, {**batch, "image": image})
        image = batch["image"]
    return {**batch, "image": (image - IMAGENET_MEAN) / IMAGENET_STD}


def spread(maps) -> jax.Array:
    """How far the channels at the taps are from mean 0 and deviation 1.

    Distillation compares whole maps by their cosine, which one huge or constant channel would dominate.
    """
    far = 0.0
    for x in maps:
        mean, deviation = jnp.mean(x, axis=(0, 1, 2)), jnp.std(x, axis=(0, 1, 2)) + 1e-6
        far += jnp.mean(jnp.square(mean) + jnp.square(deviation - 1))
    return far / len(maps)


def train(model: Pretext, scenes: dict, args: argparse.Namespace) -> Pretext:
    """`model` after `args.steps` steps on all scenes but the held-out ones."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, args.learning_rate, args.steps // 12, args.steps, 1e-5)
    kernels = jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path), model)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=args.weight_decay, mask=kernels),
    )

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(model, state, batch, key):
        augmenting, sampling = jax.random.split(key)

        def loss(model, batch):
            dense, pooled, maps = model.predict(batch["image"])
            value = model.loss(dense, pooled, batch, sampling)
            return value + args.spread * spread(maps), value

        gradients, value = jax.grad(loss, has_aux=True)(model, prepare(batch, augmenting))
        updates, state = optimiser.update(gradients, state, model)
        return optax.apply_updates(model, updates), state, value

    state, rng, key = optimiser.init(model), np.random.default_rng(args.seed), jax.random.key(args.seed)
    bar, recent = tqdm(range(args.steps), desc=args.name, mininterval=5), []
    for index in bar:
        chosen = np.sort(rng.choice(len(scenes["image"]) - HELD_OUT, args.batch_size, replace=False))
        batch = {name: value[chosen] for name, value in scenes.items()}
        model, state, value = step(model, state, batch, jax.random.fold_in(key, index))
        recent = [*recent[-49:], float(value)]
        bar.set_postfix(loss=f"{np.mean(recent):.3f}", refresh=False)
    return model


def evaluate(model: Pretext, scenes: dict) -> dict:
    """Pretext scores and the spread of the features on the held-out scenes."""
    held = {name: value[-HELD_OUT:] for name, value in scenes.items()}
    predict = jax.jit(lambda model, batch: (*model.predict(batch["image"]), batch))
    parts = [
        predict(model, prepare({name: value[k : k + 64] for name, value in held.items()}))
        for k in range(0, HELD_OUT, 64)
    ]
    dense, pooled, maps, batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    scores = {name: round(float(value), 4) for name, value in model.scores(dense, pooled, batch).items()}
    scores["feature_std"] = [round(float(x.std()), 3) for x in maps]
    scores["largest_channel_std"] = [round(float(x.std((0, 1, 2)).max()), 3) for x in maps]
    scores["constant_energy"] = [round(float(np.square(x.mean((0, 1, 2))).sum() / np.square(x).sum(-1).mean()), 3)
                                 for x in maps]  # fmt: skip
    return scores


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Train, evaluate, write."""
    parser = cli.Parser(__doc__)
    parser.add_argument("name", choices=list(PRETEXTS))
    parser.add_argument("--steps", type=cli.count)
    parser.add_argument("--batch_size", type=cli.count, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--spread", type=float, default=0.1, help="weight of the penalty on channels' statistics")
    parser.add_argument("--scenes", type=cli.count, default=40_000)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rooms_cache.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    args.steps = args.steps or DEFAULT_STEPS[args.name]
    output = args.output or rooms.weights_path(args.name)

    scenes = rendered(args.cache, args.scenes)
    model = PRETEXTS[args.name](args.name, rngs=nnx.Rngs(args.seed))
    start = time.monotonic()
    model = train(model, scenes, args)
    seconds = round(time.monotonic() - start)
    scores = evaluate(model, scenes)
    print(json.dumps({"seconds": seconds, **scores}))
    settings = ("seed", "steps", "batch_size", "learning_rate", "weight_decay", "spread", "scenes")
    facts = {name: getattr(args, name) for name in settings}
    facts |= {"command": shlex.join(["python", *sys.argv]), "scores": scores, "seconds": seconds}
    facts |= {"pretext": type(model).__doc__}
    rooms.write(output, model.vit, facts)
    print(output)


if __name__ == "__main__":
    sys.exit(main())
