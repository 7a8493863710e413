"""Teacher dropping: which teachers an image teaches with, and the loss over those that are kept (UNIC, DUNE)."""

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sak_jax.errors import UserError
from sak_jax.methods.distillation.keys import DROPPING

METHODS = DROPPING


def check(method: str, probability: float, teachers: Sequence[str], groups: Sequence[str], own: Sequence[str]) -> None:
    """Raises UserError where a method does not exist or cannot be followed.

    Args:
      method: one of `METHODS`.
      probability: of dropping a teacher by `lowest_loss`.
      teachers: their names.
      groups: the groups of data.
      own: each teacher's group.
    """
    if method not in METHODS:
        raise UserError(f"distill.dropping is {method!r}: set it to one of {', '.join(METHODS)}")
    if not 0 <= probability <= 1:
        raise UserError(f"distill.drop_probability is {probability}: it must be between 0 and 1")
    if method in ("none", "lowest_loss"):
        return
    for teacher, group in zip(teachers, own, strict=True):
        if group not in groups:
            raise UserError(
                f"distill.dropping {method} needs the group of data of teacher {teacher}: {group!r} is none of"
                f" {', '.join(groups) or 'no groups'}"
            )
    for group in groups:
        if group not in own:
            raise UserError(f"distill.dropping {method}: no teacher learns from the group of data {group!r}")


def draw(key: Array, images: int, teachers: int) -> Float[Array, "b others"]:
    """Uniform draws for `lowest_loss`: one for each image and teacher but its highest."""
    return jax.random.uniform(key, (images, teachers - 1))


def kept(
    method: str,
    losses: Float[Array, "t b"],
    *,
    probability: float = 0.5,
    draws: Float[Array, "b others"] | None = None,
    groups: Int[Array, " b"] | None = None,
    own: Sequence[int] = (),
    generic: Collection[int] = (),
) -> Float[Array, "t b"]:
    """1 for the teachers whose loss counts for an image, else 0.

    `none` keeps all. `lowest_loss` keeps the teacher with the highest loss, the first of equals, and drops each other
    one whose draw is below `probability`. `own` keeps the teacher of the image's group, `own+generic` all teachers for
    images of generic groups (UNIC, section 3.2; DUNE, section 4.2).

    Args:
      method: one of `METHODS`.
      losses: of each teacher and image.
      probability: see above.
      draws: uniform numbers in [0, 1), for each image one for each teacher but the highest, in the teachers' order.
      groups: each image's group.
      own: each teacher's group.
      generic: groups whose images teach all, for `own+generic`.
    """
    teachers = losses.shape[0]
    losses = jax.lax.stop_gradient(losses)
    if method == "none" or (method == "lowest_loss" and teachers == 1):
        return jnp.ones_like(losses)
    index = jnp.arange(teachers)[:, None]
    if method == "lowest_loss":
        highest = jnp.argmax(losses, axis=0)
        place = jnp.clip(index - (index > highest).astype(index.dtype), 0, teachers - 2)
        stays = jnp.take_along_axis(draws.T, place, axis=0) >= probability
        return jnp.where((index == highest) | stays, 1.0, 0.0)
    if method not in METHODS:
        raise UserError(f"distill.dropping is {method!r}: set it to one of {', '.join(METHODS)}")
    mine = groups == jnp.asarray(own)[:, None]
    if method == "own+generic":
        mine |= jnp.isin(groups, jnp.asarray(sorted(generic), jnp.int32))
    return jnp.where(mine, 1.0, 0.0)


def total(losses: Float[Array, "t b"], kept: Float[Array, "t b"]) -> Float[Array, ""]:
    """Sum of the kept losses over their number in the whole batch; 0 where none is kept.

    An image that kept three teachers weighs three times one that kept one. Under a jit over several devices the batch
    is the global one, where the published code divides by each device's own number.
    """
    kept = jax.lax.stop_gradient(kept)
    return jnp.sum(kept * losses) / jnp.maximum(jnp.sum(kept), 1)
