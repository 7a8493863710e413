from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

from sak_jax.errors import UserError
from sak_jax.nn import attention, placement, relative_attention

SIZES = [(3, 5), (7, 4), (16, 3)]


def arrays(h, w, dtype=jnp.float32, heads=2, width=8):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32), dtype)  # noqa: E731
    return *(draw(2, h, w, heads, width) for _ in range(3)), draw(h, h, width), draw(w, w, width)


def restated(query, key, value, by_row, by_column):
    """With the bias of every pair of places in memory."""
    batch, h, w, heads, width = query.shape
    row, column = np.divmod(np.arange(h * w), w)
    pairs = by_row[row[:, None], row[None, :]] + by_column[column[:, None], column[None, :]]
    query, key, value = (x.reshape(batch, h * w, heads, width) for x in (query, key, value))
    logits = jnp.einsum("bqne,bkne->bnqk", query, key) / width**0.5 + jnp.einsum("bqne,qke->bnqk", query, pairs)
    out = jnp.einsum("bnqk,bkne->bqne", jax.nn.softmax(logits), value)
    return out.reshape(batch, h, w, heads, width)


def value_and_gradients(run, inputs):
    def total(*inputs):
        out = run(*inputs)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True))(*inputs)


def assert_close(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * float(jnp.abs(y).max()))


@pytest.mark.parametrize("at_once", [2**20, 500, 1])
@pytest.mark.parametrize("size", SIZES)
def test_one_head_and_some_rows_at_a_time_equal_the_equation(size, at_once, monkeypatch):
    monkeypatch.setattr(relative_attention, "AT_ONCE", at_once)
    inputs = arrays(*size)
    run = partial(relative_attention.relative_attention, implementation="looped")
    assert_close(value_and_gradients(run, inputs), value_and_gradients(restated, inputs))


@pytest.mark.parametrize("size", SIZES)
def test_the_plain_form_equals_the_equation(size):
    inputs = arrays(*size)
    run = partial(relative_attention.relative_attention, implementation="xla")
    assert_close(value_and_gradients(run, inputs), value_and_gradients(restated, inputs))


@pytest.mark.parametrize("size", SIZES)
def test_positions_as_further_channels_equal_the_bias(size):
    inputs = arrays(*size)

    def run(*inputs):
        widened = relative_attention._widened(*inputs)
        return attention.attention(*widened, scale=1.0, implementation="xla").reshape(inputs[0].shape)

    assert_close(value_and_gradients(run, inputs), value_and_gradients(restated, inputs))


def test_the_tpu_kernel_takes_them_from_some_hundred_places_on(monkeypatch):
    monkeypatch.setattr(kernel, "make_splash_mha", partial(kernel.make_splash_mha, interpret=True))
    inputs = arrays(24, 24)
    with placement.compiling_for("tpu"):
        assert "pallas_call" in str(jax.make_jaxpr(relative_attention.relative_attention)(*inputs))
        ours = jax.jit(lambda *inputs: relative_attention.relative_attention(*inputs))(*inputs)
    assert_close(ours, restated(*inputs))


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("size", SIZES)
def test_few_places_on_an_accelerator_have_logits_of_two_long_axes(platform, size):
    inputs = arrays(*size)
    with placement.compiling_for(platform):
        traced = str(jax.make_jaxpr(relative_attention.relative_attention)(*inputs))
        ours = value_and_gradients(relative_attention.relative_attention, inputs)
    (h, w), places = size, size[0] * size[1]
    assert f",{places},{places}]" in traced and f",{h},{w}]" not in traced
    assert_close(ours, value_and_gradients(restated, inputs))


@pytest.mark.parametrize(("implementation", "platform"), [("xla", "cpu"), ("looped", "cpu"), ("auto", "tpu")])
def test_half_precision_stays_within_its_rounding(implementation, platform):
    inputs = arrays(7, 4, jnp.bfloat16)
    exact = restated(*(x.astype(jnp.float32) for x in inputs))
    with placement.compiling_for(platform):
        ours = relative_attention.relative_attention(*inputs, implementation=implementation)
    assert ours.dtype == jnp.bfloat16
    assert np.std(ours.astype(jnp.float32) - exact) < 2**-6 * np.std(exact)


def test_a_choice_that_cannot_work_is_the_users_mistake():
    for implementation, words in (("cudnn", "NVIDIA"), ("flash", "must be one of auto")):
        with pytest.raises(UserError, match=words):
            relative_attention.relative_attention(*arrays(3, 5), implementation=implementation)
