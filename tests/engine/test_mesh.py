"""The same run on one device and on eight."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from sak_jax import main, recipe
from sak_jax.engine import hosts
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.errors import UserError
from sak_jax.methods.sak import method
from tests import runs

# Adam turns a gradient's rounding error into a step of up to the learning rate, which is therefore small.
RATES = ("--config.distill.lr=1e-5", "--config.multitask.lr=1e-5")
OPTIONS = (
    "--config.model.width=64",  # Wide enough for some parameters to be sharded.
    "--config.batch_size=8",
    "--config.eval_batch_size=8",
    "--config.data.train_length=8",
    "--config.data.val_length=11",
    *RATES,
)


def trained(workdir, devices, *options):
    env = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    done = runs.run(f"--workdir={workdir}", *OPTIONS, *options, config=runs.SMALLEST, env=env)
    assert done.returncode == 0, done.stderr
    return workdir


def test_eight_devices_compute_what_one_does(tmp_path):
    """With shared parameters; that data-parallel steps have one device's gradient, `test_pod` shows."""
    one, eight = trained(tmp_path / "one", 1), trained(tmp_path / "eight", 8, "--config.mesh.fsdp=4")
    for mine, theirs in zip(runs.lines(eight), runs.lines(one), strict=True):
        assert (mine["step"], mine["split"]) == (theirs["step"], theirs["split"])
        # Losses agree to rounding; scores count pixels of 11 small images, of which some fall to the other side.
        tolerance = 1e-5 if mine["split"] != "val" else 1e-2
        for name, value in theirs["values"].items():
            if name != "grad_norm":
                assert mine["values"][name] == pytest.approx(value, rel=tolerance, abs=1e-6), (mine["step"], name)
    statistics = [name for name in runs.parameters(one) if name.endswith(("norm/mean", "norm/var"))]
    assert statistics
    for name in statistics:
        np.testing.assert_allclose(runs.parameters(eight)[name], runs.parameters(one)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "shape, spec",
    [
        ((12, 384, 1536), (None, None, "fsdp")),
        ((12, 1536, 385), (None, "fsdp", None)),
        ((4, 333, 335), ("fsdp", None, None)),  # The only axis that four devices divide.
        ((3, 333, 335), ()),
        ((384, 100), ()),  # Small.
    ],
)
def test_large_arrays_are_sharded_along_their_longest_axis(shape, spec):
    mesh = AbstractMesh((2, 4), ("data", "fsdp"))
    placed = meshes.shardings(jax.ShapeDtypeStruct(shape, jnp.float32), mesh)
    assert placed.spec == PartitionSpec(*spec)


def test_a_mesh_that_does_not_fit_the_devices_is_refused(tmp_path, capsys, monkeypatch):
    with pytest.raises(UserError, match="mesh"):
        meshes.make_mesh(3, 2)
    monkeypatch.setattr(hosts, "join", lambda: None)  # JAX runs already.
    assert main.main([f"--config={runs.TINY}", f"--workdir={tmp_path}", "--config.mesh.fsdp=3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: config.mesh: data 0 x fsdp 3 is not the 1 devices") and error.count("\n") == 1


def test_fsdp_that_divides_nothing_is_refused():
    tree = {"kernel": jax.ShapeDtypeStruct((384, 1536), jnp.float32), "bias": jax.ShapeDtypeStruct((35,), jnp.float32)}

    def check(fsdp, tree):
        mesh = AbstractMesh((1, fsdp), ("data", "fsdp"))
        meshes.check_shared(states.placed(tree, meshes.shardings(tree, mesh)), mesh)

    with pytest.raises(UserError, match="config.mesh.fsdp is 5, which divides no axis"):
        check(5, tree)
    check(4, tree)
    check(1, tree)
    check(5, {"bias": tree["bias"]})  # There is nothing to share.


def take_two_steps():
    """Run with four devices, below: the state stays where it was put, so that the step is compiled once."""
    config = recipe.load(runs.TINY)
    config.model.width = 64
    config.mesh.fsdp = 4
    stage, mesh = method.stages(config)[1], meshes.make_mesh(-1, 4)
    plan = states.plan(stage, mesh)
    committee, state = stage.frozen.load(states.places(plan.frozen)), states.fresh(plan, 0)
    step = plan.jitted()
    where = states.places(state)
    assert where == states.places(plan.state)
    assert any("fsdp" in placed.spec for placed in jax.tree.leaves(where.params))
    assert any("fsdp" in placed.spec for placed in jax.tree.leaves(where.opt_state))
    batches = stage.batches()
    for _ in range(2):
        state, _ = step(state, committee, meshes.put_batch(next(batches), mesh))
        assert states.places(state) == where
    batches.close()
    assert step._cache_size() == 1


def test_a_sharded_state_stays_where_it_is():
    command = [sys.executable, "-c", "from tests.engine import test_mesh; test_mesh.take_two_steps()"]
    env = os.environ | runs.devices(4)
    done = subprocess.run(command, cwd=runs.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_devices_made_of_one_processor_have_threads_to_wait_in():
    """Else collectives that wait beside each other hold them all, and XLA aborts the process."""
    code = (
        "import jax; from pathlib import Path; from sak_jax.engine import mesh; mesh.give_threads();"
        "jax.jit(lambda x: x)(1.0);"
        "print([path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')].count('tf_XLAEigen'))"
    )
    env = {name: value for name, value in os.environ.items() if "NPROC" not in name}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=13"
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, env=env, capture_output=True, text=True)
    assert int(done.stdout) >= 52, done.stderr


def test_threads_that_somebody_has_set_are_left():
    for variables in ({}, {"XLA_FLAGS": "--xla_dump_to=a"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}):
        meshes.give_threads(variables)
        assert "PJRT_NPROC" not in variables
    for name in ("NPROC", "PJRT_NPROC"):
        variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", name: "9"}
        given = dict(variables)
        meshes.give_threads(variables)
        assert variables == given


@pytest.mark.parametrize(
    ("pattern", "axes", "word"),
    [
        ("stem/(", ["fsdp"], "no regular expression"), ("w", "fsdp", "give a list"), ("w", 3, "give a list"),
        ("w", None, "give a list"), ("w", ["fsdp", "fsdp"], "once each"), ("w", [["data", "fsdp"], None], "no axis"),
        ("w", ["tensor"], "no axis of the mesh"), ("w", ["fsdp", None, None], "has 2 axes"),
    ],
)  # fmt: skip
def test_places_that_cannot_be_are_named(pattern, axes, word):
    mesh = AbstractMesh((2, 4), ("data", "fsdp"))
    with pytest.raises(UserError, match=f"config.mesh.placement: .*{word}") as caught:
        meshes.shardings({"w": jax.ShapeDtypeStruct((8, 16), jnp.float32)}, mesh, {pattern: axes})
    assert "\n" not in str(caught.value)


def test_a_pattern_that_matches_nothing_is_told(caplog):
    stage, mesh = method.stages(recipe.load(runs.TINY))[0], meshes.make_mesh(1, 1)
    table = {"^params/stem/blocks": (None,), "scene/blocks/.*kernel": (None,), "haeds/": (None,)}
    states.plan(stage, mesh, table)
    (record,) = caplog.records
    assert record.getMessage() == "config.mesh.placement: 'haeds/' matches no array of distill"
