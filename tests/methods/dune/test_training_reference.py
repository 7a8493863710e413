"""Four updates and an evaluation against the published implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sak_jax.methods.distillation import dropping, losses, statistics
from sak_jax.methods.dune import optim
from sak_jax.methods.dune.losses import Distillation, distillation_loss
from sak_jax.methods.dune.pytorch import config_of, load_pytorch_state, pytorch_state, table
from sak_jax.methods.dune.student import Student
from sak_jax.weights import states
from tests.methods.dune.cases import TYPES, images, reference, shapes
from tests.reference.formula_weights import formula_input, formula_state

SCALES = dict(zip(TYPES, (1.0, 0.1, 5.0), strict=True))
SETTINGS = Distillation()


def features(step):
    """The teachers' raw features."""

    def one(name, kind):
        shape = (6, 1024) if kind == "cls" else (6, 16, 1024)
        gain = 1 + 0.5 * np.abs(formula_input(f"teacher/{name}/{kind}/gain", (1024,)))
        shift = formula_input(f"teacher/{name}/{kind}/shift", (1024,))
        return jnp.asarray(SCALES[name] * (formula_input(f"teacher/{name}/{kind}/{step}", shape) * gain + shift))

    return {name: {kind: one(name, kind) for kind in kinds} for name, kinds in TYPES.items()}


@functools.cache
def run():
    """Logs of each step and of the evaluation, and the weights afterwards."""
    case = reference("dune_training_tiny")
    weights = formula_state(shapes("student_training_tiny"))
    for key, value in weights.items():
        if key.startswith("teacher_norms."):
            weights[key] = np.zeros_like(value) if key.endswith("mean") else np.ones_like(value)
    config = config_of(weights)
    student = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
    load_pytorch_state(student, weights)
    graph, params, rest = nnx.split(student, nnx.Param, ...)
    schedule, momentum = optim.warmup_cosine(5e-4, 1e-6, 10, 2), optim.warmup_cosine(1.0, 0.001, 10)
    optimizer = optim.adamw(schedule, weight_decay=1.0, clip=0.05)

    def loss(params, rest, images, features, draws, momentum, train):
        student = nnx.merge(graph, params, rest, copy=True)
        predicted = student(images)
        own = student.running_statistics()
        total, logs, moved = distillation_loss(
            SETTINGS, predicted, features, own, momentum=momentum, draws=draws, train=train
        )
        student.set_statistics(moved)
        targets, _ = statistics.standardise("batch", features, own, train=train)
        each = losses.image_losses(predicted, targets)
        kept = dropping.kept("lowest_loss" if train else "none", each, draws=draws)
        return total, (nnx.split(student, nnx.Param, ...)[2], logs | {"total": total, "loss": each, "kept": kept})

    @jax.jit
    def update(params, rest, state, step, images, features, draws):
        gradient, (rest, logs) = jax.grad(loss, has_aux=True)(
            params, rest, images, features, draws, momentum(step), True
        )
        updates, state = optimizer.update(gradient, state, params)
        logs |= {"lr": schedule(step), "momentum": momentum(step), "norms": optim.tensor_norms(gradient)}
        return optax.apply_updates(params, updates), rest, state, logs

    state, logs = optimizer.init(params), []
    for step in range(4):
        pictures = jnp.asarray(images(f"image/step{step}", 6, (56, 56)))
        draws = jnp.asarray(case[f"step{step}/draws"]).reshape(6, 2)
        params, rest, state, values = update(
            params, rest, state, jnp.int32(step), pictures, features(f"step{step}"), draws
        )
        logs.append(values)
    evaluate = jax.jit(lambda *args: loss(*args, None, 0.0, False)[1][1])
    evaluation = evaluate(params, rest, jnp.asarray(images("image/evaluation", 6, (56, 56))), features("evaluation"))
    final = nnx.merge(graph, params, rest)
    return logs, evaluation, pytorch_state(final), config, nnx.eval_shape(lambda: nnx.state(final))


@pytest.mark.parametrize("step", range(4))
def test_loss_teachers_rate_and_momentum_of_each_step(step):
    case, logs = reference("dune_training_tiny"), run()[0][step]
    np.testing.assert_array_equal(logs["kept"], case[f"step{step}/kept"])
    np.testing.assert_allclose(logs["loss"], case[f"step{step}/loss"], rtol=2e-6)
    np.testing.assert_allclose(logs["total"], case[f"step{step}/total"], rtol=2e-6)
    np.testing.assert_allclose(logs["lr"], case[f"step{step}/lr"], rtol=1e-6)
    np.testing.assert_allclose(logs["momentum"], case[f"step{step}/momentum"], rtol=1e-6)
    shares = [logs[f"kept/{name}"] for name in TYPES]
    np.testing.assert_allclose(shares, case[f"step{step}/kept"].mean(1), rtol=1e-6)


@pytest.mark.parametrize("step", range(4))
def test_the_norm_of_each_tensors_gradient(step):
    case, (logs, _, _, config, abstract) = reference("dune_training_tiny"), run()
    # Each norm stands where its tensor's first value would: the table of names then gives each tensor's key.
    norms = dict(jax.tree_util.tree_flatten_with_path(logs[step]["norms"])[0])
    state = {}
    for path, leaf in nnx.to_flat_state(abstract):
        value = np.zeros(leaf.shape, np.float32)
        state[path] = leaf.replace(value)
    for path, norm in norms.items():
        words = tuple(optim.names(path))
        axes = norm.ndim
        value = state[words].get_value()
        state[words] = state[words].replace(
            np.broadcast_to(np.asarray(norm).reshape(*norm.shape, *(1,) * (value.ndim - axes)), value.shape)
        )
    found = states.export(nnx.from_flat_state(state), table(config))
    wanted = dict(zip(case["grad_norm/names"], case[f"step{step}/grad_norm"], strict=True))
    assert len(wanted) == 221
    clipped = 0
    for key, norm in wanted.items():
        np.testing.assert_allclose(found[key].reshape(-1)[0], norm, rtol=3e-5, err_msg=key)
        clipped += norm > 0.05
    assert 0 < clipped < len(wanted)
    for key in case["no_gradient/names"]:
        assert not found[key].any()


def test_weights_and_statistics_after_four_updates():
    case, final = reference("dune_training_tiny"), run()[2]
    start = formula_state(shapes("student_training_tiny"))
    keys = [key.removeprefix("final/") for key in case if key.startswith("final/")]
    assert len(keys) == 24
    for key in keys:
        ours, wanted = final[key].reshape(-1)[:256], case[f"final/{key}"]
        assert np.abs(ours - wanted).max() < 5e-6 * max(1, wanted.std()), key
        still = key in ("encoder.mask_token", "encoder.norm.weight")
        assert np.array_equal(wanted, start[key].reshape(-1)[:256]) == still, key


def test_evaluation_afterwards():
    case, evaluation = reference("dune_training_tiny"), run()[1]
    np.testing.assert_allclose(evaluation["total"], case["evaluation/total"], rtol=2e-6)
    means = [evaluation[f"distill/{name}"] for name in TYPES]
    np.testing.assert_allclose(means, case["evaluation/loss"], rtol=2e-6)
