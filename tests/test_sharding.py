"""The same run on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from sak_jax import sharding
from tests import runs

# Adam turns a gradient's rounding error into a step of up to the learning rate, which is therefore small.
RATES = ("--config.distill.lr=1e-5", "--config.multitask.lr=1e-5")
OPTIONS = ("--config.distill.steps=3", "--config.multitask.steps=3", "--config.checkpoint.every=3", *RATES)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("one"), devices=1)


def trained(workdir, devices, *options):
    env = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    done = runs.run(f"--workdir={workdir}", *OPTIONS, *options, env=env)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.parametrize("options", [(), ("--config.mesh.fsdp=4",)], ids=["data", "fsdp"])
def test_eight_devices_compute_what_one_does(one, tmp_path, options):
    eight = trained(tmp_path, 8, *options)
    for mine, theirs in zip(runs.lines(eight), runs.lines(one), strict=True):
        assert (mine["step"], mine["split"]) == (theirs["step"], theirs["split"])
        # Losses agree to rounding; scores count pixels, of which one may fall to the other side.
        tolerance = 1e-5 if mine["split"] != "val" else 1e-3
        for name, value in theirs["values"].items():
            if name != "grad_norm":
                assert mine["values"][name] == pytest.approx(value, rel=tolerance, abs=1e-6), (mine["step"], name)
    statistics = [name for name in runs.parameters(one) if name.endswith(("norm/mean", "norm/var"))]
    assert statistics
    for name in statistics:
        np.testing.assert_allclose(runs.parameters(eight)[name], runs.parameters(one)[name], rtol=1e-4, atol=1e-5)


def test_large_arrays_are_sharded_along_their_longest_axis():
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"))
    shape = jax.ShapeDtypeStruct((12, 384, 1536), jnp.float32)
    assert sharding.state_sharding(shape, mesh).spec == PartitionSpec()
    if jax.device_count() == 1:
        with pytest.raises(ValueError, match="mesh"):
            sharding.make_mesh(3, 2)
