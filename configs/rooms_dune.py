"""DUNE on the embedded data set: one encoder from three teachers and three groups of rooms, then heads on it.

python -m sak_jax.main --config=configs/rooms_dune.py

Groups are rooms as they are, close-ups and rooms at night, of unequal sizes, each with a teacher of its own. Arguments:
`projector=transformer|mlp|ladder`; `assignment=full` (all images teach all teachers), `own` (each its own group's) or
`own+generic` (plain rooms teach all); `dropping=lowest_loss|none` (with `assignment=full`);
`standardise=batch|none|running|frozen|phi_s`; `encoder=finetuned|frozen` while the heads learn; `start=rooms|scratch`.
Images, steps of both stages and tasks are those of `configs/rooms.py`, and the table is the same.
"""

from sak_jax import recipe
from sak_jax.data.rooms import tasks

ASSIGNMENTS = ("full", "own", "own+generic")
LOOKS = {"plain": 2500, "close": 1000, "night": 500}
"""Each group's look, after which it is named, and its number of scenes."""


def get_config(text: str = ""):
    """The recipe, see above."""
    chosen = recipe.arguments(
        text,
        projector="transformer",
        assignment="full",
        standardise="batch",
        dropping="lowest_loss",
        encoder="finetuned",
        start="rooms",
    )
    recipe.check_arguments(
        chosen,
        assignment=ASSIGNMENTS,
        dropping=("lowest_loss", "none"),
        encoder=("finetuned", "frozen"),
        start=("rooms", "scratch"),
    )
    config = recipe.base("dune")
    config.image_size = (72, 96)
    config.batch_size = 8
    config.tasks = tasks.TASKS
    config.baselines = tasks.SINGLE_TASK
    config.model.stem = "custom"
    config.model.width, config.model.depth, config.model.heads, config.model.patch = 96, 8, 3, 8
    if chosen["start"] == "rooms":  # Where `configs/rooms.py` starts from; it has neither registers nor layer scales.
        config.model.stem_init = "rooms"
        config.model.registers, config.model.layer_scale = 0, False
    config.model.projector = chosen["projector"]
    config.model.hidden, config.model.last_hidden = 96, 384
    config.model.freeze = "stem" if chosen["encoder"] == "frozen" else "none"
    config.teachers.update(
        {
            "scene": {"model": "rooms_scene", "group": "plain", "tokens": ("cls", "patch")},
            "regions": {"model": "rooms_regions", "group": "close", "tokens": ("patch",)},
            "geometry": {"model": "rooms_geometry", "group": "night", "tokens": ("patch",)},
        }
    )
    config.distill.steps = 500
    config.distill.lr = 2e-3
    config.distill.warmup_steps = 100
    config.distill.standardise = chosen["standardise"]
    config.distill.dropping = chosen["dropping"] if chosen["assignment"] == "full" else chosen["assignment"]
    config.distill.generic = ("plain",)
    config.distill.augment = "crop"
    config.distill.mix.sets = {
        look: {"name": "rooms", "group": look, "look": look, "train_length": scenes, "seed": seed, "cache": True}
        for seed, (look, scenes) in enumerate(LOOKS.items())
    }
    config.multitask.steps = 450
    config.multitask.lr = 2e-3
    config.multitask.scale_range = (1.0, 1.0)
    config.data.name = "rooms"
    config.data.train_length = 256
    config.data.val_length = 128
    config.data.seed = 0
    config.data.cache = True
    return config
