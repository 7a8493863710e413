"""A workdir may be called anything: what is handed on to libraries is a path, never a pattern."""

import json

import numpy as np
import pytest

import sak_jax
from tests import runs
from tools import evaluate_boundaries, report

TINY = f"{runs.TINY}:method=multitask"
STEPS = ("--config.checkpoint.every=1", "--config.multitask.eval_every=0")


def test_a_run_is_trained_resumed_evaluated_loaded_and_reported(tmp_path):
    workdir = tmp_path / "run [1] a*b? {x} é e\u0301 %d $HOME #"
    for steps in (2, 3):
        done = runs.run(f"--workdir={workdir}", *STEPS, f"--config.multitask.steps={steps}", config=TINY)
        if steps == 3:  # Another number of steps is another run.
            assert done.returncode == 2 and "multitask.steps" in done.stderr
        else:
            assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    same = (f"--workdir={workdir}", *STEPS, "--config.multitask.steps=2")
    (workdir / "results.json").unlink()
    assert "resumes at step 2" in runs.run(*same, config=TINY).stderr
    done = runs.run(*same, "--mode=evaluate", config=TINY)
    assert done.returncode == 0, done.stderr
    scores = [json.loads((workdir / file).read_text())["metrics"] for file in ("results.json", "evaluation.json")]
    assert scores[0] == scores[1]
    student = sak_jax.load(workdir)
    assert student.predict(np.zeros((24, 32, 3), np.uint8))["depth"].metres.shape == (24, 32)
    assert report.main([str(workdir), f"--output={workdir / 'page.html'}"]) == 0
    assert sorted(path.name for path in (workdir / "checkpoints" / "multitask").iterdir()) == ["1", "2", "scores.json"]


@pytest.mark.parametrize("name", ["maps [1]", "*", "a?b"])
def test_folders_of_maps_may_be_called_anything(tmp_path, name):
    from PIL import Image

    rng = np.random.default_rng(0)
    for kind in ("predictions", "labels"):
        (tmp_path / name / kind).mkdir(parents=True)
        Image.fromarray((rng.random((20, 30)) > 0.9) * np.uint8(255)).save(tmp_path / name / kind / "1.png")
    flags = [f"--{kind}={tmp_path / name / kind}" for kind in ("predictions", "labels")]
    output = tmp_path / name / "scores.json"
    assert evaluate_boundaries.main([*flags, "--max_distance=0.01", "--protocol=sak", f"--output={output}"]) == 0
    assert json.loads(output.read_text())["images"] == 1
