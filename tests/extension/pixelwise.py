"""A method of one's own: a map from each pixel's colour to every task's channels, trained on labels alone."""

import jax
from flax import nnx

from sak_jax import recipe, tasks
from sak_jax.engine.stage import Start
from sak_jax.keys import Key
from sak_jax.methods import multitask
from sak_jax.methods.sak.student import Outputs


class Pixelwise(nnx.Module):
    def __init__(self, hidden, channels, rngs):
        self.hidden = nnx.Linear(3, hidden, rngs=rngs)
        self.outputs = nnx.Dict({name: nnx.Linear(hidden, count, rngs=rngs) for name, count in channels.items()})

    def __call__(self, images, *, train=False, rngs=None):
        x = jax.nn.relu(self.hidden(images))
        return Outputs({name: output(x) for name, output in self.outputs.items()}, {}, {})


class PixelwiseMethod:
    def keys(self):
        return {
            "model": {"hidden": Key(16, above=0)},
            "multitask": multitask.KEYS,
        }

    def check(self, config, devices):
        multitask.check_parts(config, "multitask", devices)

    def stages(self, config):
        stage = multitask.stage(
            config,
            create=lambda rngs: self.student(config, "multitask", rngs),
            trainable=lambda path, value: isinstance(value, nnx.Param),
            start=lambda previous: Start(),
        )
        return (stage,)

    def student(self, config, stage, rngs):
        selected = tasks.select(recipe.ordered(config.tasks))
        return Pixelwise(config.model.hidden, {task.name: task.channels for task in selected}, rngs)

    def architecture(self, config, stage):
        return {"hidden": config.model.hidden}
