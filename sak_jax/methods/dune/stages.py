"""DUNE's stages: distillation without labels, and multi-task learning with heads on the encoder."""

import jax
from flax import nnx
from ml_collections import ConfigDict

from sak_jax.data import pipeline, transforms, views
from sak_jax.engine.stage import Part, Stage
from sak_jax.methods import multitask
from sak_jax.methods.distillation import dropping, images, state, statistics
from sak_jax.methods.dune import build, optim, start
from sak_jax.methods.dune.losses import distillation_loss
from sak_jax.methods.dune.student import Student
from sak_jax.methods.foundation.start import trainable
from sak_jax.nn import levels


def stages(config: ConfigDict) -> tuple[Stage, ...]:
    """The stages of a recipe that have steps."""
    found = []
    if config.distill.steps:
        found.append(distill_stage(config))
    if config.multitask.steps:
        found.append(multitask_stage(config))
    return tuple(found)


def distill_stage(config: ConfigDict) -> Stage:
    """The student's tokens towards the teachers' standardised ones (DUNE, section 4).

    A second stage at another image size is a recipe of its own, with `init_from` the first.
    """
    settings, following, frozen = config.distill, build.distillation(config), build.committee(config)
    schedule = optim.warmup_cosine(settings.lr, settings.final_lr, settings.steps, settings.warmup_steps)
    momentum = optim.warmup_cosine(*settings.momentum, settings.steps)
    teachers = len(frozen.abstract["teachers"])

    def loss(student: Student, features, part: Part):
        batch = levels.normalised(part.batch)
        total, logs, moved = distillation_loss(
            following,
            student(batch),
            features,
            student.running_statistics(),
            momentum=momentum(part.step),
            draws=dropping.draw(part.key, len(batch), max(teachers, 2)),
            groups=part.batch.get("group"),
            train=True,
        )
        student.set_statistics(moved)
        return part.share * total, jax.tree.map(lambda value: part.share * value, {"distill": total} | logs)

    measure = None
    if settings.standardise in statistics.MEASURED:
        measure = lambda: state.measured(config, frozen, open_batches(config))  # noqa: E731
    return Stage(
        name="distill",
        steps=settings.steps,
        create=lambda rngs: build.student(config, "distill", rngs),
        trainable=nnx.Param,
        loss=loss,
        optimizer=optim.adamw(
            schedule,
            weight_decay=settings.weight_decay,
            clip=settings.clip,
            betas=tuple(settings.betas),
            eps=settings.eps,
        ),
        schedule=schedule,
        batches=lambda: open_batches(config),
        inputs=images.inputs(config),
        start=lambda previous: start.distillation(config, measure),
        frozen=frozen,
        accumulate=settings.accumulate,
        teach_whole=settings.teach_whole,
    )


def multitask_stage(config: ConfigDict) -> Stage:
    """Heads on the encoder, frozen or fine-tuned; teachers are not needed any more."""
    return multitask.stage(
        config,
        create=lambda rngs: build.student(config, "multitask", rngs),
        trainable=trainable(config.model.freeze),
        start=lambda previous: start.multitask(config, previous),
    )


def open_batches(config: ConfigDict) -> pipeline.Batches:
    """The images of distillation."""
    size = tuple(config.image_size)
    augment = views.dune_transform if config.distill.augment == "dune" else transforms.distill_transform
    return images.open_batches(config, augment(size))
