"""SAK's two stages (section 3.3): distillation without labels, then multi-task learning with distillation beside it."""

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import data
from sak_jax.data import pipeline, transforms
from sak_jax.engine import optim
from sak_jax.engine.stage import Frozen, Part, Stage
from sak_jax.methods import multitask
from sak_jax.methods.sak import build, start
from sak_jax.methods.sak.keys import distill_data
from sak_jax.methods.sak.losses import distillation_loss
from sak_jax.methods.sak.student import Student


def stages(config: ConfigDict) -> tuple[Stage, ...]:
    """The stages of a recipe that have steps."""
    frozen = build.committee(config)
    found = []
    if config.distill.steps:
        found.append(distill_stage(config, frozen))
    if config.multitask.steps:
        found.append(multitask_stage(config, frozen))
    return tuple(found)


def distill_stage(config: ConfigDict, frozen: Frozen) -> Stage:
    """Stage 1: the student's aligned features towards the committee's."""
    settings = config.distill
    schedule = optim.warmup_cosine(
        settings.lr,
        settings.steps,
        warmup_steps=settings.warmup_steps,
        warmup_from=settings.warmup_lr,
        final=settings.final_lr,
    )

    def loss(student: Student, features, part: Part):
        outputs = student(part.batch["image"], train=True, rngs=nnx.Rngs(noise=part.key))
        total, teachers = compare(outputs, features)
        return part.share * total, {k: part.share * value for k, value in ({"distill": total} | teachers).items()}

    compare = distillation(settings.loss)
    return Stage(
        name="distill",
        steps=settings.steps,
        create=_creates(config, "distill"),
        trainable=trainable(config.model.freeze, lora_only=config.model.lora.rank > 0),
        loss=loss,
        optimizer=optim.adamw(schedule, weight_decay=settings.weight_decay, clip=settings.clip),
        schedule=schedule,
        batches=lambda: open_batches(config),
        inputs={"image": jax.ShapeDtypeStruct((config.batch_size, *config.image_size, 3), jnp.float32)},
        start=lambda previous: start.start(config, "distill", previous),
        frozen=frozen,
        accumulate=settings.accumulate,
    )


def multitask_stage(config: ConfigDict, frozen: Frozen | None) -> Stage:
    """Stage 2: task losses plus `alpha` times the distillation loss."""
    alpha = config.multitask.alpha
    distils = alpha > 0 and frozen is not None
    return multitask.stage(
        config,
        create=_creates(config, "multitask"),
        trainable=trainable(config.model.freeze, lora_only=False),
        start=lambda previous: start.start(config, "multitask", previous),
        frozen=frozen if distils else None,
        distillation=distillation(config.distill.loss) if distils else None,
        alpha=alpha,
    )


def trainable(freeze: str, lora_only: bool):
    """The NNX filter of what is trained.

    Args:
      freeze: `none`, `stem`, or `all_but_routers` (the backbone but its routers; the heads learn).
      lora_only: of the stem's parameters only the low-rank updates learn (stage 1 with LoRA).
    """

    def is_trained(path, value) -> bool:
        if not isinstance(value, nnx.Param):
            return False
        if freeze == "all_but_routers":
            return path[0] in ("routers", "heads")
        if path[0] == "stem":
            return freeze != "stem" and (not lora_only or isinstance(value, nnx.LoRAParam))
        return True

    return is_trained


def open_batches(config: ConfigDict) -> pipeline.Batches:
    """Stage 1's images, without labels."""
    settings, size = distill_data(config), tuple(config.image_size)
    return pipeline.train_batches(
        data.create_source(settings, "train", (), size),
        transforms.distill_transform(size),
        config.batch_size,
        config.seed,
        workers=settings["workers"],
        **multitask.processes(),
    )


def _creates(config: ConfigDict, stage: str):
    settings = build.student_config(config, stage)
    return lambda rngs: Student(settings, rngs=rngs)


def distillation(kind: str):
    """The distillation loss of a kind as `multitask.loss` takes it, with each teacher's part in the logs."""

    def compare(outputs, features):
        total, teachers = distillation_loss(outputs.aligned, features, kind=kind)
        return total, {f"distill/{name}": value for name, value in teachers.items()}

    return compare
