"""Statistics of teacher features as part of a student: running ones like a batch norm's, moved by the loss."""

import logging
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import recipe
from sak_jax.data import pipeline
from sak_jax.engine import hosts
from sak_jax.engine import mesh as meshes
from sak_jax.engine.stage import Frozen, Weights
from sak_jax.methods.distillation import statistics

logger = logging.getLogger(__name__)

Tree = Mapping[str, Mapping[str, Mapping[str, jax.Array]]]
"""`{teacher: {part: {name of a statistic: array}}}`."""


def create(kind: str, widths: Mapping[str, Mapping[str, int]]) -> nnx.Module:
    """The statistics at the start of training, as variables; none for the kind `none`.

    Args:
      kind: a key of `statistics`.
      widths: `{teacher: {part: channels}}`.
    """
    variables = lambda width: nnx.Dict(  # noqa: E731
        {key: nnx.BatchStat(value) for key, value in statistics.initial(kind, width).items()}
    )
    return nnx.Dict(
        {
            teacher: nnx.Dict({part: variables(width) for part, width in parts.items()})
            for teacher, parts in widths.items()
            if kind != "none"
        }
    )


def values(own: nnx.Module) -> dict:
    """The arrays of such variables, as a `Tree`."""
    return {
        teacher: {part: {key: x[...] for key, x in found.items()} for part, found in parts.items()}
        for teacher, parts in own.items()
    }


def replace(own: nnx.Module, new: Tree) -> None:
    """Replaces the arrays, in place."""
    for teacher, parts in own.items():
        for part, found in parts.items():
            for key, variable in found.items():
                variable[...] = new[teacher][part][key]


def measured(config: ConfigDict, frozen: Frozen, batches: pipeline.Batches, tree=lambda features: features) -> Weights:
    """The statistics of a kind that is measured before training, as a start has them.

    Args:
      config: the recipe.
      frozen: the teachers, which are loaded for it.
      batches: of the stage; closed at the end.
      tree: features as `{teacher: {part: array}}`.
    """
    kind, count = config.distill.standardise, config.distill.measure
    logger.info("%s statistics of the teachers' features: from %d batches", kind, count)
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp)
    places = meshes.shardings(frozen.abstract, mesh, recipe.ordered(config.mesh.placement))
    arrays = frozen.load(places)
    rows = meshes.batch_sharding(mesh)
    compute = meshes.computing_on(mesh, lambda arrays, batch: tree(frozen.features(arrays, batch)))
    features = jax.jit(compute, out_shardings=rows)
    try:
        taken = (hosts.together(lambda: next(batches)) for _ in range(count))
        found = statistics.measure(kind, (features(arrays, meshes.put_batch(batch, mesh)) for batch in taken))
    finally:
        batches.close()
    return {
        ("statistics", teacher, part, key): np.asarray(value)
        for teacher, parts in found.items()
        for part, own in parts.items()
        for key, value in own.items()
    }
