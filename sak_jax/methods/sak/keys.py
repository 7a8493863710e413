"""The keys of SAK's recipes, and the checks before a run."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from sak_jax import keys, recipe, tasks
from sak_jax.keys import Key
from sak_jax.methods import multitask
from sak_jax.methods.distillation import keys as shared
from sak_jax.methods.distillation.keys import selected_teachers

KEYS = {
    "model": {
        # A key of `sak_jax.methods.sak.student.STEMS`, or "custom" with the four sizes below; 0 takes the stem's.
        "stem": Key("base", choices=("tiny", "small", "base", "large", "custom")),
        "width": Key(0, at_least=0),
        "depth": Key(0, at_least=0),
        "heads": Key(0, at_least=0),
        "patch": Key(0, at_least=0),
        "stem_init": Key(""),  # "rooms" (shipped, for the tiny stem), an augreg .npz, or "" for random.
        "router": Key("mor", choices=("mor", "none")),  # "none": the plain sum of all experts.
        "noisy_gating": Key(True),
        "paths": Key(True),  # A path of adapters for each teacher; without, the stem itself follows all of them.
        "trunk": Key("own", choices=("own", "shared")),  # Of the heads: "shared" is one linear map for all tasks.
        "down_ratio": Key(4, above=0),  # Width of the stem over width inside an adapter.
        "aligners": Key("auto", choices=("auto", "all", "none")),  # "auto": where widths differ.
        "freeze": Key("none", choices=("none", "stem", "all_but_routers")),  # The latter lets the heads learn too.
        "lora": {  # On the stem in stage 1.
            "rank": Key(0, at_least=0),
            "alpha": Key(16.0, above=0),
            "targets": Key(("qkv", "proj"), choices=("qkv", "proj", "fc1", "fc2")),
        },
    }
    | multitask.MODEL,
    "teachers": shared.TEACHERS | {keys.ROWS: shared.TEACHER},  # And {name: {"model": ..}}, a row a teacher.
    "distill": {  # Stage 1.
        "steps": Key(0, at_least=0),
        "lr": Key(1e-3, at_least=0),
        "warmup_lr": Key(1.25e-7, at_least=0),
        "warmup_steps": Key(0, at_least=0),
        "final_lr": Key(1e-5, at_least=0),
        "weight_decay": Key(0.01, at_least=0),
        "clip": Key(0.0, at_least=0),  # Global norm of the gradient; 0 is no clipping.
        "loss": Key("cos+l1", choices=("cos+l1", "cos", "l2")),
    }
    | multitask.PARTS
    | shared.DISTILL,
    "multitask": multitask.KEYS | {"alpha": Key(1.0, at_least=0)},  # Weight of the distillation; 0: no teachers.
}


def check(config: ConfigDict, devices: int) -> None:
    """Refuses what cannot run, before anything is loaded; see `recipe.check`."""
    from sak_jax.methods.sak.build import student_config

    steps, warmup, teachers = config.distill.steps, config.distill.warmup_steps, selected_teachers(config)
    for stage in ("distill", "multitask"):
        multitask.check_parts(config, stage, devices)
    wanted = f"must be less than distill.steps = {steps}"
    recipe.require(steps + config.multitask.steps > 0, config, "multitask.steps", "or distill.steps must be set")
    recipe.require(not steps or warmup < steps, config, "distill.warmup_steps", wanted)
    recipe.require(not steps or bool(teachers), config, "distill.steps", "needs teachers")
    recipe.require(not config.multitask.steps or len(config.tasks) > 0, config, "multitask.steps", "needs tasks")
    shared.check_following(config)
    if config.distill.dropping in ("own", "own+generic") and config.multitask.steps and config.multitask.alpha:
        wanted = "goes by groups of data, which labelled images have not: set multitask.alpha=0 beside it"
        recipe.require(False, config, "distill.dropping", wanted)
    if steps:
        shared.check_images(config)
    if config.multitask.steps:
        tasks.select(recipe.ordered(config.tasks))
        student_config(config, "multitask")
        multitask.check_data(config, recipe.ordered(config.data), "data")
    else:
        student_config(config, "distill")


def set_teachers(config: ConfigDict, teachers: Mapping[str, Mapping]) -> None:
    """Makes `teachers`, {name: settings}, the recipe's committee, in their order, instead of the one it had."""
    for name in selected_teachers(config):
        del config.teachers[name]
    config.teachers.update(teachers)
