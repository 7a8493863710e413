"""What the baseline answers as a method, see `sak_jax.methods`."""

from ml_collections import ConfigDict

from sak_jax import keys as keys_lib
from sak_jax import recipe, tasks
from sak_jax.keys import Key, Keys
from sak_jax.methods import multitask
from sak_jax.teachers import registry

KEYS = {
    "model": {
        "encoder": {
            "model": Key(""),  # A key of the registry of teachers.
            "normalisation": Key("imagenet", choices=("imagenet", "native")),  # This and the next two as for teachers.
            "pad": Key(True),
            "crop": Key(False),
        },
        "freeze": Key("none", choices=("none", "stem")),  # "stem": the encoder stays as it is.
    }
    | multitask.MODEL,
    "teachers": {  # The encoder's weights are those of a teacher.
        "random": Key(False),  # Random weights, to try a recipe out.
        "dir": Key("", runtime=True),  # Where converted weights lie; "" is ~/.cache/sak_jax/teachers.
    },
    "multitask": multitask.KEYS,
}


def keys() -> Keys:
    """The keys of a recipe that are its own."""
    return KEYS


def check(config: ConfigDict, devices: int) -> None:
    """Refuses what cannot run, before anything is loaded."""
    recipe.require(config.multitask.steps > 0, config, "multitask.steps", "must be set")
    recipe.require(len(config.tasks) > 0, config, "tasks", "must name one at least")
    recipe.require(not config.init_from, config, "init_from", "must not be set: the encoder has weights of its own")
    multitask.check_parts(config, "multitask", devices)
    multitask.check_data(config, recipe.ordered(config.data), "data")
    tasks.select(recipe.ordered(config.tasks))
    registry.width(config.model.encoder.model)


def stages(config: ConfigDict) -> tuple:
    """Multi-task learning alone."""
    from sak_jax.methods.foundation import start

    is_trained = start.trainable(config.model.freeze)
    return (
        multitask.stage(
            config,
            create=lambda rngs: student(config, "multitask", rngs),
            trainable=is_trained,
            start=lambda previous: start.start(config),
        ),
    )


def student(config: ConfigDict, stage: str, rngs):
    """The foundation model with the decode heads of the student, with fresh parameters."""
    import jax.numpy as jnp

    from sak_jax.methods.foundation.student import FoundationStudent

    options, dtype = recipe.ordered(config.model.encoder), jnp.dtype(config.dtype)
    name = options.pop("model")
    how = {"attention": config.model.attention, "remat": config.model.remat}
    encoder, view = registry.fresh(name, tuple(config.image_size), dtype=dtype, rngs=rngs, **how, **options)
    channels = tuple((task.name, task.channels) for task in tasks.select(recipe.ordered(config.tasks)))
    options = {"dtype": dtype, "policy": config.model.remat}
    return FoundationStudent(encoder, view, registry.width(name), channels, **options, rngs=rngs)


def architecture(config: ConfigDict, stage: str) -> dict[str, object]:
    """What its arrays and their meaning depend on."""
    channels = [(task.name, task.channels) for task in tasks.select(recipe.ordered(config.tasks))]
    encoder = keys_lib.flatten(recipe.ordered(config.model.encoder))
    return encoder | {"image_size": tuple(config.image_size), "tasks": channels}
