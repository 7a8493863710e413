"""What `test_pod` runs in processes of its own: steps of both stages on a mesh, checkpoints, and restoring them."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from etils import epath

from sak_jax import recipe, run
from sak_jax.engine import hosts
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.saving import Checkpoints
from sak_jax.methods.sak import method
from tests import runs

STEPS = 10
"""Of each stage."""


def settings():
    config = recipe.load(runs.TINY)
    config.model.width = 64  # Wide enough for some parameters to be sharded.
    # Small rates: Adam turns a gradient's rounding error into a step of up to the rate.
    config.distill.lr = config.multitask.lr = 1e-6
    config.distill.warmup_lr = 1e-7
    return config


def remembering(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, whose state holds besides the last gradient that it was given."""
    return optax.GradientTransformation(
        init=lambda params: (jax.tree.map(jax.numpy.zeros_like, params), optimizer.init(params)),
        update=lambda gradient, state, params: (
            (found := optimizer.update(gradient, state[1], params))[0],
            (gradient, found[1]),
        ),
    )


def train(mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """Each stage's losses over `STEPS` steps, and the first step's gradient leaf by leaf."""
    config, found = settings(), {}
    for stage in method.stages(config):
        stage = dataclasses.replace(stage, optimizer=remembering(stage.optimizer))
        plan = states.plan(stage, mesh)
        committee, state = stage.frozen.load(states.places(plan.frozen)), states.fresh(plan, 0)
        step, batches, losses = plan.jitted(), stage.batches(), []
        for index in range(STEPS):
            state, logs = step(state, committee, meshes.put_batch(next(batches), mesh))
            losses.append(float(logs["total"]))
            if index == 0:
                shared = any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.opt_state[0]))
                assert shared == (mesh.shape["fsdp"] > 1)
                gradient = meshes.gather(state.opt_state[0])
                for where, leaf in jax.tree_util.tree_leaves_with_path(gradient):
                    found[f"{stage.name} gradient {meshes.path_name(where)}"] = np.asarray(leaf)
                found[f"{stage.name} gradient norm"] = np.asarray(logs["grad_norm"])
        batches.close()
        found[f"{stage.name} losses"] = np.array(losses)
    return found


def save(mesh: jax.sharding.Mesh, workdir: Path) -> None:
    """A checkpoint of an untrained student of stage 2."""
    config = settings()
    plan = states.plan(method.stages(config)[1], mesh)
    checkpoints = Checkpoints(epath.Path(workdir), "multitask", recipe.plain(config))
    checkpoints.save(states.fresh(plan, 3), {"next_batch": 0})
    checkpoints.wait()
    checkpoints.close()


def restore(workdir: Path, mesh: jax.sharding.Mesh) -> dict[str, float]:
    """The scores of a checkpoint."""
    config = settings()
    found = run.restore(config, method.stages(config), epath.Path(workdir), mesh, best=False)
    scores = found.evaluator(found.model)
    found.evaluator.close()
    return scores


def two_hosts(folder: Path) -> None:
    """One of the two processes."""
    hosts.join()
    hosts.gather_texts("")  # They must meet soon: compiling may take them differently long.
    mesh = meshes.make_mesh(2, 4)
    assert jax.process_count() == 2 and jax.local_device_count() == 4
    found = train(mesh)
    save(mesh, folder / "two_hosts")
    if meshes.is_main():
        np.savez(folder / "two_hosts.npz", **found)


def one_host(folder: Path) -> None:
    """The process of eight devices, which compares; it comes after the two."""
    devices = jax.devices()
    one, four, eight = meshes.make_mesh(1, 1, devices[:1]), meshes.make_mesh(1, 4, devices[:4]), meshes.make_mesh(8, 1)
    np.savez(folder / "one.npz", **train(one))
    np.savez(folder / "data.npz", **train(eight))
    save(eight, folder / "data")
    scores = {
        saved: {name: restore(folder / saved, mesh) for name, mesh in (("one", one), ("four", four))}
        for saved in ("two_hosts", "data")
    }
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
