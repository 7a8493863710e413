import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from sak_jax.methods.dune import optim
from sak_jax.nn.vit import ViT, ViTConfig
from tests.methods.dune.cases import reference

TINY = ViTConfig(12, 3, 2, 4, (2,), (8, 8), registers=2, layer_scale=True)


@pytest.mark.parametrize("steps", [10, 53])
def test_learning_rate_of_each_step(steps):
    rate = optim.warmup_cosine({10: 5e-4, 53: 1.2e-3}[steps], 1e-6, steps, int(0.2 * steps))
    wanted = reference("dune_statistics")[f"schedule/lr_{steps}"]
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(steps)), wanted, rtol=1e-6)
    assert wanted[0] == 0 and rate(steps + 5) == np.float32(1e-6)


def test_momentum_of_each_step():
    momentum = optim.warmup_cosine(1.0, 0.001, 10)
    wanted = reference("dune_statistics")["schedule/momentum_10"]
    np.testing.assert_allclose(jax.vmap(momentum)(jnp.arange(10)), wanted, rtol=1e-6)


def parameters():
    return nnx.state(nnx.eval_shape(lambda: ViT(TINY, rngs=nnx.Rngs(0))), nnx.Param)


def test_what_decays_is_judged_by_one_layers_tensor():
    decays = {".".join(map(str, path)) for path, leaf in flat(optim.decayed(parameters())) if leaf}
    blocks = {f"blocks.{name}.kernel" for name in ("attention.qkv", "attention.output", "mlp.up", "mlp.down")}
    assert decays == blocks | {"patch_embed.projection.kernel", "position_embedding", "class_token", "registers"}


def flat(state):
    return [(path, leaf.get_value()) for path, leaf in nnx.to_flat_state(state)]


def test_stacks_are_clipped_layer_by_layer():
    rng = np.random.default_rng(0)
    gradient = {"blocks": {"kernel": rng.standard_normal((3, 4, 5), np.float32)}, "output": {"kernel": np.ones((2, 2))}}
    gradient["blocks"]["kernel"][1] *= 0.01
    clip = optim.clip_per_tensor(1.0)
    clipped, _ = clip.update(jax.tree.map(jnp.asarray, gradient), clip.init(gradient))
    for ours, theirs in zip(
        [*clipped["blocks"]["kernel"], clipped["output"]["kernel"]],
        [*gradient["blocks"]["kernel"], gradient["output"]["kernel"]],
        strict=True,
    ):
        wanted = theirs * min(1.0, 1.0 / (np.linalg.norm(theirs) + 1e-6))
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)
    np.testing.assert_array_equal(clipped["blocks"]["kernel"][1], gradient["blocks"]["kernel"][1])


def test_updates_equal_pytorchs():
    rng = np.random.default_rng(0)
    start = {"kernel": rng.standard_normal((4, 5), np.float32), "bias": rng.standard_normal((5,), np.float32)}
    schedule = optim.warmup_cosine(1e-2, 1e-6, 6, 2)
    ours = jax.tree.map(jnp.asarray, start)
    optimizer = optim.adamw(schedule, weight_decay=0.3, clip=0.5)
    state = optimizer.init(ours)
    theirs = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in start.items()}
    groups = [{"params": [theirs["kernel"]], "weight_decay": 0.3}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    reference_optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15)
    for step in range(5):
        gradient = {key: rng.standard_normal(value.shape).astype(np.float32) for key, value in start.items()}
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
        for key, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[key] * min(1.0, 0.5 / (np.linalg.norm(gradient[key]) + 1e-6)))
        for group in reference_optimizer.param_groups:
            group["lr"] = float(schedule(step))
        reference_optimizer.step()
    for key, parameter in theirs.items():
        np.testing.assert_allclose(ours[key], parameter.detach().numpy(), rtol=2e-6, atol=1e-7)
