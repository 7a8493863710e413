"""A recipe file that brings its own kind of task, data set, teacher and method, run by the command line as it is."""

import json

import numpy as np
import pytest

import sak_jax
from sak_jax import recipe
from tests import runs

RECIPE = str(runs.ROOT / "tests/extension/recipe.py")


@pytest.mark.parametrize("method", ["sak", "pixelwise"])
def test_a_recipe_with_parts_of_its_own_runs_to_its_report(method, tmp_path):
    done = runs.run(f"--workdir={tmp_path}", config=f"{RECIPE}:method={method}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["metrics"]) == {"flow/EPE"} and 0 < results["metrics"]["flow/EPE"] < 100
    assert len(runs.lines(tmp_path, "multitask")) == 4
    assert (tmp_path / "report/index.html").exists()
    if method == "sak":
        assert all("distill/colours" in line["values"] for line in runs.lines(tmp_path) if line["split"] != "val")
    # The recipe makes its parts known; then a student of them is loaded as any other.
    recipe.load(RECIPE)
    outputs = sak_jax.load(tmp_path)(np.zeros((1, 24, 32, 3), np.float32))
    assert outputs.predictions["flow"].shape == (1, 24, 32, 2)


def test_a_key_of_the_data_set_has_its_range(tmp_path):
    done = runs.run(f"--workdir={tmp_path}", "--config.data.samples=0", config=RECIPE)
    assert done.returncode == 2 and "data.samples" in done.stderr and "above 0" in done.stderr
