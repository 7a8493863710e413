"""The table of tasks: channels, loss, weight, metric. A new task is one row here, or one entry under `config.tasks`."""

import dataclasses
from collections.abc import Mapping

from sak_jax.errors import UserError

IGNORE = 255
"""The label value that neither losses nor metrics count, for every task."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One dense prediction task.

    Attributes:
      name: the key of its labels in a sample and of its head's output.
      channels: channels of the prediction.
      loss: a key of `sak_jax.losses.TASK_LOSSES`.
      weight: factor of its loss in the total.
      metric: a key of `sak_jax.metrics.METRICS`.
    """

    name: str
    channels: int
    loss: str
    weight: float
    metric: str


TASKS = {
    task.name: task
    for task in (
        Task("semseg", channels=40, loss="cross_entropy", weight=1.0, metric="mIoU"),
        Task("human_parts", channels=7, loss="cross_entropy", weight=2.0, metric="mIoU"),
        Task("sal", channels=2, loss="balanced_cross_entropy", weight=5.0, metric="maxF"),
        Task("normals", channels=3, loss="normals_l1", weight=10.0, metric="mErr"),
        Task("edge", channels=1, loss="balanced_binary", weight=50.0, metric="odsF"),
        Task("depth", channels=1, loss="l1", weight=1.0, metric="RMSE"),
    )
}
"""The published recipes' tasks (SAK, section 4.1 and its code's loss weights)."""


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


def select(overrides: Mapping[str, Mapping]) -> tuple[Task, ...]:
    """The tasks that `config.tasks` names, in its order.

    Args:
      overrides: `{task: {field: value}}`. Fields not given come from `TASKS`; a task that is not in `TASKS` gives all.

    Raises:
      UserError: an unknown field, or a new task with a field missing.
    """
    fields = [field.name for field in dataclasses.fields(Task) if field.name != "name"]
    tasks = []
    for name, given in overrides.items():
        unknown = sorted(set(given) - set(fields))
        if unknown:
            raise UserError(f"tasks.{name} has no field {unknown[0]!r}; a task has {', '.join(fields)}")
        if name in TASKS:
            tasks.append(dataclasses.replace(TASKS[name], **given))
            continue
        missing = [field for field in fields if field not in given]
        if missing:
            raise UserError(f"tasks.{name} is new and lacks {', '.join(missing)}; known are {', '.join(TASKS)}")
        tasks.append(Task(name, **given))
    return tuple(tasks)
