"""Streaming metrics, one module a kind of task."""

from collections.abc import Callable
from typing import Any

from sak_jax.errors import UserError
from sak_jax.metrics.depth import RootMeanSquareError
from sak_jax.metrics.loss import MeanLoss
from sak_jax.metrics.metric import Metric
from sak_jax.metrics.normals import MeanAngularError
from sak_jax.metrics.saliency import MaximalFMeasure
from sak_jax.metrics.segmentation import MeanIoU
from sak_jax.tasks import Task, named

__all__ = ["METRICS", "Metric", "for_task", "higher_is_better"]


def _boundary(task: Task, **options: Any) -> Metric:
    # Imported when asked for: it brings image-processing libraries that no other metric needs.
    from sak_jax.boundary.score import Boundary

    return Boundary(**options)


METRICS: dict[str, Callable[..., Metric]] = {
    "mIoU": lambda task: MeanIoU(),
    "RMSE": lambda task: RootMeanSquareError(),
    "mErr": lambda task: MeanAngularError(),
    "maxF": lambda task: MaximalFMeasure(),
    "odsF": _boundary,
    "loss": MeanLoss,
}
"""What `Task.metric` may name, and how the metric is made from the task and options."""

_HIGHER_IS_BETTER = {
    metric.name: metric.higher_is_better
    for metric in (MeanIoU, RootMeanSquareError, MeanAngularError, MaximalFMeasure, MeanLoss)
} | dict.fromkeys(("odsF", "oisF", "AP"), True)


def for_task(task: str | Task, **options: Any) -> Metric:
    """The metric of a task.

    Args:
      task: says which metric; by name one of `sak_jax.tasks.TASKS`.
      options: passed to the metric; only "odsF" takes any, see `boundary.Boundary`.

    Raises:
      UserError: there is no such task, or `task.metric` names none.
    """
    task = named(task)
    if task.metric not in METRICS:
        raise UserError(f"tasks.{task.name}.metric is {task.metric!r}; set it to one of {', '.join(METRICS)}")
    return METRICS[task.metric](task, **options)


def higher_is_better(name: str) -> bool:
    """Whether a metric's greater value is the better one.

    Raises:
      UserError: no metric has this name.
    """
    if name not in _HIGHER_IS_BETTER:
        raise UserError(f"the metric {name!r} is unknown; use one of {', '.join(_HIGHER_IS_BETTER)}")
    return _HIGHER_IS_BETTER[name]
