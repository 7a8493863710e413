"""The gradient itself, leaf by leaf, on one device and on eight: Adam hides one that is eight times too large."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sak_jax import recipe
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.methods.sak import method
from tests import runs

MESHES = {"one": (1, 1), "data": (8, 1), "fsdp": (2, 4)}
STAGES = ("distill", "multitask")

KEPT = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda gradient, state, params: (jax.tree.map(jnp.zeros_like, gradient), gradient),
)
"""An optimiser that leaves the parameters alone and whose state is the gradient that it was given."""


def write_gradients(path):
    """Run with eight devices, below: the gradient of each stage's first step on each mesh, one batch for all."""
    config = recipe.load(runs.TINY)
    config.model.width = 64  # Wide enough for some parameters to be sharded.
    found = {}
    for stage in method.stages(config):
        stage = dataclasses.replace(stage, optimizer=KEPT)
        batches = stage.batches()
        batch = next(batches)
        batches.close()
        for name, (data, fsdp) in MESHES.items():
            mesh = meshes.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
            plan = states.plan(stage, mesh)
            committee, state = stage.frozen.load(states.places(plan.frozen)), states.fresh(plan, 0)
            state, logs = plan.jitted()(state, committee, meshes.put_batch(batch, mesh))
            gradient = state.opt_state
            sharded = [x for x in jax.tree.leaves(gradient) if not x.is_fully_replicated]
            assert bool(sharded) == (fsdp > 1)
            for where, leaf in jax.tree_util.tree_leaves_with_path(gradient):
                found[f"{stage.name} {name} {meshes.path_name(where)}"] = np.asarray(leaf)
            found[f"{stage.name} {name} grad_norm"] = np.asarray(logs["grad_norm"])
    np.savez(path, **found)


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    path = tmp_path_factory.mktemp("gradients") / "gradients.npz"
    command = [sys.executable, "-c", f"from tests.engine import test_gradients as t; t.write_gradients({str(path)!r})"]
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(command, cwd=runs.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {}
    with np.load(path) as file:
        for name in file.files:
            stage, mesh, leaf = name.split(" ")
            found.setdefault((stage, mesh), {})[leaf] = file[name]
    return found


@pytest.mark.parametrize("mesh", ["data", "fsdp"])
@pytest.mark.parametrize("stage", STAGES)
def test_eight_devices_have_the_gradient_of_one(gradients, stage, mesh):
    one, eight = gradients[stage, "one"], gradients[stage, mesh]
    assert one.keys() == eight.keys()
    assert {"stem", "adapters", "aligners"} <= {leaf.split("/")[0] for leaf in one}
    for name, leaf in one.items():
        error, scale = np.max(np.abs(eight[name] - leaf)), np.max(np.abs(leaf))
        # Measured: 2e-6 at most, the order of summation alone. What is zero (a bias before a batch norm) is so on both.
        assert error <= 1e-5 * scale, (name, error / scale)
    assert sum(not np.any(leaf) for leaf in one.values()) <= 1
