"""The evaluation loop: odsF among the metrics, sums over processes, samples that are skipped, and the table."""

import json
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from flax import nnx

from sak_jax import predict, recipe, tasks
from sak_jax.data.rooms import layouts
from sak_jax.engine import hosts
from sak_jax.engine import mesh as meshes
from sak_jax.engine.evaluate import Evaluator
from sak_jax.methods.sak import method
from sak_jax.report.table import table
from tests import runs


def config():
    """The tiny recipe with the boundary score."""
    config = recipe.load(runs.TINY)
    config.tasks = {"semseg": {"channels": 14}, "depth": {}, "edge": {}}
    config.boundary.workers, config.boundary.max_distance = 1, 0.05
    return config


def evaluate(config):
    """An untrained student's scores, and the evaluator."""
    mesh = meshes.make_mesh(-1, 1)
    graph = nnx.graphdef(predict.abstract_student(config, "multitask"))
    create = jax.jit(
        lambda: nnx.state(method.student(config, "multitask", nnx.Rngs(0))), out_shardings=meshes.replicated(mesh)
    )
    evaluator = Evaluator(method.stages(config)[-1].evaluation(), graph, mesh)
    return evaluator(create()), evaluator


def main():
    hosts.join()
    hosts.gather_texts("")  # They must meet within seconds; compiling takes them differently long.
    scores, evaluator = evaluate(config())
    print(json.dumps(scores | {"skipped": evaluator.skipped}))


def test_two_processes_score_what_one_does():
    command = [sys.executable, "-m", __name__]
    processes = [
        subprocess.Popen(command, cwd=runs.ROOT, env=env, stdout=-1, stderr=-1, text=True)
        for env in runs.environments()
    ]
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in runs.ended(processes, 0))
    assert first == second and first.pop("skipped") == 0
    alone, _ = evaluate(config())
    assert first == pytest.approx(alone, rel=1e-4) and alone["edge/odsF"] > 0


def test_skipped_samples_are_counted(tmp_path):
    layouts.write_nyud(tmp_path / "nyud", 2, 3, size=(24, 32))
    damaged = sorted((tmp_path / "nyud" / "images").glob("*.png"))[-1]
    damaged.write_bytes(damaged.read_bytes()[:200])
    changed = config()
    changed.tasks = {"semseg": {"channels": 40}, "edge": {}}
    changed.data = {"name": "nyud", "root": str(tmp_path / "nyud"), "on_error": "skip", "workers": 0}
    scores, evaluator = evaluate(changed)
    assert evaluator.skipped == 1
    assert scores["edge/odsF"] > 0


def test_a_batch_is_scored_while_the_next_one_is_computed_and_processes_stay_until_the_end(monkeypatch):
    _, evaluator = evaluate(config())
    metric, compute = evaluator.evaluation.metrics["edge"], evaluator._step
    score, close, told = metric.batch, metric.close, []
    monkeypatch.setattr(metric, "batch", lambda *given: (told.append("score"), score(*given))[1])
    monkeypatch.setattr(metric, "close", lambda: (told.append("close"), close())[1])
    monkeypatch.setattr(evaluator, "_step", lambda *given: (told.append("compute"), compute(*given))[1])
    mesh = meshes.make_mesh(-1, 1)
    create = lambda: nnx.state(method.student(config(), "multitask", nnx.Rngs(0)))  # noqa: E731
    model = jax.jit(create, out_shardings=meshes.replicated(mesh))()
    evaluator(model)
    assert told == ["compute", "compute", "score", "score"]  # Eleven images, eight at a time.
    evaluator.close()
    assert told[-1] == "close"


def test_a_task_without_truth_has_no_score_and_no_delta(tmp_path):
    layouts.write_nyud(tmp_path / "nyud", 1, 1, size=(24, 32))
    for path in (tmp_path / "nyud" / "edge").glob("*.png"):
        cv2.imwrite(str(path), np.zeros((24, 32), np.uint8))
    changed = config()
    changed.tasks = {"edge": {}}
    changed.boundary.truth = "boundary"
    changed.data = {"name": "nyud", "root": str(tmp_path / "nyud"), "on_error": "raise", "workers": 0}
    scores, evaluator = evaluate(changed)
    assert np.isnan(scores["edge/odsF"])
    selected, baselines = tasks.select({"edge": {}}), {"edge/odsF": 50.0}
    assert tasks.relative(selected, scores, baselines) is None and evaluator.evaluation.score(scores) is None
    assert "-" in table(scores, baselines, None).splitlines()[2].split()


if __name__ == "__main__":
    main()
