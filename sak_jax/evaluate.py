"""The evaluation loop: every image once, every task's metric, Delta_m."""

from functools import partial

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from sak_jax import data, metrics, sharding
from sak_jax.config import selected_tasks
from sak_jax.data import pipeline, transforms
from sak_jax.metrics.delta_m import delta_m
from sak_jax.steps import eval_step


class Evaluator:
    """Evaluates a student on the validation set; jitted once, used as often as wanted."""

    def __init__(self, config: ConfigDict, student: nnx.GraphDef, mesh: jax.sharding.Mesh):
        self.config = config
        self.mesh = mesh
        self.tasks = selected_tasks(config)
        self.metrics = {task.name: metrics.for_task(task) for task in self.tasks}
        self.source = data.create_source(config.data, "val", [task.name for task in self.tasks], config.image_size)
        self._step = jax.jit(partial(eval_step, student, self.metrics))

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
        for batch in tqdm(batches, total=len(batches), desc="evaluate", unit="batch", disable=None, leave=False):
            sums, predictions = self._step(model, sharding.put_batch(batch, self.mesh))
            for task, prediction in predictions.items():
                sums[task] = self.metrics[task].batch(np.asarray(prediction), batch[task], batch["mask"])
            for task, values in jax.device_get(sums).items():
                for name, value in values.items():
                    totals[task][name] = totals[task].get(name, 0.0) + np.asarray(value, np.float64)
        batches.close()
        return {
            f"{task}/{name}": value
            for task, metric in self.metrics.items()
            for name, value in metric.result(totals[task]).items()
        }

    def score(self, scores: dict[str, float]) -> float:
        """What decides which checkpoint is the best: Delta_m, or without baselines the scores' signed sum."""
        delta = self.delta_m(scores)
        if delta is not None:
            return delta
        return sum(
            scores[f"{task}/{metric.name}"] * (1 if metric.higher_is_better else -1)
            for task, metric in self.metrics.items()
        )

    def delta_m(self, scores: dict[str, float]) -> float | None:
        """Percent against the recipe's single-task baselines, or None where it records none for a task."""
        baselines = dict(self.config.baselines)
        wanted = {f"{task}/{metric.name}" for task, metric in self.metrics.items()}
        if not wanted <= set(baselines):
            return None
        return delta_m(scores, {key: baselines[key] for key in wanted})


def table(scores: dict[str, float], baselines: dict[str, float], delta: float | None) -> str:
    """The scores beside the single-task baselines, as text."""
    rows = [("metric", "student", "single-task", "change")]
    for key, value in scores.items():
        baseline = baselines.get(key)
        change = "" if not baseline else f"{100 * (value - baseline) / baseline:+.1f} %"
        rows.append((key, f"{value:.4g}", "" if baseline is None else f"{baseline:.4g}", change))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append(
        f"Delta_m {delta:+.2f} %" if delta is not None else "Delta_m needs single-task baselines in the config"
    )
    return "\n".join(lines)
