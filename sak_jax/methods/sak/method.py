"""What SAK answers as a method, see `sak_jax.methods`."""

import dataclasses

from ml_collections import ConfigDict

from sak_jax import keys as keys_lib
from sak_jax.keys import Keys
from sak_jax.methods.sak.keys import KEYS, check

HOW_IT_IS_COMPUTED = ("dtype", "remat", "stem.attention", "stem.remat")
"""What of a student's config does not matter to its arrays."""

__all__ = ["architecture", "check", "keys", "stages", "student"]


def keys() -> Keys:
    """The keys of a recipe that are its own."""
    return KEYS


def stages(config: ConfigDict) -> tuple:
    """Stage 1, stage 2, or both."""
    from sak_jax.methods.sak.stages import stages  # Brings the teachers, without which a recipe can be read.

    return stages(config)


def student(config: ConfigDict, stage: str, rngs):
    """A student of a stage, `distill` or `multitask`, with fresh parameters."""
    from sak_jax.methods.sak.build import student_config
    from sak_jax.methods.sak.student import Student

    return Student(student_config(config, stage), rngs=rngs)


def architecture(config: ConfigDict, stage: str) -> dict[str, object]:
    """What a student's arrays and their meaning depend on."""
    from sak_jax.methods.sak.build import student_config

    parts = keys_lib.flatten(dataclasses.asdict(student_config(config, stage)))
    return {key: value for key, value in parts.items() if key not in HOW_IT_IS_COMPUTED}
