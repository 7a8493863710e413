"""What the foundation model starts from, and which of its parameters learn."""

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import recipe
from sak_jax.engine.stage import Start
from sak_jax.teachers import registry


def start(config: ConfigDict) -> Start:
    """The converted weights of the foundation model, for the image's size; random ones to try a recipe out."""
    options = recipe.ordered(config.model.encoder)
    name = options.pop("model")
    if config.teachers.random:
        return Start()
    encoder, _ = registry.load(name, tuple(config.image_size), directory=config.teachers.dir, **options)
    flat = nnx.to_flat_state(nnx.state(encoder))
    return Start(name, {("encoder", *path): np.asarray(value[...]) for path, value in flat})


def trainable(freeze: str):
    """The NNX filter of what is trained: all parameters, or with `stem` those of the heads."""

    def is_trained(path, value) -> bool:
        return isinstance(value, nnx.Param) and not (freeze == "stem" and path[0] == "encoder")

    return is_trained
