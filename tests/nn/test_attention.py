import logging
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

from sak_jax.errors import UserError
from sak_jax.nn import attention as attention_module
from sak_jax.nn import placement
from sak_jax.nn.attention import attention


def arrays(queries, keys, width, value_width, heads=3, batch=2, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = (queries, heads, width), (keys, heads, width), (keys, heads, value_width)
    return [jnp.asarray(2 * rng.standard_normal((batch, *shape), np.float32), dtype) for shape in shapes]


def value_and_gradients(implementation, inputs, **options):
    def run(*inputs):
        out = attention(*inputs, implementation=implementation, **options)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    return jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(*inputs)


def assert_close(one, other, tolerance):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        np.testing.assert_allclose(x, y, atol=tolerance * np.abs(y).max())


SHAPES = [(7, 7, 8, 8), (1, 13, 5, 5), (33, 9, 16, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [None, 1.3])
def test_one_head_after_another_equals_the_plain_form(shape, scale):
    inputs = arrays(*shape)
    expected = value_and_gradients("xla", inputs, scale=scale)
    assert_close(value_and_gradients("looped", inputs, scale=scale), expected, 1e-5)


def test_the_plain_form_is_the_softmax_of_the_scaled_logits():
    query, key, value = arrays(5, 6, 8, 3)
    weights = jax.nn.softmax(jnp.einsum("bqhe,bkhe->bhqk", query, key) / 8**0.5)
    expected = jnp.einsum("bhqk,bkhf->bqhf", weights, value)
    assert_close(attention(query, key, value, implementation="xla"), expected, 1e-5)


def test_large_logits_do_not_overflow():
    query, key, value = arrays(5, 5, 8, 8)
    inputs = 100 * query, 100 * key, value
    gradients, out = value_and_gradients("looped", inputs)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in (*gradients, out))
    assert_close(out, value_and_gradients("xla", inputs)[1], 1e-5)


@pytest.mark.parametrize("implementation", ["xla", "looped"])
def test_half_precision_stays_within_its_rounding(implementation):
    inputs = arrays(33, 33, 16, 16, dtype=jnp.bfloat16)
    exact = value_and_gradients("xla", [x.astype(jnp.float32) for x in inputs])
    with jax.numpy_dtype_promotion("standard"):  # The library's own backward pass mixes dtypes in newer versions.
        ours = value_and_gradients(implementation, inputs)
    assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype(jnp.bfloat16)}
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert np.std(np.asarray(x, np.float32) - y) < 2**-6 * np.std(y)


def test_no_logits_are_kept_for_the_backward_pass():
    inputs = arrays(64, 64, 4, 4)
    _, pullback = jax.vjp(lambda *x: attention(*x, implementation="looped"), *inputs)
    kept = [x.size for x in jax.tree.leaves(pullback) if hasattr(x, "size")]
    assert max(kept) == inputs[0].size < 2 * 3 * 64 * 64


@pytest.mark.parametrize("shape", [(130, 130, 64, 64), (70, 200, 32, 16)])
def test_the_tpu_kernel_equals_the_plain_form_at_odd_lengths(shape, monkeypatch):
    monkeypatch.setattr(kernel, "make_splash_mha", partial(kernel.make_splash_mha, interpret=True))
    inputs = arrays(*shape, heads=2)
    expected = value_and_gradients("xla", inputs)
    with placement.compiling_for("tpu"):
        ours = value_and_gradients("pallas", inputs)
    assert_close(ours, expected, 1e-5)


@pytest.mark.parametrize(
    ("platform", "dtype", "expected"),
    [("cpu", "float32", "scan["), ("tpu", "bfloat16", "pallas_call")],
)
def test_auto_goes_by_the_platform_that_is_compiled_for(platform, dtype, expected):
    inputs = arrays(600, 600, 64, 64, dtype=dtype)
    with placement.compiling_for(platform):
        text = str(jax.make_jaxpr(lambda *x: attention(*x))(*inputs))
    assert expected in text


@pytest.mark.parametrize(
    ("platform", "dtype", "keys", "reason"),
    [
        ("gpu", "float32", 600, "xla instead of cudnn .cuDNN has it in half precision alone, not in float32"),
        ("gpu", "bfloat16", 600, "xla instead of cudnn .cuDNN is not detected"),
        ("tpu", "bfloat16", 100, "xla instead of pallas .100 keys are few"),
    ],
)
def test_auto_falls_back_to_the_plain_form_and_says_why(platform, dtype, keys, reason, caplog):
    attention_module._tell.cache_clear()
    inputs = arrays(keys, keys, 64, 64, dtype=dtype)
    with placement.compiling_for(platform), caplog.at_level(logging.INFO, logger="sak_jax.nn.attention"):
        text = str(jax.make_jaxpr(lambda *x: attention(*x))(*inputs))
    assert not any(name in text for name in ("pallas_call", "scan[", "dot_product_attention_fwd"))
    assert re.search(reason, caplog.text)


@pytest.mark.parametrize(
    ("implementation", "message"),
    [
        ("cudnn", "attention cudnn does not work here: cuDNN is for NVIDIA GPUs, this is a cpu; set it to auto or xla"),
        ("pallas", "the Pallas kernel is for TPUs, this is a cpu"),
        ("flash", "attention is 'flash': it must be one of auto, xla, cudnn, pallas, looped"),
    ],
)
def test_a_choice_that_cannot_work_is_the_users_mistake(implementation, message):
    with pytest.raises(UserError, match=message):
        attention(*arrays(3, 3, 8, 8), implementation=implementation)
