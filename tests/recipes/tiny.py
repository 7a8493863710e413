"""A recipe of both stages that compiles and runs in seconds: rooms of 24 x 32 pixels and a stem of width 16."""

from sak_jax import recipe
from sak_jax.methods.sak import recipes


def get_config(text: str = ""):
    chosen = recipe.arguments(text, method="sak", committee="scene+geometry")
    config = recipe.base()
    config.image_size = (24, 32)
    config.batch_size = 8
    config.eval_batch_size = 8
    config.tasks = {"semseg": {"channels": 14}, "depth": {}, "edge": {}}
    config.model.stem = "custom"
    config.model.width, config.model.depth, config.model.heads, config.model.patch = 16, 4, 2, 8
    config.teachers.update(recipes.rooms_committee(chosen["committee"]))
    config.boundary.workers = 1
    config.distill.steps = 12
    config.distill.warmup_steps = 2
    config.multitask.steps = 12
    config.multitask.lr = 1e-3
    config.multitask.eval_every = 5
    config.data.name = "rooms"
    config.data.train_length = 16
    config.data.val_length = 11
    config.checkpoint.every = 3
    config.log_every = 1
    config.loggers = ()  # TensorBoard's writer imports PyTorch.
    config.compilation_cache = ""
    return recipes.as_method(config, chosen["method"])
