"""What DUNE answers as a method, see `sak_jax.methods`."""

import dataclasses

from ml_collections import ConfigDict

from sak_jax import keys as keys_lib
from sak_jax import recipe, tasks
from sak_jax.keys import Keys
from sak_jax.methods.dune.keys import KEYS, check

__all__ = ["architecture", "check", "keys", "stages", "student"]

HOW_IT_IS_COMPUTED = ("dtype", "remat", "attention")
"""What may differ between the run that made a student and one that uses it: last parts of keys, at any depth."""


def keys() -> Keys:
    """The keys of a recipe that are its own."""
    return KEYS


def stages(config: ConfigDict) -> tuple:
    """Distillation, multi-task learning on the encoder, or both."""
    from sak_jax.methods.dune.stages import stages  # Brings the teachers, without which a recipe can be read.

    return stages(config)


def student(config: ConfigDict, stage: str, rngs):
    """With fresh parameters: encoder and projectors (`distill`), or encoder and heads (`multitask`)."""
    from sak_jax.methods.dune import build

    return build.student(config, stage, rngs)


def architecture(config: ConfigDict, stage: str) -> dict[str, object]:
    """What its arrays and their meaning depend on."""
    from sak_jax.methods.dune import build

    if stage == "distill":
        parts = dataclasses.asdict(build.student_config(config))
    else:
        channels = [(task.name, task.channels) for task in tasks.select(recipe.ordered(config.tasks))]
        parts = {"encoder": dataclasses.asdict(build.under_heads(config)), "tasks": channels}
    flat = keys_lib.flatten(parts)
    return {key: value for key, value in flat.items() if key.split(".")[-1] not in HOW_IT_IS_COMPUTED}
