"""Multi-task training on labelled images: the stage that methods share, with or without distillation beside it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import data, recipe, tasks
from sak_jax import keys as keys_lib
from sak_jax.data import augment, checks, pipeline, transforms
from sak_jax.engine import optim
from sak_jax.engine.stage import Evaluation, Frozen, Loss, Part, Stage, Start
from sak_jax.keys import Key
from sak_jax.nn import levels

PARTS = {
    "accumulate": Key(1, above=0),  # Parts a batch is split into, one after another.
    "teach_whole": Key(False, runtime=True),  # With parts: teachers see the whole batch at once, not part by part.
}
"""How a stage with teachers takes a batch."""

KEYS = PARTS | {
    "steps": Key(0, at_least=0),
    "lr": Key(2e-5, at_least=0),
    "power": Key(0.9, above=0),  # Of the polynomial decay to zero.
    "weight_decay": Key(1e-6, at_least=0),
    "clip": Key(10.0, at_least=0),  # Global norm of the gradient; 0 is no clipping.
    "eval_every": Key(0, at_least=0, runtime=True),  # Steps between evaluations; 0 is only at the end.
    "scale_range": Key((0.5, 2.0), above=0, length=2, rising=True),  # Of the random scale augmentation.
}
"""`config.multitask`."""

MODEL = {
    # What the backward pass keeps, see `sak_jax.nn.remat`; "none" keeps all, "full" recomputes all.
    "remat": Key("named", choices=("none", "named", "dots", "blocks", "full"), runtime=True),
    # How attention is computed, teachers' too: "auto" is what suits the device, see `sak_jax.nn.attention`.
    "attention": Key("auto", choices=("auto", "xla", "cudnn", "pallas", "looped"), runtime=True),
}
"""How any method's model is computed, in `config.model`."""

Distillation = Callable[[nnx.Module, Any, Any, Part], tuple[jax.Array, dict[str, jax.Array]]]
"""(student, its outputs, teachers' features, part) -> loss and logs; the student's statistics are updated in place."""


def stage(
    config: ConfigDict,
    *,
    create: Callable[[nnx.Rngs], nnx.Module],
    trainable: Callable[..., bool],
    start: Callable[[nnx.State | None], Start],
    frozen: Frozen | None = None,
    distillation: Distillation | None = None,
    alpha: float = 0.0,
) -> Stage:
    """Stage 2 of a recipe: weighted task losses, and `alpha` times a distillation loss.

    Args:
      config: the recipe.
      create, trainable, start, frozen: of the stage, see `Stage`.
      distillation: None without teachers.
      alpha: weight of the distillation loss.
    """
    settings, selected = config.multitask, tasks.select(recipe.ordered(config.tasks))
    schedule = optim.polynomial(settings.lr, settings.steps, power=settings.power)
    return Stage(
        name="multitask",
        steps=settings.steps,
        create=create,
        trainable=trainable,
        loss=loss(selected, distillation, alpha),
        optimizer=optim.adamw(schedule, weight_decay=settings.weight_decay, clip=settings.clip),
        schedule=schedule,
        batches=lambda: open_batches(config, selected),
        evaluation=lambda: open_evaluation(config, selected),
        inputs=inputs(config, selected),
        start=start,
        frozen=frozen,
        totals=partial(label_counts, selected) if settings.accumulate > 1 else None,
        accumulate=settings.accumulate,
        teach_whole=settings.teach_whole,
        eval_every=settings.eval_every,
    )


def loss(selected: tuple[tasks.Task, ...], distillation: Distillation | None, alpha: float) -> Loss:
    """The loss of stage 2, with each task's weighted loss in the logs as `{task}`.

    Over the parts of a batch the tasks' losses add up to the whole batch's: what is divided by, counts of pixels, is
    the whole batch's for each part.
    """

    def compute(model: nnx.Module, features, part: Part):
        outputs = model(levels.normalised(part.batch), train=True, rngs=nnx.Rngs(noise=part.key))
        logs = {}
        for task in selected:
            prediction, label = outputs.predictions[task.name], part.batch[task.name]
            if part.whole is None:
                value = tasks.loss(task, prediction, label)
            else:
                kind = tasks.kind_of(task)
                value = kind.loss_mean(kind.loss_sums(task, prediction, label) | part.whole[task.name])
            logs[task.name] = task.weight * value
        total = sum(logs.values())
        if distillation is not None:
            distilled, teachers = distillation(model, outputs, features, part)
            total = total + alpha * part.share * distilled
            logs |= {"distill": part.share * distilled} | {k: part.share * value for k, value in teachers.items()}
        return total, logs

    return compute


