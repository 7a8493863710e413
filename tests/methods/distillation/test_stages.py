"""The options that SAK and DUNE share, in the stages that the engine is given."""

import jax
import numpy as np
import pytest
from flax import nnx

from sak_jax import methods, recipe
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.methods.distillation import statistics as statistics_of
from tests import runs

DUNE = str(runs.ROOT / "tests/recipes/tiny_dune.py")


def first(config, stage=0, previous=None, steps=1, features=False):
    """The state after a stage's first steps, and what each step says; of the last one the teachers' features too."""
    recipe.check(config, 1)
    stage = methods.get(config.method).stages(config)[stage]
    mesh = meshes.make_mesh(1, 1, jax.devices()[:1])
    plan = states.plan(stage, mesh)
    state = states.fresh(plan, 0)
    start = stage.start(previous)
    if start.weights:
        state = states.started(state, start)
    frozen = stage.frozen.load(states.places(plan.frozen))
    step, batches, logs = plan.jitted(), stage.batches(), []
    for _ in range(steps):
        batch = next(batches)
        assert {name: x.shape for name, x in batch.items()} == {name: x.shape for name, x in stage.inputs.items()}
        state, values = step(state, frozen, meshes.put_batch(batch, mesh))
        logs.append({name: float(value) for name, value in values.items()} | {"groups": batch.get("group")})
    batches.close()
    if features:
        logs[-1]["features"] = jax.jit(stage.frozen.features)(frozen, batch)
    return state, logs


def statistics(state):
    return {"/".join(map(str, path[1:])): np.asarray(x[...]) for path, x in nnx.to_flat_state(state.stats)}


def test_images_teach_the_teacher_of_their_group_and_those_of_a_generic_group_all():
    config = recipe.load(f"{DUNE}:dropping=own+generic,projector=mlp,multitask=no")
    config.distill.generic = ("plain",)
    _, (logs,) = first(config)
    # Groups have equal shares; scene knows plain rooms, geometry those at night.
    assert np.bincount(logs["groups"]).tolist() == [4, 4]
    assert (logs["kept/scene"], logs["kept/geometry"]) == (0.5, 1.0)


def test_features_are_measured_before_training_and_then_stay():
    config = recipe.load(f"{DUNE}:standardise=phi_s,projector=ladder,multitask=no")
    state, logs = first(config, steps=2)
    found = statistics(state)
    assert {key.split("/")[-1] for key in found} == {"mean", "rotation", "scale"}
    rotation = found["geometry/patch/rotation"]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(144), atol=1e-4)
    assert found["scene/cls/scale"] != 1 and found["scene/patch/mean"].any()
    measured = methods.get("dune").stages(config)[0].start(None).weights
    for key, value in found.items():  # As measured, after two steps.
        np.testing.assert_array_equal(value, measured["statistics", *key.split("/")])
    assert all(np.isfinite(line["total"]) for line in logs)


def test_statistics_that_run_follow_the_momentum_and_parts_of_a_batch():
    config = recipe.load(f"{DUNE}:standardise=running,multitask=no")
    config.distill.accumulate = 2
    config.distill.momentum = (1.0, 1.0)
    state, logs = first(config, steps=2, features=True)
    # All of the momentum is the last part's, which has every second image.
    part = np.asarray(logs[-1]["features"]["scene"]["patch"])[1::2].reshape(-1, 128)
    found = statistics(state)
    np.testing.assert_allclose(found["scene/patch/mean"], part.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["scene/patch/std"], part.std(0, ddof=1) + statistics_of.EPSILON, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"standardise": "batch", "dropping": "lowest_loss"}])
def test_sak_takes_them_and_without_them_has_nothing_of_them(options):
    config = recipe.load(runs.TINY)
    config.distill.update(options)
    state, (logs,) = first(config)
    model = state.model
    if not options:
        assert not statistics(state) and not any(key.startswith("kept/") for key in logs)
        return
    found = statistics(state)
    assert len(found) == 2 * 4 * 2 and found["scene/level3/mean"].any()
    assert 1 <= logs["kept/scene"] + logs["kept/geometry"] <= 2
    # Stage 2 goes on with them, and moves them.
    second, (logs,) = first(config, stage=1, previous=model)
    heads = {key for key in statistics(second) if key.startswith("trunk")}
    assert set(statistics(second)) - heads == set(found) and "kept/scene" in logs
    assert (statistics(second)["scene/level3/mean"] != found["scene/level3/mean"]).any()


def test_sak_learns_from_several_data_sets_at_once():
    config = recipe.load(runs.TINY)
    with config.unlocked():
        config.distill.mix.sets = {
            "rooms": {"name": "rooms", "group": "plain", "train_length": 6},
            "night": {"name": "rooms", "group": "night", "train_length": 3, "look": "night"},
        }
    _, (logs,) = first(config)
    assert np.bincount(logs["groups"]).tolist() == [4, 4] and np.isfinite(logs["total"])
