"""From a recipe to SAK's student and its committee."""

from ml_collections import ConfigDict

from sak_jax import recipe, tasks
from sak_jax.engine.stage import Frozen
from sak_jax.errors import UserError
from sak_jax.methods.distillation import teachers as committees
from sak_jax.methods.distillation.keys import selected_teachers
from sak_jax.methods.sak.student import LEVELS, STEMS, StudentConfig
from sak_jax.nn.vit import LoRA, ViTConfig
from sak_jax.teachers import registry


def student_config(config: ConfigDict, stage: str) -> StudentConfig:
    """The student a recipe asks for.

    Args:
      config: the recipe.
      stage: `distill` has neither routers nor heads; `multitask` has both.

    Raises:
      UserError: an unknown stem, or sizes that do not fit each other or the image.
    """
    model = config.model
    sizes = dict(STEMS.get(model.stem, {}))
    sizes |= {key: model[key] for key in ("width", "depth", "heads", "patch") if model[key]}
    missing = {"width", "depth", "heads", "patch"} - set(sizes)
    if missing:
        raise UserError(f"config.model.{min(missing)} must be set for the custom stem")
    if sizes["depth"] % LEVELS or sizes["width"] % sizes["heads"] or sizes["width"] % LEVELS:
        raise UserError(
            f"config.model: depth {sizes['depth']} and width {sizes['width']} must be multiples of {LEVELS}, "
            f"and the width of the {sizes['heads']} heads"
        )
    if model.down_ratio > sizes["width"]:
        raise UserError(f"config.model.down_ratio {model.down_ratio} must be at most the width {sizes['width']}")
    if any(side % sizes["patch"] for side in config.image_size):
        raise UserError(f"config.image_size {tuple(config.image_size)} must be multiples of the patch {sizes['patch']}")
    teachers = tuple((name, registry.width(teacher["model"])) for name, teacher in selected_teachers(config).items())
    aligned = {
        "none": (),
        "all": tuple(name for name, _ in teachers),
        "auto": tuple(name for name, width in teachers if width != sizes["width"]),
    }[model.aligners if model.paths else "all"]
    for name, width in teachers:
        if width != sizes["width"] and name not in aligned:
            raise UserError(f"config.model.aligners is none but {name} is {width} wide, not {sizes['width']}: use auto")
    if not model.paths and model.router != "none":
        raise UserError(
            "config.model.paths is False, so that routers have nothing to choose from: set model.router=none"
        )
    lora = LoRA(model.lora.rank, model.lora.alpha, tuple(model.lora.targets)) if model.lora.rank else None
    step = sizes["depth"] // LEVELS
    selected = tasks.select(recipe.ordered(config.tasks)) if stage == "multitask" else ()
    return StudentConfig(
        stem=ViTConfig(
            **sizes,
            taps=tuple(range(step - 1, sizes["depth"], step)),
            image_size=tuple(config.image_size),
            lora=lora,
            attention=model.attention,
        ),
        teachers=teachers,
        tasks=tuple((task.name, task.channels) for task in selected),
        aligners=aligned,
        router=model.router,
        noisy_gating=model.noisy_gating,
        paths=model.paths,
        trunk=model.trunk,
        down_ratio=model.down_ratio,
        standardise=config.distill.standardise if teachers else "none",
        dtype=config.dtype,
        remat=model.remat,
    )


def committee(config: ConfigDict) -> Frozen | None:
    """The frozen teachers of a recipe, not loaded yet, or None where it has none.

    Raises:
      UserError: a teacher is unknown or its weights are missing; names the file and the command that makes it.
    """
    rows = selected_teachers(config)
    return committees.committee(config, rows, lambda committee, images: committee(images)) if rows else None
