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
    """Evaluates a model on the validation set; jitted once, used as often as wanted, and closed at the end.

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
            resources.callback(batches.close)
            failed = resources.enter_context(contextlib.ExitStack())
            failed.callback(self.close)
            quiet = None if meshes.is_main() else True  # None: unless it is a terminal.
            computing = None
            for _ in tqdm(range(len(batches)), desc="evaluate", unit="batch", disable=quiet, leave=False):
                batch = hosts.together(lambda: next(batches))
                if stop is not None and meshes.any_process(stop.requested):
                    stop.refuse()
                outputs = self._step(model, meshes.put_batch(batch, self.mesh))
                # The processors score the batch before this one while the devices compute this one.
                if computing is not None:
                    self._add(totals, *computing)
                computing = batch, *outputs
                counted += batch["mask"].sum()
            if computing is not None:
                self._add(totals, *computing)
            failed.pop_all()
        for name, metric in metrics.items():
            if metric.on_host:  # What the others return is already the sum over all processes' rows.
                totals[name] = {part: meshes.sum_over_processes(value) for part, value in totals[name].items()}
        self.skipped = self.evaluation.skipped + self.evaluation.images - int(meshes.sum_over_processes(counted)[0])
        return {
            f"{name}/{part}": value
            for name, metric in metrics.items()
            for part, value in metric.result(totals[name]).items()
        }

    def _add(self, totals: dict[str, dict[str, np.ndarray]], batch: Batch, sums: dict, predictions: dict) -> None:
        """Adds a batch's sums to `totals`, those of the metrics on the host among them."""
        metrics = self.evaluation.metrics
        for name, prediction in predictions.items():
            rows = meshes.local_rows(prediction)
            sums[name] = metrics[name].batch(rows, batch[name], batch["mask"], batch["size"])
        for name, values in jax.device_get(sums).items():
            for part, value in values.items():
                totals[name][part] = totals[name].get(part, 0.0) + np.asarray(value, np.float64)

    def close(self) -> None:
        """Ends the processes that metrics have started, which otherwise serve the next evaluation. Idempotent."""
        for metric in self.evaluation.metrics.values():
            metric.close()


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
    outputs = evaluation.predict(nnx.merge(model, state, copy=True), batch)
    sums, predictions = {}, {}
    for name, metric in evaluation.metrics.items():
        if metric.on_host:
            predictions[name] = outputs[name]
        else:
            sums[name] = metric.batch(outputs[name], batch[name], batch["mask"])
    return sums, predictions
