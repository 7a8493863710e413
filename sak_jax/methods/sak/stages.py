"""SAK's two stages (section 3.3): distillation without labels, then multi-task learning with distillation beside it."""

import jax
from flax import nnx
from ml_collections import ConfigDict

from sak_jax.data import pipeline, transforms
from sak_jax.engine import optim
from sak_jax.engine.stage import Frozen, Part, Stage
from sak_jax.methods import multitask
from sak_jax.methods.distillation import dropping, images, keys, state, statistics
from sak_jax.methods.distillation.schedule import warmup_cosine
from sak_jax.methods.sak import build, losses, start
from sak_jax.methods.sak.student import Student
from sak_jax.nn import levels


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
        outputs = student(levels.normalised(part.batch), train=True, rngs=nnx.Rngs(noise=part.key))
        total, teachers = compare(student, outputs, features, part)
        return part.share * total, {k: part.share * value for k, value in ({"distill": total} | teachers).items()}

    compare = distillation(config, settings.steps)
    measure = measures(config, frozen)
    return Stage(
        name="distill",
        steps=settings.steps,
        create=_creates(config, "distill"),
        trainable=trainable(config.model.freeze, lora_only=config.model.lora.rank > 0),
        loss=loss,
        optimizer=optim.adamw(schedule, weight_decay=settings.weight_decay, clip=settings.clip),
        schedule=schedule,
        batches=lambda: open_batches(config),
        inputs=images.inputs(config),
        start=lambda previous: start.start(config, "distill", previous, measure),
        frozen=frozen,
        accumulate=settings.accumulate,
        teach_whole=settings.teach_whole,
    )


def multitask_stage(config: ConfigDict, frozen: Frozen | None) -> Stage:
    """Stage 2: task losses plus `alpha` times the distillation loss."""
    alpha = config.multitask.alpha
    distils = alpha > 0 and frozen is not None
    return multitask.stage(
        config,
        create=_creates(config, "multitask"),
        trainable=trainable(config.model.freeze, lora_only=False),
        start=lambda previous: start.start(
            config, "multitask", previous, measures(config, frozen) if distils else None
        ),
        frozen=frozen if distils else None,
        distillation=distillation(config, config.multitask.steps) if distils else None,
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
    return images.open_batches(config, transforms.distill_transform(tuple(config.image_size)))


def _creates(config: ConfigDict, stage: str):
    settings = build.student_config(config, stage)
    return lambda rngs: Student(settings, rngs=rngs)


def measures(config: ConfigDict, frozen: Frozen):
    """What gives the statistics of the teachers' features before training, or None where they are not measured."""
    if config.distill.standardise not in statistics.MEASURED:
        return None
    return lambda: state.measured(config, frozen, open_batches(config), losses.by_level)


def distillation(config: ConfigDict, steps: int) -> multitask.Distillation:
    """The distillation loss of a stage, with each teacher's part in the logs.

    Args:
      config: the recipe.
      steps: of the stage, over which the momentum of running statistics falls.
    """
    settings = config.distill
    following = losses.Following(
        kind=settings.loss,
        standardise=settings.standardise,
        dropping=settings.dropping,
        probability=settings.drop_probability,
        **keys.own_groups(config),
    )
    momentum = warmup_cosine(*settings.momentum, steps)

    def compare(student, outputs, features, part: Part):
        own = state.values(student.statistics)
        draws = None  # So that without dropping the step is the same program as ever.
        if settings.dropping == "lowest_loss":
            draws = dropping.draw(jax.random.fold_in(part.key, 1), len(part.batch["image"]), len(features))
        total, logs, moved = losses.followed_loss(
            following,
            outputs.aligned,
            features,
            own,
            momentum=momentum(part.step),
            draws=draws,
            groups=part.batch.get("group"),
        )
        state.replace(student.statistics, moved)
        return total, logs

    return compare