def label_counts(selected: tuple[tasks.Task, ...], batch) -> dict[str, dict[str, jax.Array]]:
    """The counts among each task's sums, which follow from the labels alone."""
    counts = {}
    for task in selected:
        label = batch[task.name]
        blank = jnp.zeros((*label.shape[:3], task.channels))
        sums = tasks.kind_of(task).loss_sums(task, blank, label)
        counts[task.name] = {name: value for name, value in sums.items() if name.endswith("count")}
    return counts


def open_batches(config: ConfigDict, selected: tuple[tasks.Task, ...]) -> pipeline.Batches:
    """Stage 2's training batches."""
    size, settings = tuple(config.image_size), data_settings(config)
    source = data.create_source(settings, "train", [task.name for task in selected], size)
    checks.check_labels(source, selected, None, settings["check"])
    return pipeline.train_batches(
        source,
        transforms.multitask_transform(
            size, selected, scale_range=tuple(config.multitask.scale_range), shrink=settings["resize"]
        ),
        config.batch_size,
        config.seed,
        **reading(settings),
    )


def open_evaluation(config: ConfigDict, selected: tuple[tasks.Task, ...]) -> Evaluation:
    """How stage 2's student is scored on the validation images."""
    size, settings = tuple(config.image_size), data_settings(config)
    source = data.create_source(settings, "val", [task.name for task in selected], size)
    checks.check_labels(source, selected, None if settings["resize"] else size, settings["check"])
    transform = transforms.evaluation_transform(size, selected, shrink=settings["resize"])
    boundary = recipe.ordered(config.boundary)
    options = {"odsF": boundary | {"workers": boundary["workers"] or None}}
    return Evaluation(
        batches=lambda: pipeline.evaluation_batches(source, transform, config.eval_batch_size, **reading(settings)),
        images=len(source),
        skipped=len(getattr(source, "skipped", ())),
        metrics={task.name: tasks.metric(task, **options.get(task.metric, {})) for task in selected},
        predict=lambda model, batch: model(levels.normalised(batch)).predictions,
        score=lambda scores: tasks.score(selected, scores),
        sample=lambda index: shown(transform(source[index], None)),
    )


def shown(sample: dict) -> dict:
    """A transformed sample with its image normalised and padded with zeros, as a model sees it."""
    image = augment.normalise(augment.unpad(sample["image"], tuple(sample["size"])))
    return sample | {"image": augment.pad(image, sample["image"].shape[:2], 0)}


def data_settings(config: ConfigDict) -> dict:
    """`config.data` with the defaults of what it leaves out."""
    section = recipe.ordered(config.data)
    return keys_lib.defaults(data.keys(section["name"])) | section


def reading(settings: Mapping) -> dict[str, int]:
    """How this process reads its share of the batches, of `config.data`: what `data.pipeline` is given by name."""
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    return share | {key: settings.get(key, data.KEYS[key].default) for key in data.READING}


def inputs(config: ConfigDict, selected: tuple[tasks.Task, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a global batch."""
    shape = (config.batch_size, *config.image_size)
    images = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8),
        "size": jax.ShapeDtypeStruct((config.batch_size, 2), jnp.int32),
    }
    return images | {task.name: jax.ShapeDtypeStruct(*tasks.label_shape(task, shape)) for task in selected}


def check_parts(config: ConfigDict, stage: str, devices: int) -> None:
    """Makes sure that a stage's batch can be split into its parts on so many devices."""
    parts = config[stage].accumulate
    remedy = f"must be a multiple of {stage}.accumulate x devices = {parts * devices}"
    recipe.require(config.batch_size % (parts * devices) == 0, config, "batch_size", remedy)


def check_data(config: ConfigDict, section: dict, where: str) -> None:
    """Makes sure that a stage's data settings are those that their data set knows, each with a value it may have."""
    keys_lib.check(section, data.keys(section["name"]), (where,))
