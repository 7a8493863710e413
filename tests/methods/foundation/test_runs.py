"""The baselines with a foundation model as encoder, from the command line to a checkpoint."""

import json

import numpy as np
import pytest
from flax import nnx

import sak_jax
from sak_jax import recipe
from sak_jax.errors import UserError
from sak_jax.methods.sak import published
from sak_jax.methods.sak.start import read
from sak_jax.teachers import registry
from tests import runs


def arrays(workdir):
    """The encoder's arrays in the newest checkpoint, and in the packaged weights, by path."""
    encoder, _ = registry.load("rooms_scene", (24, 32))
    packaged = {"/".join(map(str, path)): np.asarray(x[...]) for path, x in nnx.to_flat_state(nnx.state(encoder))}
    found = {name.removeprefix("encoder/"): x for name, x in runs.parameters(workdir).items() if "encoder/" in name}
    assert found.keys() == packaged.keys()
    return found, packaged


@pytest.fixture(scope="module", params=["frozen", "finetuned"])
def run(request, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param)
    done = runs.run(
        f"--workdir={workdir}", "--config.multitask.steps=3", config=f"{runs.TINY}:method={request.param}-rooms_scene"
    )
    assert done.returncode == 0, done.stderr
    return request.param, workdir


def test_a_run_trains_what_it_says(run):
    method, workdir = run
    found, packaged = arrays(workdir)
    same = [np.array_equal(found[name], packaged[name]) for name in packaged]
    assert all(same) if method == "frozen" else not any(same)
    assert json.loads((workdir / "results.json").read_text())["metrics"]["depth/RMSE"] > 0
    losses = [line["values"]["total"] for line in runs.lines(workdir, "multitask")]
    assert losses[-1] < losses[0]  # The heads learn in either case.


def test_its_checkpoint_is_loaded_and_refused_where_it_is_no_student(run, tmp_path):
    _, workdir = run
    student = sak_jax.load(workdir)
    outputs = student(np.zeros((1, 24, 32, 3), np.float32))
    assert outputs.predictions["semseg"].shape == (1, 24, 32, 14) and outputs.aligned == {}
    with pytest.raises(UserError, match="foundation"):
        read(str(workdir), recipe.load(runs.TINY))
    with pytest.raises(UserError, match="foundation model"):
        published.export_student(workdir, tmp_path / "x.safetensors")
