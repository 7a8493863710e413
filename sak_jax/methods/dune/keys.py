"""The keys of DUNE's and UNIC's recipes, and the checks before a run."""

from ml_collections import ConfigDict

from sak_jax import keys, recipe, tasks
from sak_jax.errors import UserError
from sak_jax.keys import Key
from sak_jax.methods import multitask
from sak_jax.methods.distillation import keys as shared

KEYS = {
    "model": {
        # A key of `student.ENCODERS`, or "custom" with the three sizes below; 0 takes the stem's.
        "stem": Key("base", choices=("tiny", "small", "base", "large", "giant2", "custom")),
        "width": Key(0, at_least=0),
        "depth": Key(0, at_least=0),
        "heads": Key(0, at_least=0),
        "patch": Key(14, above=0),
        "registers": Key(4, at_least=0),
        "layer_scale": Key(True),
        "stem_init": Key("", choices=("", "rooms")),  # "rooms": shipped weights, for 96 x 8 x 3 and patch 8.
        "projector": Key("transformer", choices=("transformer", "ladder", "mlp")),
        "hidden": Key(768, above=0),  # Channels inside the ladder's MLPs; of that at the last block, and of `mlp`:
        "last_hidden": Key(3072, above=0),
        "freeze": Key("none", choices=("none", "stem")),  # "stem": the encoder stays as it is while heads learn.
        "read_after": Key(""),  # Heads read the encoder's four levels, or what this teacher's projector makes of it.
    }
    | multitask.MODEL,
    "teachers": shared.TEACHERS
    | {
        keys.ROWS: shared.TEACHER
        | {
            "tokens": Key(("cls", "patch"), choices=("cls", "patch")),  # Those that are followed.
            "width": Key(0, at_least=0),  # Of its tokens, where it is not in the registry; 0 is what that says.
            "position_offset": Key(0.1, at_least=0),  # With which its positions are resized: DINOv2's rule.
        }
    },
    "distill": shared.DISTILL
    | multitask.PARTS
    | {
        "standardise": Key("batch", choices=shared.STANDARDISE),
        "dropping": Key("lowest_loss", choices=shared.DROPPING),
        "steps": Key(0, at_least=0),
        "lr": Key(1.2e-3, at_least=0),  # The peak.
        "final_lr": Key(1e-6, at_least=0),
        "warmup_steps": Key(0, at_least=0),
        "weight_decay": Key(0.03, at_least=0),
        "clip": Key(1.0, at_least=0),  # Of each layer's tensor by itself; 0 is no clipping.
        "betas": Key((0.9, 0.99), at_least=0, below=1, length=2),
        "eps": Key(1e-15, above=0),
        "cosine": Key(0.5, at_least=0),  # Weights of the two distances of tokens.
        "smooth_l1": Key(0.5, at_least=0),
        "augment": Key("dune", choices=("dune", "crop")),  # "crop": that of SAK's stage 1, without colours.
    },
    "multitask": multitask.KEYS,
}


def check(config: ConfigDict, devices: int) -> None:
    """Refuses what cannot run, before anything is loaded; see `recipe.check`."""
    from sak_jax.methods.dune import build  # Brings JAX, without which a recipe can be read.

    steps, warmup = config.distill.steps, config.distill.warmup_steps
    for stage in ("distill", "multitask"):
        multitask.check_parts(config, stage, devices)
    recipe.require(steps + config.multitask.steps > 0, config, "multitask.steps", "or distill.steps must be set")
    build.encoder(config)
    if steps:
        recipe.require(warmup < steps, config, "distill.warmup_steps", f"must be less than distill.steps = {steps}")
        recipe.require(bool(shared.selected_teachers(config)), config, "distill.steps", "needs teachers")
        parts = config.batch_size // config.distill.accumulate
        statistics = config.distill.standardise in ("batch", "running")
        recipe.require(
            not statistics or parts > 1, config, "batch_size", "must be 2 or more: one image has no deviation"
        )
        shared.check_following(config)
        shared.check_images(config)
        build.student_config(config)
    if config.multitask.steps:
        recipe.require(len(config.tasks) > 0, config, "multitask.steps", "needs tasks")
        build.under_heads(config)
        if not steps and not config.init_from and not config.model.stem_init and config.model.freeze == "stem":
            raise UserError("config.model.freeze is 'stem': give the encoder's weights by config.init_from")
        tasks.select(recipe.ordered(config.tasks))
        multitask.check_data(config, recipe.ordered(config.data), "data")
