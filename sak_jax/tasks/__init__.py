"""The table of tasks, and what a task's kind makes of it: loss, metric, Delta_m.

A new task is one row here, or one entry under `config.tasks`; a new kind of task is a subclass of `Kind`, given to
`register` before its first task is made.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Array, Float, Shaped

from sak_jax.errors import UserError
from sak_jax.tasks.boundary import Boundary
from sak_jax.tasks.classes import Classes, HumanParts
from sak_jax.tasks.depth import Depth
from sak_jax.tasks.kind import IGNORE, KINDS, RESERVED, Kind, Task, register, typed
from sak_jax.tasks.metric import MeanLoss, Metric
from sak_jax.tasks.normals import Normals
from sak_jax.tasks.saliency import Saliency

__all__ = [
    "IGNORE",
    "KINDS",
    "RESERVED",
    "TASKS",
    "Kind",
    "Metric",
    "Task",
    "delta_m",
    "higher_is_better",
    "kind_of",
    "loss",
    "metric",
    "named",
    "label_shape",
    "register",
    "relative",
    "score",
    "select",
]

for _kind in (Classes(), HumanParts(), Saliency(), Normals(), Boundary(), Depth()):
    register(_kind)

TASKS = {
    task.name: task
    for task in (
        Task("semseg", channels=40, kind="classes", weight=1.0, metric="mIoU"),
        Task("human_parts", channels=7, kind="human_parts", weight=2.0, metric="mIoU"),
        Task("sal", channels=2, kind="saliency", weight=5.0, metric="maxF"),
        Task("normals", channels=3, kind="normals", weight=10.0, metric="mErr"),
        Task("edge", channels=1, kind="boundary", weight=50.0, metric="odsF"),
        Task("depth", channels=1, kind="depth", weight=1.0, metric="RMSE"),
    )
}
"""The published recipes' tasks (SAK, section 4.1 and its code's loss weights)."""

_FIELDS = {"channels": 1, "kind": "", "weight": 1.0, "metric": ""}  # and values of their types
_FORMER_LOSSES = {
    "cross_entropy": "classes",
    "balanced_cross_entropy": "saliency",
    "normals_l1": "normals",
    "balanced_binary": "boundary",
    "l1": "depth",
}


def named(task: str | Task) -> Task:
    """The task itself, or the row of `TASKS` of that name.

    Raises:
      UserError: no row has this name.
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise UserError(f"the task {task!r} is unknown: give one of {', '.join(TASKS)}, or a Task")
    return TASKS[task]


def kind_of(task: str | Task) -> Kind:
    """The kind of a task; `UserError` as `named`."""
    return KINDS[named(task).kind]


def select(overrides: Mapping[str, Mapping]) -> tuple[Task, ...]:
    """The tasks that `config.tasks` names, in its order.

    Args:
      overrides: `{task: {field: value}}`; fields are channels, kind, weight, metric and the kind's options. Fields not
        given come from `TASKS`; a task that is not in `TASKS` gives the first four.

    Raises:
      UserError: an unknown field, a new task with a field missing, or a value that cannot be.
    """
    return tuple(_selected(name, dict(given)) for name, given in overrides.items())


def _selected(name: str, given: dict[str, Any]) -> Task:
    if "loss" in given:
        kind = _FORMER_LOSSES.get(given["loss"], "..")
        raise UserError(
            f"tasks.{name}.loss is no field: the loss follows from the kind; write tasks.{name}.kind={kind!r}"
        )
    known = TASKS.get(name)
    fields = {field: getattr(known, field) for field in _FIELDS} if known else {}
    for field in _FIELDS:
        if field in given:
            fields[field] = typed(_FIELDS[field], given.pop(field), f"tasks.{name}.{field}")
    missing = [field for field in _FIELDS if field not in fields]
    if missing:
        raise UserError(f"tasks.{name} is new and lacks {', '.join(missing)}; known are {', '.join(TASKS)}")
    options = dict(known.options) if known and fields["kind"] == known.kind else {}
    kind = KINDS.get(fields["kind"])
    unknown = sorted(set(given) - set(kind.options)) if kind else []
    if unknown:
        fields_known = ", ".join((*_FIELDS, *kind.options))
        raise UserError(f"tasks.{name} has no field {unknown[0]!r}; a task of kind {kind.name} has {fields_known}")
    return Task(name, **fields, options=options | given)


