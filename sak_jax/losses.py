"""What training minimises: the distillation loss and one loss a task (SAK, section 3.4 and its code's loss weights).

A task's loss is written as sums over valid pixels and a way to turn sums into the mean, so that the same code serves a
training step (one batch), an evaluation (sums added up over batches) and a batch that is sharded over devices (the sums
are global). Everything is computed in float32, whatever the predictions' dtype.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Shaped

from sak_jax.errors import UserError
from sak_jax.nn.resize import resize_bilinear
from sak_jax.tasks import IGNORE, Task, named

COSINE_EPSILON = 1e-12  # added to squared lengths, as torch.nn.CosineEmbeddingLoss does
NORMAL_EPSILON = 1e-12  # shortest prediction that has a direction, as in torch.nn.functional.normalize
EDGE_POSITIVE_WEIGHT = 0.95


# Tasks


def _mean(sums: Mapping[str, Any]) -> Any:
    count = sums["count"]
    return sums["sum"] / (count + (count == 0))  # 0 / 1 when there is no valid pixel


@dataclasses.dataclass(frozen=True)
class TaskLoss:
    """A task's loss as sums over valid pixels.

    Attributes:
      sums: `(prediction [b, h, w, channels], label [b, h, w] or [b, h, w, 3]) -> {name: array}`; sums are float32,
        counts int32, and the sums of several batches may be added.
      mean: the loss, a scalar, from such sums (JAX's or NumPy's); 0 for no valid pixel.
    """

    sums: Callable[[Array, Array], dict[str, Array]]
    mean: Callable[[Mapping[str, Any]], Any] = _mean


def _masked_sums(values: Float[Array, "b h w"], valid: Bool[Array, "b h w"]) -> dict[str, Array]:
    return {"sum": jnp.sum(jnp.where(valid, values, 0.0)), "count": jnp.sum(valid)}


def _negative_log_likelihood(prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"]) -> Array:
    # Picked by comparison: its gradient is a product, where a gather's would be a scatter. 255 picks nothing.
    log_probability = jax.nn.log_softmax(prediction.astype(jnp.float32), axis=-1)
    classes = jnp.arange(prediction.shape[-1])
    chosen = label.astype(jnp.int32)[..., None] == classes
    return -jnp.sum(jnp.where(chosen, log_probability, 0.0), axis=-1)


def cross_entropy(prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"]) -> dict[str, Array]:
    """Sums of the softmax cross entropy over valid pixels; mean: sum / count of valid pixels (SAK, section 4.1)."""
    return _masked_sums(_negative_log_likelihood(prediction, label), label != IGNORE)


def balanced_cross_entropy(prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"]) -> dict[str, Array]:
    """Sums of the two classes' cross entropy apart: `background/*` for label 0, `foreground/*` for label 1.

    The mean weights either class by the other's share of all valid pixels, then divides by their count.

    Raises:
      UserError: the prediction has not two channels.
    """
    if prediction.shape[-1] != 2:
        raise UserError(f"loss balanced_cross_entropy needs 2 channels, not {prediction.shape[-1]}: set the task's")
    values = _negative_log_likelihood(prediction, label)
    classes = {"background": label == 0, "foreground": label == 1}
    return {
        f"{name}/{key}": value
        for name, pixels in classes.items()
        for key, value in _masked_sums(values, pixels).items()
    }


def _balanced_mean(sums: Mapping[str, Any]) -> Any:
    background, foreground = sums["background/count"], sums["foreground/count"]
    count = background + foreground
    count = count + (count == 0)
    background_share, foreground_share = background / count, foreground / count
    weighted = foreground_share * sums["background/sum"] + background_share * sums["foreground/sum"]
    return weighted / count


def normals_l1(prediction: Float[Array, "b h w 3"], label: Float[Array, "b h w 3"]) -> dict[str, Array]:
    """Sums of |unit prediction - label| over channels and valid pixels; a pixel is valid if no channel is 255.

    A prediction of length zero stays zero and gets a zero gradient: its direction is undefined, and the limit of
    `x / max(|x|, 1e-12)`, of which this is the value, would be a gradient of 1e12 that drowns every other one.
    """
    difference = jnp.abs(unit_vectors(prediction) - label.astype(jnp.float32))
    return _masked_sums(jnp.sum(difference, axis=-1), jnp.all(label != IGNORE, axis=-1))


def unit_vectors(vectors: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """The vectors scaled to length 1, in float32; shorter than 1e-12 gives zeros, with zero gradient."""
    vectors = vectors.astype(jnp.float32)
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    long_enough = squared > NORMAL_EPSILON**2
    # The inner `where` keeps the square root's infinite slope at 0 out of the gradient.
    return jnp.where(long_enough, vectors * jax.lax.rsqrt(jnp.where(long_enough, squared, 1.0)), 0.0)


def balanced_binary(prediction: Float[Array, "b h w 1"], label: Float[Array, "b h w"]) -> dict[str, Array]:
    """Sums of -[0.95 y log p + 0.05 (1 - y) log(1 - p)] over valid pixels; p = sigmoid(prediction), y in 0..1."""
    logits, target = prediction[..., 0].astype(jnp.float32), label.astype(jnp.float32)
    positive = EDGE_POSITIVE_WEIGHT * target * jax.nn.log_sigmoid(logits)
    negative = (1 - EDGE_POSITIVE_WEIGHT) * (1 - target) * jax.nn.log_sigmoid(-logits)
    return _masked_sums(-(positive + negative), label != IGNORE)


def l1(prediction: Float[Array, "b h w 1"], label: Float[Array, "b h w"]) -> dict[str, Array]:
    """Sums of |prediction - label| over valid pixels (depth: metres)."""
    difference = prediction[..., 0].astype(jnp.float32) - label.astype(jnp.float32)
    return _masked_sums(jnp.abs(difference), label != IGNORE)


TASK_LOSSES: dict[str, TaskLoss] = {
    "cross_entropy": TaskLoss(cross_entropy),
    "balanced_cross_entropy": TaskLoss(balanced_cross_entropy, _balanced_mean),
    "normals_l1": TaskLoss(normals_l1),
    "balanced_binary": TaskLoss(balanced_binary),
    "l1": TaskLoss(l1),
}
"""The losses that `Task.loss` may name."""


def for_task(task: str | Task) -> TaskLoss:
    """The loss of a task, or of one of `sak_jax.tasks.TASKS` by name.

    Raises:
      UserError: there is no such task, or `task.loss` names none.
    """
    task = named(task)
    if task.loss not in TASK_LOSSES:
        raise UserError(f"tasks.{task.name}.loss is {task.loss!r}; set it to one of {', '.join(TASK_LOSSES)}")
    return TASK_LOSSES[task.loss]


def task_loss(
    task: str | Task, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w *vector"]
) -> Float[Array, ""]:
    """A task's loss over a batch, without `task.weight`.

    Args:
      task: says which loss; by name one of `sak_jax.tasks.TASKS`.
      prediction: raw head output at image size.
      label: `[b, h, w]`, or `[b, h, w, 3]` for normals; 255 is not counted.

    Returns:
      A float32 scalar; 0, with a zero gradient, if no pixel is valid.

    Raises:
      UserError: see `for_task`.
    """
    loss = for_task(task)
    return loss.mean(loss.sums(prediction, label))


# Distillation


def _cosine_distance(student: Float[Array, "b h w c"], teacher: Float[Array, "b h w c"]) -> Float[Array, ""]:
    # One cosine an image: the map is one long vector.
    axes = (1, 2, 3)
    product = jnp.sum(student * teacher, axis=axes)
    lengths = [jnp.sqrt(jnp.sum(jnp.square(map_), axis=axes) + COSINE_EPSILON) for map_ in (student, teacher)]
    return jnp.mean(1 - product / (lengths[0] * lengths[1]))


def _smooth_l1(student: Float[Array, "b h w c"], teacher: Float[Array, "b h w c"]) -> Float[Array, ""]:
    return jnp.mean(optax.losses.huber_loss(student, teacher, delta=1.0))


DISTILLATION_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cos+l1": lambda student, teacher: 0.9 * _cosine_distance(student, teacher) + 0.1 * _smooth_l1(student, teacher),
    "cos": _cosine_distance,
    "l2": lambda student, teacher: jnp.mean(jnp.square(student - teacher)),
}
"""The kinds of `distillation_loss`, each for one pair of maps on one grid."""


def distillation_loss(
    student: Mapping[str, Sequence[Float[Array, "b _ _ _"]]],
    teacher: Mapping[str, Sequence[Float[Array, "b _ _ _"]]],
    kind: str = "cos+l1",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """How far the student's aligned features are from the teachers' (SAK, section 3.4).

    Where two grids differ, the one of lesser height is resized bilinearly to the other. Teachers get no gradient.

    Args:
      student: `{teacher: one [b, h, w, c] a level}`, the aligned features.
      teacher: the same teachers, levels and widths, on grids of their own.
      kind: "cos+l1" (0.9 cosine distance of whole maps + 0.1 smooth L1), "cos", or "l2" (mean squared error).

    Returns:
      The sum over teachers and levels, and each teacher's sum over levels; float32 scalars.

    Raises:
      UserError: unknown kind.
      ValueError: student and teacher differ in teachers, levels or widths.
    """
    if kind not in DISTILLATION_LOSSES:
        raise UserError(f"the distillation loss {kind!r} is unknown; use one of {', '.join(DISTILLATION_LOSSES)}")
    if set(student) != set(teacher):
        raise ValueError(f"the student has features for {sorted(student)}, the committee for {sorted(teacher)}")
    losses = {}
    for name, teacher_levels in teacher.items():
        losses[name] = jnp.zeros((), jnp.float32)
        for ours, theirs in zip(student[name], teacher_levels, strict=True):
            if ours.shape[-1] != theirs.shape[-1]:
                raise ValueError(f"{name}: the student's features are {ours.shape[-1]} wide, not {theirs.shape[-1]}")
            ours, theirs = ours.astype(jnp.float32), jax.lax.stop_gradient(theirs.astype(jnp.float32))
            if ours.shape != theirs.shape:
                if theirs.shape[1] > ours.shape[1]:
                    ours = resize_bilinear(ours, theirs.shape[1:3])
                else:
                    theirs = resize_bilinear(theirs, ours.shape[1:3])
            losses[name] += DISTILLATION_LOSSES[kind](ours, theirs)
    return sum(losses.values(), start=jnp.zeros((), jnp.float32)), losses
