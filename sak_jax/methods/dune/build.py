"""From a recipe to DUNE's student, its committee, and the encoder with heads."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import recipe, tasks
from sak_jax.engine.stage import Frozen
from sak_jax.errors import UserError
from sak_jax.methods.distillation import teachers as committees
from sak_jax.methods.distillation.keys import own_groups, selected_teachers
from sak_jax.methods.dune.losses import Distillation
from sak_jax.methods.dune.student import ENCODERS, Followed, Projected, Student, StudentConfig, encoder_config
from sak_jax.methods.foundation.student import FoundationStudent
from sak_jax.methods.sak.student import LEVELS
from sak_jax.nn.vit import ViT, ViTConfig
from sak_jax.teachers import registry
from sak_jax.teachers.views import View

TOKENS = ("cls", "patch")
"""What is followed of a teacher whose row does not say it."""


def encoder(config: ConfigDict) -> ViTConfig:
    """The encoder a recipe asks for.

    Raises:
      UserError: sizes are missing, or do not fit each other or the image.
    """
    model = config.model
    sizes = dict(ENCODERS.get(model.stem, {}))
    sizes |= {key: model[key] for key in ("width", "depth", "heads") if model[key]}
    missing = {"width", "depth", "heads"} - set(sizes)
    if missing:
        raise UserError(f"config.model.{min(missing)} must be set for the custom stem")
    if sizes["depth"] % 4 or sizes["width"] % sizes["heads"]:
        raise UserError(
            f"config.model: depth {sizes['depth']} must be a multiple of 4, and width {sizes['width']} of the "
            f"{sizes['heads']} heads"
        )
    options = {"patch": model.patch, "registers": model.registers, "layer_scale": model.layer_scale}
    made = encoder_config(sizes, tuple(config.image_size), **options)
    return dataclasses.replace(made, attention=model.attention, remat=model.remat)


def student_config(config: ConfigDict) -> StudentConfig:
    """The student of distillation that a recipe asks for.

    Raises:
      UserError: as `encoder`, or a teacher does not have the tokens that are followed.
    """
    followed = []
    for name, row in sorted(selected_teachers(config).items()):
        kinds, width = tuple(row.get("tokens", TOKENS)), row.get("width", 0)
        if not kinds:
            raise UserError(f"config.teachers.{name}.tokens is empty: name cls, patch or both")
        if not width:
            teacher = registry.get(row.get("model", ""))
            width = teacher.width
            if "cls" in kinds and not getattr(teacher.config, "class_token", False):
                raise UserError(
                    f"config.teachers.{name}.tokens has cls, which {teacher.name} does not: take patch alone"
                )
        followed.append(Followed(name, width, kinds))
    model = config.model
    return StudentConfig(
        encoder(config),
        tuple(followed),
        projector=model.projector,
        hidden=model.hidden,
        last_hidden=model.last_hidden,
        standardise=config.distill.standardise,
        dtype=config.dtype,
        remat=model.remat,
    )


def student(config: ConfigDict, stage: str, rngs: nnx.Rngs) -> nnx.Module:
    """With fresh parameters: encoder and projectors (`distill`), or what heads read and the heads (`multitask`)."""
    if stage == "distill":
        return Student(student_config(config), rngs=rngs)
    settings, dtype = under_heads(config), jnp.dtype(config.dtype)
    channels = tuple((task.name, task.channels) for task in tasks.select(recipe.ordered(config.tasks)))
    if isinstance(settings, ViTConfig):
        model, width, levels = ViT(settings, dtype=dtype, rngs=rngs), settings.width, LEVELS
    else:
        model, width, levels = Projected(settings, rngs=rngs), settings.teachers[0].width, 1
    options = {"levels": levels, "patch": config.model.patch, "dtype": dtype, "policy": config.model.remat}
    return FoundationStudent(model, View(), width, channels, **options, rngs=rngs)


def under_heads(config: ConfigDict) -> ViTConfig | StudentConfig:
    """What heads read: the encoder, or the student of one teacher whose projector they read after.

    Raises:
      UserError: as `encoder`, or the recipe has no such teacher, or its patches are not followed.
    """
    name = config.model.read_after
    if not name:
        return encoder(config)
    whole = student_config(config)
    readable = {teacher.name: teacher for teacher in whole.teachers if "patch" in teacher.tokens}
    if name not in readable:
        names = ", ".join(readable) or "no teacher"
        raise UserError(f"config.model.read_after={name!r}: the recipe follows the patches of {names}")
    return dataclasses.replace(whole, teachers=(readable[name],), standardise="none")


def committee(config: ConfigDict) -> Frozen:
    """The frozen teachers: the followed tokens of each, on the student's grid, after the final norm.

    Raises:
      UserError: a teacher is unknown, or its weights are missing.
    """
    rows, patch = selected_teachers(config), config.model.patch
    followed = {name: tuple(row.get("tokens", TOKENS)) for name, row in rows.items()}
    rows = {name: {"position_offset": 0.1, "student_patch": patch} | row for name, row in rows.items()}
    return committees.committee(config, rows, lambda committee, images: committee.tokens(images, followed), norm=True)


def distillation(config: ConfigDict) -> Distillation:
    """How teachers are followed."""
    settings = config.distill
    return Distillation(
        settings.standardise,
        settings.dropping,
        settings.drop_probability,
        cosine=settings.cosine,
        smooth_l1=settings.smooth_l1,
        **own_groups(config),
    )
