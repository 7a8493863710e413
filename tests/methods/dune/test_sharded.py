"""Statistics, dropping and loss are over the global batch: eight devices compute what one does."""

import os
import subprocess
import sys

from tests import runs

SCRIPT = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec
from sak_jax.engine import mesh as sharding
from sak_jax.methods.distillation import dropping, phi_s, statistics
from sak_jax.methods.dune.losses import Distillation, distillation_loss

assert jax.device_count() == 8
mesh = sharding.make_mesh(8, 1)
rng = np.random.default_rng(0)
WIDTHS = {"a": 12, "b": 8}
def features(gain):
    # Each image has a mean of its own: statistics of a part of the batch are far from those of the whole.
    shift = 3 * rng.standard_normal((16, 1, 1))
    return {
        name: {
            "cls": jnp.asarray(gain * (rng.standard_normal((16, c)) + shift[:, 0]), jnp.float32),
            "patch": jnp.asarray(gain * (rng.standard_normal((16, 5, c)) + shift), jnp.float32),
        }
        for name, c in WIDTHS.items()
    }
predicted, teachers = features(1.0), features(2.0)
draws = dropping.draw(jax.random.key(0), 16, 2)
groups = jnp.asarray(rng.integers(0, 2, 16))
for standardise, method in (("batch", "lowest_loss"), ("running", "own"), ("batch", "own+generic")):
    own = {n: {k: statistics.initial(standardise, c) for k in ("cls", "patch")} for n, c in WIDTHS.items()}
    settings = Distillation(standardise, method, own=(0, 1), generic=(0,))
    @jax.jit
    def step(predicted, teachers, own, draws, groups):
        def loss(predicted):
            total, logs, moved = distillation_loss(
                settings, predicted, teachers, own, momentum=0.5, draws=draws, groups=groups, train=True
            )
            return total, (logs, moved)
        return jax.value_and_grad(loss, has_aux=True)(predicted)
    one = step(predicted, teachers, own, draws, groups)
    put = lambda tree: jax.device_put(tree, sharding.batch_sharding(mesh))
    args = put(predicted), put(teachers), jax.device_put(own, sharding.replicated(mesh)), put(draws), put(groups)
    eight = step(*args)
    assert len(args[0]["a"]["cls"].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), eight, one)
    assert jax.tree.leaves(one[0][1][1])[0].any()
count, mean, scatter = phi_s.batch_moments(put(teachers["a"]["patch"]))
whole = phi_s.Moments.of(np.asarray(teachers["a"]["patch"]))
assert int(count) == 80
np.testing.assert_allclose(mean, whole.mean, rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(scatter, whole.scatter, rtol=1e-4, atol=1e-2)
print("equal")
"""


def test_eight_devices_compute_what_one_does():
    env = os.environ | runs.devices(8)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
