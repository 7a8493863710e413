"""The pretext tasks of the `rooms` committee: each a transformer with a head, a loss and scores."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sak_jax.data.rooms.source import CLASSES
from sak_jax.nn.vit import ViT
from sak_jax.teachers import rooms

PRESENT = 24
"""Pixels from which a class counts as in the picture."""


def cells(x, size: int):
    """`[b, H, W, ...]` -> `[b, H / size, W / size, size, size, ...]`."""
    b, h, w, *rest = x.shape
    x = x.reshape(b, h // size, size, w // size, size, *rest)
    return jnp.swapaxes(x, 2, 3)


def present(semseg):
    """Which classes are in each picture, `[b, classes]`."""
    return jnp.sum(jax.nn.one_hot(semseg, len(CLASSES)), axis=(1, 2)) >= PRESENT


def unit(x):
    """Vectors of length one."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def mean_binary(logits, labels, positive: float = 1.0):
    """Mean binary cross entropy; `positive` weighs the positives."""
    losses = optax.sigmoid_binary_cross_entropy(logits, labels)
    return jnp.mean(losses * jnp.where(labels > 0, positive, 1.0))


class Pretext(nnx.Module):
    """A transformer with the head of its pretext task; the head is not shipped.

    `predict(images)` gives raw outputs and the maps at the taps; `loss` and `scores` compare the outputs with a batch.
    """

    cell = 1
    outputs_per_cell = 1

    def __init__(self, name: str, *, rngs: nnx.Rngs):
        config = rooms.CONFIGS[name]
        self.vit = ViT(config, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.per_patch = (config.patch // self.cell) ** 2 * self.outputs_per_cell
        self.dense = nnx.Linear(config.width, self.per_patch, rngs=rngs)
        self.pooled = nnx.Linear(config.width, len(CLASSES), rngs=rngs)

    def predict(self, images):
        """Outputs of each cell `[b, H / cell, W / cell, outputs]`, of the picture `[b, classes]`, and the maps."""
        maps = self.vit(images)
        tokens = self.norm(maps[-1])
        b, h, w, _ = tokens.shape
        side = rooms.IMAGE_SIZE[0] // h // self.cell
        dense = self.dense(tokens).reshape(b, h, w, side, side, self.outputs_per_cell)
        dense = jnp.swapaxes(dense, 2, 3).reshape(b, h * side, w * side, self.outputs_per_cell)
        return dense, self.pooled(jnp.mean(tokens, axis=(1, 2))), maps


class Scene(Pretext):
    """What is where, by name."""

    cell = 2
    outputs_per_cell = len(CLASSES)

    def loss(self, dense, pooled, batch, key):
        """Cross entropy of each cell with the classes in it, and of the picture with those in the picture."""
        share = jnp.mean(cells(jax.nn.one_hot(batch["semseg"], len(CLASSES)), self.cell), axis=(3, 4))
        content = jnp.mean(optax.softmax_cross_entropy(dense, share))
        return content + mean_binary(pooled, present(batch["semseg"]))

    def scores(self, dense, pooled, batch):
        """Share of cells named right; mean intersection over union of the cells; average precision in the picture."""
        share = jnp.mean(cells(jax.nn.one_hot(batch["semseg"], len(CLASSES)), self.cell), axis=(3, 4))
        truth, named = np.argmax(share, -1), np.argmax(dense, -1)
        overlaps = [
            np.sum((truth == k) & (named == k)) / np.sum((truth == k) | (named == k)) for k in range(len(CLASSES))
        ]
        labels = np.asarray(present(batch["semseg"]))
        precision = [average_precision(pooled[:, k], labels[:, k]) for k in range(len(CLASSES))]
        return {
            "content_accuracy": np.mean(truth == named),
            "content_miou": np.mean(overlaps),
            "presence_precision": np.nanmean(precision),
        }


class Stem(Scene):
    """What is in the picture and how much of it, by name; nothing about where."""

    def shares(self, dense, batch):
        """What each class fills of a picture, predicted (the mean of all cells' guesses) and true, `[b, classes]`."""
        truth = jnp.mean(jax.nn.one_hot(batch["semseg"], len(CLASSES)), axis=(1, 2))
        return jnp.mean(jax.nn.softmax(dense), axis=(1, 2)), truth

    def loss(self, dense, pooled, batch, key):
        """Cross entropy of the picture with the classes in it, and with their shares."""
        guess, truth = self.shares(dense, batch)
        return mean_binary(pooled, present(batch["semseg"])) - jnp.mean(jnp.sum(truth * jnp.log(guess + 1e-6), -1))

    def scores(self, dense, pooled, batch):
        """Average precision of the classes in the picture; the mean error of a picture's shares, in all."""
        guess, truth = self.shares(dense, batch)
        error = jnp.mean(jnp.sum(jnp.abs(guess - truth), axis=-1)) / 2
        return {"presence_precision": super().scores(dense, pooled, batch)["presence_precision"], "share_error": error}


class Regions(Pretext):
    """What belongs together, without names. A cell's outputs: its embedding, then a logit for each of its pixels."""

    cell = 3
    embedding = 32
    outputs_per_cell = embedding + cell * cell
    sampled = 192
    temperature = 0.1

    def pairs(self, dense, batch, key):
        """Similarity `[b, n, n]` of random cells, and whether they show one instance."""
        instance = cells(batch["instance"], self.cell)[..., self.cell // 2, self.cell // 2]
        chosen = jax.random.permutation(key, instance[0].size)[: self.sampled]
        instance = instance.reshape(len(instance), -1)[:, chosen]
        vectors = unit(dense[..., : self.embedding]).reshape(len(instance), -1, self.embedding)[:, chosen]
        return vectors @ jnp.swapaxes(vectors, 1, 2), instance[:, :, None] == instance[:, None, :]

    def loss(self, dense, pooled, batch, key):
        """Supervised contrastive loss over cells of a picture (Khosla et al., 2020), and boundaries in each cell."""
        similarity, same = self.pairs(dense, batch, key)
        other = ~jnp.eye(self.sampled, dtype=bool)
        log_share = jax.nn.log_softmax(jnp.where(other, similarity / self.temperature, -1e9), axis=-1)
        positives = same & other
        contrast = -jnp.sum(log_share * positives, -1) / jnp.maximum(jnp.sum(positives, -1), 1)
        boundary = mean_binary(dense[..., self.embedding :], self.edges(batch), positive=4.0)
        return 0.5 * jnp.mean(contrast) + 2 * boundary

    def edges(self, batch):
        """Boundary pixels of each cell, `[b, h, w, cell * cell]`."""
        edges = cells(batch["edge"], self.cell)
        return edges.reshape(*edges.shape[:3], -1)

    def scores(self, dense, pooled, batch):
        """Average precision of pairs by similarity and of boundary pixels."""
        similarity, same = self.pairs(dense, batch, jax.random.key(0))
        other = ~np.eye(self.sampled, dtype=bool)
        pairs = [
            average_precision(np.asarray(s)[other], np.asarray(t)[other]) for s, t in zip(similarity, same, strict=True)
        ]
        boundary = average_precision(np.ravel(dense[..., self.embedding :]), np.ravel(self.edges(batch)))
        return {"pair_precision": np.nanmean(pairs), "boundary_precision": boundary}


class Geometry(Pretext):
    """The shape of things, without names."""

    cell = 3
    outputs_per_cell = 4

    def errors(self, dense, batch):
        """Each cell's error in log depth, and between the normals as 1 - cosine."""
        depth = jnp.mean(jnp.log(cells(batch["depth"], self.cell)), axis=(3, 4))
        normals = unit(jnp.mean(cells(batch["normals"], self.cell), axis=(3, 4)))
        return jnp.abs(dense[..., 0] + 1.0 - depth), 1 - jnp.sum(unit(dense[..., 1:]) * normals, axis=-1)

    def loss(self, dense, pooled, batch, key):
        """L1 of log depth plus the angle between normals, by the chord."""
        depth, angle = self.errors(dense, batch)
        return 2 * jnp.mean(depth) + jnp.mean(jnp.sqrt(jnp.maximum(angle, 0) + 1e-4))

    def scores(self, dense, pooled, batch):
        """Mean errors: log depth; degrees between normals."""
        depth, angle = self.errors(dense, batch)
        return {"log_depth_error": jnp.mean(depth), "normals_degrees": jnp.degrees(jnp.mean(jnp.arccos(1 - angle)))}


PRETEXTS = {"scene": Scene, "regions": Regions, "geometry": Geometry, "stem_tiny": Stem}


def average_precision(scores, labels) -> float:
    """Area under precision over recall; NaN without positives."""
    labels = np.asarray(labels, bool)[np.argsort(-np.asarray(scores), kind="stable")]
    precision = np.cumsum(labels) / np.arange(1, len(labels) + 1)
    return float(precision[labels].mean()) if labels.any() else float("nan")
