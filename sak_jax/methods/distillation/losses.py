"""Distances of student and teacher features per token, and their mean per image and teacher (UNIC, DUNE)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

SHORTEST = 1e-8
"""Lengths below this count as this in the cosine, as in torch.nn.functional.cosine_similarity."""


def token_loss(
    student: Float[Array, "*n c"], teacher: Float[Array, "*n c"], *, cosine: float = 0.5, smooth_l1: float = 0.5
) -> Float[Array, "*n"]:
    """`cosine (1 - cos(s, t)) + smooth_l1 mean(smooth L1(s - t))` of each token, in float32.

    Means and cosine are over channels; smooth L1 has beta 1 (UNIC, section 3; DUNE's code).
    """
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    similarity = jnp.sum(student * teacher, axis=-1) / (_length(student) * _length(teacher))
    distance = jnp.mean(optax.losses.huber_loss(student, teacher, delta=1.0), axis=-1)
    return cosine * (1 - similarity) + smooth_l1 * distance


def _length(x: Float[Array, "*n c"]) -> Float[Array, "*n"]:
    # The floor lies under the root, whose slope at 0 is infinite.
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1), SHORTEST**2))


def image_losses(
    student: Mapping[str, PyTree], teacher: Mapping[str, PyTree], *, cosine: float = 0.5, smooth_l1: float = 0.5
) -> Float[Array, "t b"]:
    """Each teacher's loss on each image: the mean over the teacher's feature arrays of the mean over their tokens.

    Args:
      student: `{teacher: tree of arrays [b, ..., c]}`, e.g. class tokens `[b, c]` and patches `[b, n, c]`.
      teacher: the same teachers, trees and shapes; standardised or not.
      cosine, smooth_l1: weights of the two distances.

    Returns:
      Rows are the teachers in the order of their sorted names.

    Raises:
      ValueError: student and teacher differ in teachers, trees or shapes.
    """
    if set(student) != set(teacher):
        raise ValueError(f"the student has features for {sorted(student)}, the committee for {sorted(teacher)}")
    rows = []
    for name in sorted(teacher):
        theirs_of, tree = jax.tree.flatten(teacher[name])
        losses = []
        for ours, theirs in zip(tree.flatten_up_to(student[name]), theirs_of, strict=True):
            if ours.shape != theirs.shape:
                raise ValueError(f"{name}: the student's features are {ours.shape}, the teacher's {theirs.shape}")
            tokens = token_loss(ours, theirs, cosine=cosine, smooth_l1=smooth_l1)
            losses.append(jnp.mean(tokens.reshape(len(tokens), -1), axis=1))
        rows.append(sum(losses) / len(losses))
    return jnp.stack(rows)
