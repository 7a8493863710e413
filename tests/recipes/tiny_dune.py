"""DUNE in seconds: rooms of 24 x 32 pixels in two groups, an encoder of width 16, and heads on it."""

from sak_jax import recipe


def get_config(text: str = ""):
    chosen = recipe.arguments(
        text, projector="transformer", standardise="batch", dropping="lowest_loss", multitask="yes"
    )
    config = recipe.base("dune")
    config.image_size = (24, 32)
    config.loggers = ()  # TensorBoard's writer imports PyTorch.
    config.batch_size = 8
    config.eval_batch_size = 8
    config.tasks = {"semseg": {"channels": 14}, "depth": {}}
    config.model.stem = "custom"
    config.model.width, config.model.depth, config.model.heads, config.model.patch = 16, 4, 2, 8
    config.model.registers = 2
    config.model.projector = chosen["projector"]
    config.model.hidden, config.model.last_hidden = 16, 24
    config.teachers.update(
        {
            "scene": {"model": "rooms_scene", "group": "plain", "tokens": ("cls", "patch")},
            "geometry": {"model": "rooms_geometry", "group": "night", "tokens": ("patch",)},
        }
    )
    config.distill.steps = 6
    config.distill.warmup_steps = 2
    config.distill.lr = 1e-3
    config.distill.standardise = chosen["standardise"]
    config.distill.dropping = chosen["dropping"]
    config.distill.measure = 2
    config.distill.mix.sets = {
        "rooms": {"name": "rooms", "group": "plain", "train_length": 12},
        "dark_rooms": {"name": "rooms", "group": "night", "train_length": 5, "seed": 1},
    }
    config.multitask.steps = 3 if chosen["multitask"] == "yes" else 0
    config.multitask.lr = 1e-3
    config.data.name = "rooms"
    config.data.train_length = 16
    config.data.val_length = 11
    config.checkpoint.every = 3
    config.log_every = 1
    config.compilation_cache = ""
    return config
