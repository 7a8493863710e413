"""The keys of SAK's recipes, and the checks before a run."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from sak_jax import keys, recipe, tasks
from sak_jax.errors import UserError
from sak_jax.keys import Key
from sak_jax.methods import multitask

TEACHER = {
    "model": Key(""),  # A key of the registry of teachers.
    # Of the images it gets: the student's own, or what its weights were trained with.
    "normalisation": Key("imagenet", choices=("imagenet", "native")),
    "pad": Key(True),  # SAM's images are padded to 1024 x 1024.
    "crop": Key(False),  # The padded part of SAM's maps is left out.
}

TEACHERS = {
    "random": Key(False),  # Random teachers, to try a recipe out without weights.
    "dir": Key("", runtime=True),  # Where converted weights lie; "" is ~/.cache/sak_jax/teachers.
    # Of their weights and computation; "" is bfloat16 on accelerators and float32 on CPUs.
    "dtype": Key("", choices=("", "float32", "bfloat16")),
}

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
        "down_ratio": Key(4, above=0),  # Width of the stem over width inside an adapter.
        "aligners": Key("auto", choices=("auto", "all", "none")),  # "auto": where widths differ.
        "freeze": Key("none", choices=("none", "stem", "all_but_routers")),  # The latter lets the heads learn too.
        # What the backward pass keeps, see `sak_jax.nn.remat`; "none" keeps all, "full" recomputes all.
        "remat": Key("named", choices=("none", "named", "dots", "blocks", "full"), runtime=True),
        # How attention is computed, teachers' too: "auto" is what suits the device, see `sak_jax.nn.attention`.
        "attention": Key("auto", choices=("auto", "xla", "cudnn", "pallas", "looped"), runtime=True),
        "lora": {  # On the stem in stage 1.
            "rank": Key(0, at_least=0),
            "alpha": Key(16.0, above=0),
            "targets": Key(("qkv", "proj"), choices=("qkv", "proj", "fc1", "fc2")),
        },
    },
    "teachers": TEACHERS | {keys.ROWS: TEACHER},  # And {name: {"model": ..}}, a row a teacher.
    "distill": {  # Stage 1.
        "steps": Key(0, at_least=0),
        "lr": Key(1e-3, at_least=0),
        "warmup_lr": Key(1.25e-7, at_least=0),
        "warmup_steps": Key(0, at_least=0),
        "final_lr": Key(1e-5, at_least=0),
        "weight_decay": Key(0.01, at_least=0),
        "clip": Key(0.0, at_least=0),  # Global norm of the gradient; 0 is no clipping.
        "accumulate": Key(1, above=0),  # Parts a batch is split into, one after another.
        "loss": Key("cos+l1", choices=("cos+l1", "cos", "l2")),
        "data": Key({}, open=True),  # What differs from `data` in stage 1, which reads the images without labels.
    },
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
    for name, teacher in teachers.items():
        if not teacher.get("model"):
            raise UserError(f"config.teachers.{name} lacks its model: give it a key of the registry of teachers")
    if steps:
        multitask.check_data(config, distill_data(config), "distill.data")
    if config.multitask.steps:
        tasks.select(recipe.ordered(config.tasks))
        student_config(config, "multitask")
        multitask.check_data(config, recipe.ordered(config.data), "data")
    else:
        student_config(config, "distill")


def distill_data(config: ConfigDict) -> dict:
    """`config.data` as stage 1 reads it."""
    return recipe.ordered(config.data) | recipe.ordered(config.distill.data)


def selected_teachers(config: ConfigDict) -> dict[str, dict]:
    """The recipe's teachers and their settings, in its order."""
    rows = recipe.ordered(config.teachers).items()
    return {name: settings for name, settings in rows if name not in TEACHERS and isinstance(settings, dict)}


def set_teachers(config: ConfigDict, teachers: Mapping[str, Mapping]) -> None:
    """Makes `teachers`, {name: settings}, the recipe's committee, in their order, instead of the one it had."""
    for name in selected_teachers(config):
        del config.teachers[name]
    config.teachers.update(teachers)
