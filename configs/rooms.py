"""Both stages on the embedded data set, from nothing to a table and a picture in minutes on two cores.

python -m sak_jax.main --config=configs/rooms.py

Baselines: `--config=configs/rooms.py:method=multitask` (nothing distilled), `:method=single-semseg` (one task);
`:committee=scene` or `scene+geometry` has these teachers alone.
"""

from sak_jax import recipe
from sak_jax.data.rooms import tasks
from sak_jax.methods.sak import recipes


def get_config(text: str = ""):
    """The recipe; `method` is sak, multitask or single-TASK, `committee` names teachers, all of them by default."""
    chosen = recipe.arguments(text, method="sak", committee="+".join(recipes.ROOMS_COMMITTEE))
    config = recipe.base()
    config.image_size = (72, 96)
    config.batch_size = 8
    config.tasks = tasks.TASKS
    config.baselines = tasks.SINGLE_TASK
    config.model.stem = "tiny"
    config.model.stem_init = "rooms"
    config.teachers.update(recipes.rooms_committee(chosen["committee"]))
    config.distill.steps = 500
    config.distill.lr = 5e-3
    config.distill.warmup_steps = 20
    config.multitask.steps = 450
    config.multitask.lr = 2e-3
    config.multitask.scale_range = (1.0, 1.0)
    config.data.name = "rooms"
    config.data.train_length = 256
    config.data.val_length = 128
    config.data.seed = 0
    config.data.cache = True
    config.distill.data = {"train_length": 4000}  # Every scene once.
    return recipes.as_method(config, chosen["method"])
