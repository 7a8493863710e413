"""The evaluation loop: every image once, every metric."""

import contextlib
from functools import partial

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from sak_jax.engine import hosts
from sak_jax.engine import mesh as meshes
from sak_jax.engine.stage import Batch, Evaluation
from sak_jax.engine.stop import Stop


class Evaluator:
    """Evaluates a model on the validation set; jitted once, used as often as wanted.

    Attributes:
      evaluation: how.
      skipped: images that the last evaluation left out because they could not be read.
    """

    def __init__(self, evaluation: Evaluation, model: nnx.GraphDef, mesh: jax.sharding.Mesh):
        self.evaluation = evaluation
        self.mesh = mesh
        self.skipped = evaluation.skipped
        self._step = jax.jit(
            meshes.computing_on(mesh, partial(eval_step, evaluation, model)),
            out_shardings=(meshes.replicated(mesh), meshes.batch_sharding(mesh)),
        )

    def __call__(self, model: nnx.State, stop: Stop | None = None) -> dict[str, float]:
        """Every score, `{"semseg/mIoU": ..}`.

        Args:
          model: the model's whole state, on the mesh.
          stop: asked before every batch.

        Raises:
          Stopped: a signal has come.
        """
        metrics = self.evaluation.metrics
        batches = self.evaluation.batches()
        totals: dict[str, dict[str, np.ndarray]] = {name: {} for name in metrics}
        counted = np.zeros(1)
        with contextlib.ExitStack() as resources:
            for resource in (batches, *metrics.values()):
                resources.callback(resource.close)
            quiet = None if meshes.is_main() else True  # None: unless it is a terminal.
            for _ in tqdm(range(len(batches)), desc="evaluate", unit="batch", disable=quiet, leave=False):
                batch = hosts.together(lambda: next(batches))
                if stop is not None and meshes.any_process(stop.requested):
                    stop.refuse()
                sums, predictions = self._step(model, meshes.put_batch(batch, self.mesh))
                for name, prediction in predictions.items():
                    rows = meshes.local_rows(prediction, self.mesh)
                    sums[name] = metrics[name].batch(rows, batch[name], batch["mask"], batch["size"])
                for name, values in jax.device_get(sums).items():
                    for part, value in values.items():
                        totals[name][part] = totals[name].get(part, 0.0) + np.asarray(value, np.float64)
                counted += batch["mask"].sum()
        for name, metric in metrics.items():
            if metric.on_host:  # What the others return is already the sum over all processes' rows.
                totals[name] = {part: meshes.sum_over_processes(value) for part, value in totals[name].items()}
        self.skipped = self.evaluation.skipped + self.evaluation.images - int(meshes.sum_over_processes(counted)[0])
        return {
            f"{name}/{part}": value
            for name, metric in metrics.items()
            for part, value in metric.result(totals[name]).items()
        }


def eval_step(
    evaluation: Evaluation, model: nnx.GraphDef, state: nnx.State, batch: Batch
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, jax.Array]]:
    """Each metric's sums over a batch, and the predictions that metrics on the host ask for.

    Args:
      evaluation: metrics, and how the model predicts; static under jit.
      model: graph definition of the model.
      state: all of its parameters and statistics.
      batch: images, labels and `mask` [b].
    """
    outputs = evaluation.predict(nnx.merge(model, state, copy=True), batch["image"])
    sums, predictions = {}, {}
    for name, metric in evaluation.metrics.items():
        if metric.on_host:
            predictions[name] = outputs[name]
        else:
            sums[name] = metric.batch(outputs[name], batch[name], batch["mask"])
    return sums, predictions
