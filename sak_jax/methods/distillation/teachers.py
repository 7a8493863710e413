"""The frozen committee of a recipe, as a stage is given it."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sak_jax.engine import mesh as meshes
from sak_jax.engine.stage import Frozen
from sak_jax.nn import levels
from sak_jax.teachers import registry
from sak_jax.teachers.committee import Committee

VIEW = ("normalisation", "pad", "crop", "student_patch")
"""The options of `registry.load` that say how a teacher sees the student's images."""


def committee(
    config: ConfigDict,
    rows: Mapping[str, Mapping],
    call: Callable[[Committee, jax.Array], object],
    *,
    norm: bool = False,
) -> Frozen:
    """The teachers of a recipe, not loaded yet.

    Args:
      config: the recipe: image size, and where teachers lie.
      rows: by name `model`, a key of the registry, and options of `registry.load`.
      call: (committee, images) -> what the loss is given.
      norm: keep the final norm of those that have one, for their tokens.

    Raises:
      UserError: a teacher is unknown, or (when loaded) its weights are missing.
    """
    dtype = jnp.dtype(teachers_dtype(config))
    modules, views, options = {}, {}, {}
    for name, row in rows.items():
        teacher = registry.with_offset(registry.get(row["model"]), row.get("position_offset"))
        views[name] = registry.view_of(teacher, **{key: row[key] for key in VIEW if key in row})
        sized = {"pad": row.get("pad", True), "norm": norm and teacher.has_norm}
        size = views[name].on_grid(tuple(config.image_size))
        made = teacher.for_size(size, **sized)
        if hasattr(made, "attention"):
            made = dataclasses.replace(made, attention=config.model.attention)
        modules[name] = registry.abstract(teacher, made, dtype)
        options[name] = sized | {
            "name": teacher.name,
            "image_size": size,
            "position_offset": row.get("position_offset"),
        }
    graph, abstract = nnx.split(Committee(modules, views))

    def load(places):
        loaded = {}
        for name, given in options.items():
            arrays = registry.state(**given, dtype=dtype, directory=config.teachers.dir, random=config.teachers.random)
            loaded[name] = meshes.put(arrays, places["teachers"][name])
        return nnx.State({"teachers": loaded})

    def features(state, batch):
        return call(nnx.merge(graph, state, copy=True), levels.normalised(batch))

    return Frozen(abstract, load, features)


def teachers_dtype(config: ConfigDict) -> str:
    """The precision of the teachers: as the recipe says, else bfloat16 on accelerators and float32 on CPUs."""
    return config.teachers.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
