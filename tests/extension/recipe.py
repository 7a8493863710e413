"""What a recipe may bring along: a kind of task, a data set, a teacher and a method, none of them the package's.

python -m sak_jax.main --config=tests/extension/recipe.py [:method=pixelwise]
"""

from sak_jax import data, methods, recipe, tasks
from sak_jax.teachers import registry
from tests.extension import colours, flow, pixelwise, tiles

tasks.register(flow.Flow())
data.register("tiles", tiles.create, tiles.KEYS)
registry.register(colours.TEACHER)
methods.register("pixelwise", pixelwise.PixelwiseMethod())


def get_config(text: str = ""):
    method = recipe.arguments(text, method="sak")["method"]
    config = recipe.base(method)
    config.image_size = (24, 32)
    config.batch_size = config.eval_batch_size = 4
    config.tasks = {"flow": {"kind": "flow", "channels": 2, "weight": 1.0, "metric": "EPE"}}
    config.data.name = "tiles"
    config.data.samples = 8
    config.multitask.steps = 4
    config.multitask.lr = 1e-3
    config.log_every = 1
    config.compilation_cache = ""
    if method == "sak":
        config.model.stem = "custom"
        config.model.width, config.model.depth, config.model.heads, config.model.patch = 16, 4, 2, 8
        config.teachers.random = True
        config.teachers.update({"colours": {"model": "colours"}})
        config.distill.steps = 3
        config.distill.warmup_steps = 1
    return config
