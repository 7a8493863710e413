"""What a step changes, and what it leaves alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sak_jax import recipe
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.step import NOISE, train_step
from sak_jax.methods.sak import method
from sak_jax.methods.sak.build import student_config
from sak_jax.methods.sak.student import Student
from sak_jax.teachers import committee
from tests import runs


def one_step(stage_name, batch, path=runs.SMALLEST, **changes):
    """(state before, state after, logs) of one step of a recipe with some keys changed."""
    config = recipe.load(path)
    config.update_from_flattened_dict(changes)
    stage = next(stage for stage in method.stages(config) if stage.name == stage_name)
    plan = states.plan(stage, meshes.make_mesh(-1, 1))
    frozen = stage.frozen and stage.frozen.load(states.places(plan.frozen))
    state = states.fresh(plan, config.seed)
    after, logs = jax.jit(partial(train_step, stage, plan.model))(state, frozen, batch)
    return state, after, logs


@pytest.fixture(scope="module")
def images():
    return {"image": jax.random.normal(jax.random.key(0), (8, 24, 32, 3))}


@pytest.fixture(scope="module")
def labelled(images):
    rng = np.random.default_rng(0)
    return images | {
        "semseg": jnp.asarray(rng.integers(0, 14, (8, 24, 32)), jnp.uint8),
        "depth": jnp.asarray(rng.random((8, 24, 32)) + 1, jnp.float32),
        "edge": jnp.asarray(rng.integers(0, 2, (8, 24, 32)), jnp.float32),
    }


def changed(before, after):
    """Top-level parts of the student in which some parameter changed."""
    old, new = dict(nnx.to_flat_state(before.model)), dict(nnx.to_flat_state(after.model))
    return {
        path[0]
        for path, value in old.items()
        if isinstance(value, nnx.Param) and not np.array_equal(value[...], new[path][...])
    }


@pytest.mark.parametrize(
    "freeze, learns",
    [
        ("none", {"stem", "adapters", "output_norms", "aligners", "routers", "heads"}),
        ("stem", {"adapters", "output_norms", "aligners", "routers", "heads"}),
        ("all_but_routers", {"routers", "heads"}),
    ],
)
def test_what_is_frozen_stays(labelled, freeze, learns):
    before, after, logs = one_step("multitask", labelled, **{"model.freeze": freeze})
    assert changed(before, after) == learns
    assert int(after.step) == 1
    total = sum(logs[name] for name in ("depth", "distill"))
    np.testing.assert_allclose(logs["total"], total, rtol=1e-6)


def test_lora_in_stage_1_trains_only_its_updates_of_the_stem(images):
    before, after, _ = one_step("distill", images, **{"model.lora.rank": 2, "distill.warmup_lr": 1e-3})
    old, new = dict(nnx.to_flat_state(before.model)), dict(nnx.to_flat_state(after.model))
    moved = {
        path[-1] for path, value in old.items() if path[0] == "stem" and not np.array_equal(value[...], new[path][...])
    }
    # The first matrices get no gradient while the second ones are zero; decay moves them.
    assert moved == {"lora_a", "lora_b"}
    assert "adapters" in changed(before, after)


def test_accumulated_parts_give_the_whole_batch(images):
    # Stage 1 has neither batch statistics nor noise, so the parts' mean is the batch's.
    _, whole, logs = one_step("distill", images)
    _, parts, parts_logs = one_step("distill", images, **{"distill.accumulate": 4})
    for name, value in logs.items():
        np.testing.assert_allclose(parts_logs[name], value, rtol=2e-5, err_msg=name)
    for (path, mine), (_, theirs) in zip(
        nnx.to_flat_state(parts.opt_state[0].mu), nnx.to_flat_state(whole.opt_state[0].mu), strict=True
    ):
        np.testing.assert_allclose(mine[...], theirs[...], rtol=1e-3, atol=1e-7, err_msg=str(path))


def test_parts_whose_teachers_see_the_whole_batch_at_once(images, monkeypatch):
    sizes, ours = [], committee.Committee.__call__
    monkeypatch.setattr(
        committee.Committee, "__call__", lambda self, images: sizes.append(len(images)) or ours(self, images)
    )
    _, parts, logs = one_step("distill", images, **{"distill.accumulate": 4})
    assert set(sizes) == {2}
    sizes.clear()
    _, once, once_logs = one_step("distill", images, **{"distill.accumulate": 4, "distill.teach_whole": True})
    assert set(sizes) == {8}
    for name, value in logs.items():
        np.testing.assert_allclose(once_logs[name], value, rtol=2e-5, err_msg=name)
    for mine, theirs in zip(jax.tree.leaves(once.opt_state[0].mu), jax.tree.leaves(parts.opt_state[0].mu), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-7)


def test_accumulated_parts_of_stage_two_have_the_whole_batchs_loss_and_gradient(labelled):
    """Counts of pixels are the whole batch's. Batch statistics are a part's: here the parts show the same images."""
    half = {name: value[:4] for name, value in labelled.items()}
    batch = {name: jnp.stack([value, value], axis=1).reshape(-1, *value.shape[1:]) for name, value in half.items()}
    # Labels of the two parts differ, and so do the numbers of their valid pixels: of the second hardly any is valid.
    rare = (jnp.arange(8).reshape(8, 1, 1) % 2 > 0) & (jax.random.uniform(jax.random.key(1), (8, 24, 32)) < 0.9)
    batch |= {name: jnp.where(rare, jnp.asarray(255, batch[name].dtype), batch[name]) for name in ("semseg", "depth")}
    quiet = {"model.noisy_gating": False, "multitask.clip": 0.0}
    _, whole, logs = one_step("multitask", batch, runs.TINY, **quiet)
    _, parts, parts_logs = one_step("multitask", batch, runs.TINY, **quiet, **{"multitask.accumulate": 2})
    for name, value in logs.items():
        np.testing.assert_allclose(parts_logs[name], value, rtol=2e-5, err_msg=name)
    for (path, mine), (_, theirs) in zip(
        nnx.to_flat_state(parts.opt_state[0].mu), nnx.to_flat_state(whole.opt_state[0].mu), strict=True
    ):
        scale = float(jnp.max(jnp.abs(theirs[...])))
        np.testing.assert_allclose(mine[...], theirs[...], rtol=1e-3, atol=1e-5 * scale + 1e-9, err_msg=str(path))


def test_bfloat16_trains_beside_float32(labelled):
    def losses(dtype):
        config = recipe.load(runs.SMALLEST)
        config.dtype = dtype
        stage = method.stages(config)[-1]
        plan = states.plan(stage, meshes.make_mesh(-1, 1))
        frozen, state = stage.frozen.load(states.places(plan.frozen)), states.fresh(plan, 0)
        step, found = plan.jitted(), []
        for _ in range(6):
            state, logs = step(state, frozen, labelled)
            found.append(float(logs["total"]))
        assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((state.params, state.stats)))
        return found

    single, half = losses("float32"), losses("bfloat16")
    assert half[-1] < half[0] and single[-1] < single[0]
    np.testing.assert_allclose(half, single, rtol=0.02)
    assert half != single


def test_alpha_zero_leaves_the_teachers_out(labelled):
    _, _, logs = one_step("multitask", labelled, **{"multitask.alpha": 0.0})
    assert "distill" not in logs and not any(name.startswith("distill/") for name in logs)


def test_noise_has_a_stream_of_its_own():
    seed, step = jnp.uint32(0), 0
    assert NOISE  # Folding in nothing would be the key of initialisation.
    noise = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), NOISE), step)
    assert not np.array_equal(jax.random.key_data(noise), jax.random.key_data(jax.random.key(seed)))


def test_noise_differs_from_step_to_step_and_not_from_run_to_run(labelled):
    before, after, logs = one_step("multitask", labelled)
    _, _, again = one_step("multitask", labelled)
    assert float(logs["total"]) == float(again["total"])
    config = student_config(recipe.load(runs.SMALLEST), "multitask")
    student = Student(config, rngs=nnx.Rngs(0))

    @jax.jit
    def forward(student, key):
        return student(labelled["image"], train=True, rngs=nnx.Rngs(noise=key)).routing["depth"]

    first, second = (forward(student, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(first, second)
