"""The distillation loss: how far the student's aligned features are from the teachers' (SAK, section 3.4)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from sak_jax.errors import UserError
from sak_jax.methods.distillation import dropping, statistics
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
            losses[name] += DISTILLATION_LOSSES[kind](*_on_one_grid(ours, theirs))
    return sum(losses.values(), start=jnp.zeros((), jnp.float32)), losses


def _on_one_grid(ours: Float[Array, "b _ _ c"], theirs: Float[Array, "b _ _ c"]) -> tuple[Array, Array]:
    ours, theirs = ours.astype(jnp.float32), jax.lax.stop_gradient(theirs.astype(jnp.float32))
    if ours.shape != theirs.shape:
        if theirs.shape[1] > ours.shape[1]:
            ours = resize_bilinear(ours, theirs.shape[1:3])
        else:
            theirs = resize_bilinear(theirs, ours.shape[1:3])
    return ours, theirs


@dataclasses.dataclass(frozen=True)
class Following:
    """How teachers are followed, by what SAK and DUNE share; the defaults are SAK's.

    Attributes:
      kind: of the loss, see `distillation_loss`.
      standardise: a key of `distillation.statistics`.
      dropping: a method of `distillation.dropping`.
      probability: of dropping a teacher by `lowest_loss`.
      own, generic: groups of data, see `dropping.kept`.
    """

    kind: str = "cos+l1"
    standardise: str = "none"
    dropping: str = "none"
    probability: float = 0.5
    own: tuple[int, ...] = ()
    generic: tuple[int, ...] = ()


def by_level(features: Mapping[str, Sequence[Array]]) -> dict[str, dict[str, Array]]:
    """Each teacher's maps as the tree that statistics are kept for: `{teacher: {level: map}}`."""
    return {name: {f"level{level}": x for level, x in enumerate(maps)} for name, maps in features.items()}


def followed_loss(
    following: Following,
    student: Mapping[str, Sequence[Float[Array, "b _ _ _"]]],
    teacher: Mapping[str, Sequence[Float[Array, "b _ _ _"]]],
    own_statistics: PyTree,
    *,
    momentum: Float[Array, ""] | float = 0.0,
    draws: Float[Array, "b others"] | None = None,
    groups: Int[Array, "b"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array], PyTree]:
    """`distillation_loss` towards standardised features, with teachers dropped by image.

    With dropping it is the mean over what is kept, times the number of teachers: where all are kept, that of all.

    Args:
      following: how.
      student, teacher: those of `distillation_loss`.
      own_statistics: the tree of `statistics.standardise` for `by_level(teacher)`.
      momentum: share of this batch in running statistics.
      draws, groups: see `dropping.kept`.

    Returns:
      The loss; `distill/{teacher}`, and with dropping `kept/{teacher}`, the share of images that teach with it; the
      statistics after this step.
    """
    if following.standardise != "none":
        targets, own_statistics = statistics.standardise(
            following.standardise, by_level(teacher), own_statistics, momentum=momentum, train=True
        )
        teacher = {name: tuple(targets[name].values()) for name in teacher}
    if following.dropping == "none":
        total, losses = distillation_loss(student, teacher, kind=following.kind)
        return total, {f"distill/{name}": value for name, value in losses.items()}, own_statistics
    each = image_losses(student, teacher, kind=following.kind)
    kept = dropping.kept(
        following.dropping,
        each,
        probability=following.probability,
        draws=draws,
        groups=groups,
        own=following.own,
        generic=following.generic,
    )
    logs = {}
    for name, losses, shares in zip(sorted(teacher), each, kept, strict=True):
        logs |= {f"distill/{name}": jnp.mean(losses), f"kept/{name}": jnp.mean(shares)}
    return len(teacher) * dropping.total(each, kept), logs, own_statistics


def image_losses(
    student: Mapping[str, Sequence[Float[Array, "b _ _ _"]]],
    teacher: Mapping[str, Sequence[Float[Array, "b _ _ _"]]],
    kind: str = "cos+l1",
) -> Float[Array, "t b"]:
    """Each teacher's part of `distillation_loss` on each image; rows are the teachers in the order of their names."""
    alone = jax.vmap(lambda ours, theirs: DISTILLATION_LOSSES[kind](ours[None], theirs[None]))
    rows = []
    for name in sorted(teacher):
        pairs = (_on_one_grid(*maps) for maps in zip(student[name], teacher[name], strict=True))
        rows.append(sum(alone(*pair) for pair in pairs))
    return jnp.stack(rows)