def loss(
    task: str | Task, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w *vector"]
) -> Float[Array, ""]:
    """A task's loss over a batch, without `task.weight`.

    Args:
      task: says which loss; by name one of `TASKS`.
      prediction: raw head output at image size.
      label: `[b, h, w]`, or `[b, h, w, 3]` for normals; 255 is not counted.

    Returns:
      A float32 scalar; 0, with a zero gradient, if no pixel is valid. It is `kind.loss_mean(kind.loss_sums(..))`.

    Raises:
      UserError: there is no such task.
    """
    task = named(task)
    kind = kind_of(task)
    return kind.loss_mean(kind.loss_sums(task, prediction, label))


def metric(task: str | Task, **options: Any) -> Metric:
    """A task's metric, fresh.

    Args:
      task: says which metric; by name one of `TASKS`.
      options: passed to the metric; only "odsF" takes any, see `sak_jax.tasks.boundary.BoundaryScore`.

    Raises:
      UserError: there is no such task, or the metric refuses an option.
    """
    task = named(task)
    return _metrics(kind_of(task))[task.metric](task, **options)


def _metrics(kind: Kind) -> dict[str, type[Metric]]:
    return {**kind.metrics, MeanLoss.name: MeanLoss}


def higher_is_better(name: str) -> bool:
    """Whether a metric's greater value is the better one.

    Raises:
      UserError: no metric of any kind has this name.
    """
    directions = {
        score: metric.higher_is_better
        for kind in KINDS.values()
        for metric in _metrics(kind).values()
        for score in (metric.name, *metric.others)
    }
    if name not in directions:
        raise UserError(f"the metric {name!r} is unknown; use one of {', '.join(directions)}")
    return directions[name]


def delta_m(metrics: Mapping[str, float], baselines: Mapping[str, float]) -> float:
    """Mean over tasks of the relative change against single-task baselines, in percent; more is better.

    A change counts negative where the metric gets worse (Maninis et al. 2019; SAK, section 4.1).

    Args:
      metrics: `{"semseg/mIoU": 59.9, ..}`; those without a baseline are left out.
      baselines: the single-task models' scores under the same keys.

    Raises:
      UserError: no baseline at all, one whose metric is unknown or was not measured, or one that is zero.
    """
    if not baselines:
        raise UserError("delta_m needs a baseline for each task: give them as {'semseg/mIoU': 51.15, ..}")
    changes = []
    for key, baseline in sorted(baselines.items()):  # One order, so that the sum's last digit is always the same.
        if key not in metrics:
            raise UserError(f"the baseline {key!r} has no metric to compare; measured are {', '.join(sorted(metrics))}")
        if baseline == 0:
            raise UserError(f"the baseline {key!r} is 0, so that no relative change exists; give the measured value")
        change = (metrics[key] - baseline) / baseline
        changes.append(change if higher_is_better(key.rpartition("/")[-1]) else -change)
    return 100 * sum(changes) / len(changes)


def score(selected: Sequence[Task], scores: Mapping[str, float]) -> float | None:
    """One number by which the checkpoints of a run are compared; greater is better.

    The mean over tasks of the main metric's logarithm, negative where less is better: a relative change counts alike
    for every task, whatever its unit. None where a task could not be scored.
    """
    total = 0.0
    for task in selected:
        value = scores[f"{task.name}/{task.metric}"]
        if not math.isfinite(value):
            return None
        logarithm = math.log(max(value, 1e-6))
        total += logarithm if higher_is_better(task.metric) else -logarithm
    return total / len(selected)


def relative(selected: Sequence[Task], scores: Mapping[str, float], baselines: Mapping[str, float]) -> float | None:
    """Delta_m over the tasks' main metrics, or None where a task has no score or no baseline."""
    wanted = [f"{task.name}/{task.metric}" for task in selected]
    if not set(wanted) <= set(baselines) or not all(math.isfinite(scores[key]) for key in wanted):
        return None
    return delta_m(scores, {key: baselines[key] for key in wanted})


def label_shape(task: Task, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], type]:
    """Shape and dtype of a batch of labels [b, h, w]."""
    kind = kind_of(task)
    return (*shape, *kind.vector), kind.dtypes[0]
