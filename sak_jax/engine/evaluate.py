"""The evaluation loop: every image once, every task's metric, Delta_m."""

import contextlib
import math
from functools import partial

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from sak_jax import data, metrics
from sak_jax.data import pipeline, transforms
from sak_jax.engine import mesh as sharding
from sak_jax.engine.step import eval_step
from sak_jax.metrics.delta_m import delta_m
from sak_jax.recipe import selected_tasks


class Evaluator:
    """Evaluates a student on the validation set; jitted once, used as often as wanted.

    Attributes:
      source: the validation set.
      skipped: images that the last evaluation left out because they could not be read (`data.on_error=skip`).
    """

    def __init__(self, config: ConfigDict, student: nnx.GraphDef, mesh: jax.sharding.Mesh, source: data.Source):
        self.config = config
        self.mesh = mesh
        self.tasks = selected_tasks(config)
        options = {"odsF": {**config.boundary, "workers": config.boundary.workers or None}}
        self.metrics = {task.name: metrics.for_task(task, **options.get(task.metric, {})) for task in self.tasks}
        self.source = source
        self.skipped = self._left_out = len(getattr(self.source, "skipped", ()))
        self._step = jax.jit(
            partial(eval_step, student, self.metrics),
            out_shardings=(sharding.replicated(mesh), sharding.batch_sharding(mesh)),
        )

    def __call__(self, model: nnx.State) -> dict[str, float]:
        """Every task's scores, `{"semseg/mIoU": ..}`.

        Args:
          model: the student's whole state, on the mesh.
        """
        batches = pipeline.evaluation_batches(
            self.source,
            transforms.evaluation_transform(tuple(self.config.image_size), self.tasks),
            self.config.eval_batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.config.data.workers,
        )
        totals: dict[str, dict[str, np.ndarray]] = {task: {} for task in self.metrics}
        counted = np.zeros(1)
        with contextlib.ExitStack() as resources:
            for resource in (batches, *self.metrics.values()):
                resources.callback(resource.close)
            for batch in tqdm(batches, total=len(batches), desc="evaluate", unit="batch", disable=None, leave=False):
                sums, predictions = self._step(model, sharding.put_batch(batch, self.mesh))
                for task, prediction in predictions.items():
                    rows = sharding.local_rows(prediction, self.mesh)
                    sums[task] = self.metrics[task].batch(rows, batch[task], batch["mask"], batch["size"])
                for task, values in jax.device_get(sums).items():
                    for name, value in values.items():
                        totals[task][name] = totals[task].get(name, 0.0) + np.asarray(value, np.float64)
                counted += batch["mask"].sum()
        for task, metric in self.metrics.items():
            if metric.on_host:  # What the others return is already the sum over all processes' rows.
                totals[task] = {name: over_processes(value) for name, value in totals[task].items()}
        self.skipped = self._left_out + len(self.source) - int(over_processes(counted)[0])
        return {
            f"{task}/{name}": value
            for task, metric in self.metrics.items()
            for name, value in metric.result(totals[task]).items()
        }

    @property
    def directions(self) -> dict[str, bool]:
        """Whether the greater score is the better one, by the keys of the scores that tasks are compared by."""
        return {f"{task}/{metric.name}": metric.higher_is_better for task, metric in self.metrics.items()}

    def score(self, scores: dict[str, float]) -> float | None:
        """What decides which checkpoint is the best: Delta_m, or without baselines the scores' signed sum.

        None where a task could not be scored.
        """
        delta = self.delta_m(scores)
        if delta is not None:
            return delta
        signed = sum(
            scores[f"{task}/{metric.name}"] * (1 if metric.higher_is_better else -1)
            for task, metric in self.metrics.items()
        )
        return signed if math.isfinite(signed) else None

    def delta_m(self, scores: dict[str, float]) -> float | None:
        """Percent against the recipe's single-task baselines, or None where a task has no score or no baseline."""
        baselines = dict(self.config.baselines)
        wanted = {f"{task}/{metric.name}" for task, metric in self.metrics.items()}
        if not wanted <= set(baselines) or not all(math.isfinite(scores[key]) for key in wanted):
            return None
        return delta_m(scores, {key: baselines[key] for key in wanted})


def over_processes(value: np.ndarray) -> np.ndarray:
    """The exact sum of float64 arrays of one shape [n, ..] over all processes."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    # JAX carries no float64 by default, so its halves travel.
    halves = multihost_utils.process_allgather(np.ascontiguousarray(value).view(np.uint32))
    return np.asarray(halves).view(np.float64).sum(axis=0)
