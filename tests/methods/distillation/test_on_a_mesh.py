"""Teachers outside the training step are computed as within it: each device its rows, kernels on those alone."""

import os
import subprocess
import sys

from tests import runs

SCRIPT = """
import dataclasses
import jax, numpy as np
from sak_jax import methods, recipe, run
from sak_jax.engine import mesh as meshes
from sak_jax.methods.distillation import state
from sak_jax.methods.sak.losses import by_level
from sak_jax.nn import placement

assert jax.device_count() == 8
config = recipe.load("configs/rooms.py", ["--config.batch_size=8", "--config.distill.measure=2"])
stages = methods.get("sak").stages(config)
pinned = []
def watched(stage):
    def features(arrays, batch):
        pinned.append(placement.pin(batch["image"]) is not batch["image"])
        return stage.frozen.features(arrays, batch)
    return dataclasses.replace(stage, frozen=dataclasses.replace(stage.frozen, features=features))

images = np.random.default_rng(0).standard_normal((3, *config.image_size, 3)).astype(np.float32)
found = []
for devices in (1, 8):
    mesh = meshes.make_mesh(devices, 1, jax.devices()[:devices])
    found.append(run.committee(config, tuple(map(watched, stages)), mesh)(images))
assert pinned[-1] and not pinned[0], pinned
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *found)
assert all(len(level) == 3 for maps in found[1].values() for level in maps)

class Batches:
    def __init__(self, batches): self.next = batches
    def __next__(self): return next(self.next)
    def close(self): pass
draw = lambda seed: np.random.default_rng(seed).integers(0, 256, (8, *config.image_size, 3), np.uint8)
batches = Batches({"image": draw(seed)} for seed in range(3))
with config.unlocked():
    config.distill.standardise = "frozen"
pinned.clear()
statistics = state.measured(config, watched(stages[0]).frozen, batches, by_level)
assert pinned == [True]
assert all(np.isfinite(x).all() for x in statistics.values()) and len(statistics) > 8
print("equal")
"""


def test_report_and_statistics_see_teachers_on_eight_devices():
    env = os.environ | runs.devices(8)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr
