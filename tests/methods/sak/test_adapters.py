import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from sak_jax.methods.sak import adapters
from tests.nn.filling import filled


def test_an_adapter_is_a_scaled_bottleneck_with_a_residual():
    adapter = adapters.Adapter(16, 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert adapter.down.kernel.shape == (16, 4) and adapter.scale[...] == 1
    assert not np.any(adapter.down.bias[...]) and not np.any(adapter.up.bias[...])
    adapter = filled(lambda: adapters.Adapter(16, 4, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 16), np.float32))
    w = {name: torch.tensor(np.asarray(getattr(adapter, name).kernel[...])) for name in ("down", "up")}
    b = {name: torch.tensor(np.asarray(getattr(adapter, name).bias[...])) for name in ("down", "up")}
    inner = torch.nn.functional.gelu(torch.tensor(x) @ w["down"] + b["down"])
    expected = torch.tensor(x) + float(adapter.scale[0]) * (inner @ w["up"] + b["up"])
    np.testing.assert_allclose(jax.jit(lambda adapter, x: adapter(x))(adapter, x), expected, rtol=1e-5, atol=1e-5)


def test_every_teacher_has_an_adapter_of_its_own_at_each_depth():
    paths = filled(lambda: adapters.AdapterPaths(3, 8, 16, 4, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert paths.entry.up.kernel.shape == (3, 4, 16) and paths.blocks.up.kernel.shape == (8, 3, 4, 16)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 2, 5, 16), np.float32))
    together = jax.jit(adapters.adapt)(paths.entry, list(x))
    side_by_side = jax.jit(jax.vmap(lambda adapter, x: adapter(x)))(paths.entry, x)
    np.testing.assert_allclose(jnp.stack(together), side_by_side, rtol=1e-5, atol=1e-6)
