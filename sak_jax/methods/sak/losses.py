"""The distillation loss: how far the student's aligned features are from the teachers' (SAK, section 3.4)."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sak_jax.errors import UserError
from sak_jax.nn.resize import resize_bilinear

COSINE_EPSILON = 1e-12  # added to squared lengths, as torch.nn.CosineEmbeddingLoss does


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
