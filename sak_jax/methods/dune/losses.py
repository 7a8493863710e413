"""What a student of DUNE or UNIC minimises, as a pure function of features, statistics and draws."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from sak_jax.methods.distillation import dropping, losses, statistics


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How teachers are followed.

    Attributes:
      standardise: a key of `distillation.statistics`.
      dropping: a method of `distillation.dropping`.
      probability: of dropping a teacher by `lowest_loss`.
      own: each teacher's group of data, by the teachers' sorted names; for the methods that go by group.
      generic: groups whose images teach all, for `own+generic`.
      cosine, smooth_l1: weights of the two distances.
    """

    standardise: str = "batch"
    dropping: str = "lowest_loss"
    probability: float = 0.5
    own: tuple[int, ...] = ()
    generic: tuple[int, ...] = ()
    cosine: float = 0.5
    smooth_l1: float = 0.5


def distillation_loss(
    settings: Distillation,
    predicted: Mapping[str, PyTree],
    features: Mapping[str, PyTree],
    own_statistics: PyTree,
    *,
    momentum: Float[Array, ""] | float = 0.0,
    draws: Float[Array, "b others"] | None = None,
    groups: Int[Array, "b"] | None = None,
    train: bool = False,
) -> tuple[Float[Array, ""], dict[str, Array], PyTree]:
    """The loss over a batch, scalars to log, and the statistics after it (DUNE, section 4; UNIC, section 3).

    In training teachers are dropped and statistics move; in evaluation all teachers count and statistics stay. Means
    are over the global batch, where the published code divides by what each device kept.

    Args:
      settings: how teachers are followed.
      predicted: `{teacher: {kind of token: [b, .., c]}}`, the student's, standardised.
      features: the same of the teachers, as they are.
      own_statistics: the tree of `statistics.standardise`.
      momentum: share of this batch in running statistics.
      draws: for `lowest_loss`, see `dropping.kept`.
      groups: each image's group, for the methods that go by group.
      train: see above.

    Returns:
      The loss; `distill/{teacher}`, the mean over all images, and in training `kept/{teacher}`, the share of images
      that teach with it; the statistics.
    """
    targets, moved = statistics.standardise(
        settings.standardise, features, own_statistics, momentum=momentum, train=train
    )
    each = losses.image_losses(predicted, targets, cosine=settings.cosine, smooth_l1=settings.smooth_l1)
    kept = dropping.kept(
        settings.dropping if train else "none",
        each,
        probability=settings.probability,
        draws=draws,
        groups=groups,
        own=settings.own,
        generic=settings.generic,
    )
    names = sorted(features)
    logs = {f"distill/{name}": jnp.mean(row) for name, row in zip(names, each, strict=True)}
    if train:
        logs |= {f"kept/{name}": jnp.mean(row) for name, row in zip(names, kept, strict=True)}
    return dropping.total(each, kept), logs, moved
