"""Standardised teacher features: what a student predicts in their place, and the way back to the teacher's own.

Statistics are a tree like the features, with a dict of arrays for each feature array: `mean` and `std` `[c]`, or for
`phi_s` `mean`, `rotation` and `scale`. They are state of the training, moved by `standardise` alone.

| kind | training | evaluation | statistics |
|---|---|---|---|
| none | as they are | as they are | empty |
| batch (DUNE) | the global batch's | the running ones | move towards the batch's |
| running (UNIC) | the running ones as before this step | the running ones | move towards the batch's |
| frozen | given ones | given ones | measured before, see `measured` |
| phi_s | rotation and one scale | the same | measured before, see `measured` |
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sak_jax.errors import UserError
from sak_jax.methods.distillation import phi_s
from sak_jax.methods.distillation.keys import STANDARDISE

KINDS = STANDARDISE
MEASURED = ("frozen", "phi_s")
"""The kinds whose statistics are measured before training and then stay."""

FLOOR = 1e-3
"""Least standard deviation that DUNE divides by."""
EPSILON = 1e-6
"""What UNIC adds to the standard deviation: once in its buffer, once more when it divides."""

Statistics = dict[str, Array]


def check(kind: str) -> None:
    """Raises UserError for a kind that is none of `KINDS`."""
    if kind not in KINDS:
        raise UserError(f"distill.standardise is {kind!r}: set it to one of {', '.join(KINDS)}")


def initial(kind: str, width: int) -> Statistics:
    """Statistics of a feature array `width` wide at the start of training: those of standardised features."""
    check(kind)
    if kind == "none":
        return {}
    if kind == "phi_s":
        return {"mean": jnp.zeros(width), "rotation": jnp.eye(width), "scale": jnp.ones(())}
    return {"mean": jnp.zeros(width), "std": jnp.ones(width)}


def measured(kind: str, moments: phi_s.Moments, name: str = "teacher features") -> Statistics:
    """Statistics of a kind of `MEASURED` from features seen before training; see `phi_s.projection`."""
    if kind not in MEASURED:
        raise ValueError(f"the statistics of {kind!r} are not measured before training")
    arrays = {"mean": moments.mean, "std": moments.std} if kind == "frozen" else phi_s.projection(moments, name)
    return {key: jnp.asarray(value, jnp.float32) for key, value in arrays.items()}


def measure(kind: str, batches: Iterable[PyTree]) -> PyTree:
    """Statistics of a kind of `MEASURED` over batches of features, summed in float64 on the host.

    Args:
      kind: `frozen` or `phi_s`.
      batches: trees of arrays `[b, ..., c]`, alike but for b; under several processes global arrays.

    Returns:
      The tree with statistics for each array.

    Raises:
      UserError: no batches, or features that do not vary; names them.
    """
    moments, tree, names = [], None, []
    for features in batches:
        paths, tree = jax.tree_util.tree_flatten_with_path(features)
        names = [" ".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path) for path, _ in paths]
        moments = moments or [phi_s.Moments.empty(x.shape[-1]) for _, x in paths]
        for own, (_, x) in zip(moments, paths, strict=True):
            own.add(*phi_s.batch_moments(x))
    if tree is None:
        raise UserError(f"distill.standardise={kind} measures features before training: no batch was given")
    return tree.unflatten(
        [measured(kind, own, f"features of {name}") for own, name in zip(moments, names, strict=True)]
    )


def standardise(
    kind: str, features: PyTree, statistics: PyTree, *, momentum: Float[Array, ""] | float = 0.0, train: bool = False
) -> tuple[PyTree, PyTree]:
    """Targets in place of teacher features, and the statistics after this step.

    Args:
      kind: one of `KINDS`.
      features: a tree of arrays `[b, ..., c]`; statistics are over all axes but the last, and over the global batch.
      statistics: the tree with a dict for each of these arrays.
      momentum: share of this batch in the running statistics (kinds `batch` and `running`).
      train: statistics move in training alone.

    Returns:
      Two trees like the given ones: targets in float32, without gradient, and statistics.

    Raises:
      UserError: unknown kind, or a batch too small to have a standard deviation.
    """
    check(kind)
    leaves, tree = jax.tree.flatten(features)
    targets, moved = [], []
    for x, own in zip(leaves, tree.flatten_up_to(statistics), strict=True):
        x = jax.lax.stop_gradient(x.astype(jnp.float32))
        batch = _batch_statistics(x) if train and kind in ("batch", "running") else None
        targets.append(_forward(kind, x, own if batch is None or kind == "running" else batch))
        if batch is not None:
            extra = EPSILON if kind == "running" else 0.0
            batch = batch | {"std": batch["std"] + extra}
            own = {key: own[key] * (1 - momentum) + momentum * batch[key] for key in own}
        moved.append(own)
    return tree.unflatten(targets), tree.unflatten(moved)


def restore(kind: str, targets: PyTree, statistics: PyTree) -> PyTree:
    """Teacher features from predictions of their standardised form: the inverse of `standardise` in evaluation."""
    check(kind)
    leaves, tree = jax.tree.flatten(targets)
    pairs = zip(leaves, tree.flatten_up_to(statistics), strict=True)
    return tree.unflatten([_backward(kind, x.astype(jnp.float32), own) for x, own in pairs])


def _batch_statistics(x: Float[Array, "*n c"]) -> Statistics:
    """Mean and unbiased standard deviation of each channel over all rows."""
    rows = x.size // x.shape[-1]
    if rows < 2:
        raise UserError("one token has no standard deviation: set batch_size to 2 or more, or distill.standardise")
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axis=axes)
    return {"mean": mean, "std": jnp.sqrt(jnp.sum(jnp.square(x - mean), axis=axes) / (rows - 1))}


def _deviation(kind: str, std: Float[Array, "c"]) -> Float[Array, "c"]:
    return std + EPSILON if kind == "running" else jnp.maximum(std, FLOOR)


def _forward(kind: str, x: Float[Array, "*n c"], own: Statistics) -> Float[Array, "*n c"]:
    if kind == "none":
        return x
    if kind == "phi_s":
        return _matmul(x - own["mean"], own["rotation"].T) / own["scale"]
    return (x - own["mean"]) / _deviation(kind, own["std"])


def _backward(kind: str, x: Float[Array, "*n c"], own: Statistics) -> Float[Array, "*n c"]:
    if kind == "none":
        return x
    if kind == "phi_s":
        return _matmul(x, own["rotation"]) * own["scale"] + own["mean"]
    return x * _deviation(kind, own["std"]) + own["mean"]


def _matmul(x: Array, matrix: Array) -> Array:
    """In full float32: accelerators' default would keep three digits of the targets."""
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)
