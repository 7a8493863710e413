"""The student's step, compiled for eight devices: what moves between them."""

import json
import os
import subprocess
import sys

import pytest

from tests import runs

SCRIPT = """
import json, re
import jax, jax.numpy as jnp
from flax import nnx
from sak_jax.engine import mesh as meshes
from sak_jax.methods.sak.student import Student, StudentConfig
from sak_jax.nn import placement
from sak_jax.nn.vit import ViTConfig

stem = ViTConfig(width=192, depth=4, heads=3, patch=4, taps=(0, 1, 2, 3), image_size=(16, 24))
config = StudentConfig(stem=stem, teachers=(("one", 192), ("two", 192)), tasks=(("semseg", 5), ("depth", 1)))
graph, params, stats = nnx.split(nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0))), nnx.Param, ...)


def step(params, stats, images, key):
    def loss(params):
        student = nnx.merge(graph, params, stats, copy=True)
        outputs = student(images, train=True, rngs=nnx.Rngs(noise=key))
        return sum(jnp.mean(jnp.square(x)) for x in jax.tree.leaves((outputs.predictions, outputs.aligned)))

    value, gradient = jax.value_and_grad(loss)(params)
    return value, jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient)


def collectives(fsdp, pinned):
    mesh = meshes.make_mesh(8 // fsdp, fsdp)
    put = lambda tree, where: jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where)
    copies = lambda tree: jax.tree.map(lambda _: meshes.replicated(mesh), tree)
    placed = meshes.shardings(params, mesh)
    images = jax.ShapeDtypeStruct((8, 16, 24, 3), jnp.float32, sharding=meshes.batch_sharding(mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    with placement.activation_sharding(meshes.batch_sharding(mesh) if pinned else None):
        run = jax.jit(lambda *x: step(*x), out_shardings=(meshes.replicated(mesh), placed))
        text = run.lower(put(params, placed), put(stats, copies(stats)), images, key).compile().as_text()
    kinds = ("all-to-all", "all-gather", "all-reduce", "collective-permute", "reduce-scatter")
    return {kind: len(re.findall(rf"= [^=]*\\b{kind}(?:-start)?\\(", text)) for kind in kinds}


print(json.dumps([collectives(*case) for case in ((1, True), (4, True), (4, False))]))
"""


@pytest.fixture(scope="module")
def counts():
    env = os.environ | runs.devices(8)
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_data_parallel_steps_only_sum(counts):
    whole = counts[0]
    assert whole.pop("all-reduce") > 0
    assert set(whole.values()) == {0}


def test_pinned_activations_stay_where_they_are_when_parameters_are_sharded(counts):
    _, pinned, free = counts
    assert pinned["all-to-all"] == pinned["collective-permute"] == 0 < pinned["all-gather"]
    assert free["all-to-all"] > 0  # So that the zero above is the pinning's.
