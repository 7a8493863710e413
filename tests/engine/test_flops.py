import jax
import jax.numpy as jnp
import pytest

from sak_jax.engine import flops
from sak_jax.nn import placement
from sak_jax.nn.attention import attention


def test_products_loops_and_convolutions():
    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
    assert flops.count(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
    assert flops.count(jax.jit(lambda a, b: jnp.sin(a @ b) + 1), a, b) == 2 * 3 * 4 * 5
    batched = jax.ShapeDtypeStruct((7, 3, 4), jnp.float32)
    assert flops.count(jax.vmap(lambda a: a @ jnp.zeros((4, 5))), batched) == 7 * 2 * 3 * 4 * 5
    square = jnp.zeros((4, 4))
    looped = lambda x: jax.lax.scan(lambda x, _: (x @ square, None), x, length=6)[0]  # noqa: E731
    assert flops.count(looped, square) == 6 * 2 * 4**3
    branched = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x)  # noqa: E731
    assert flops.count(branched, square) == 2 * 4**3
    image, kernel = jnp.zeros((1, 8, 9, 2)), jnp.zeros((3, 3, 2, 5))
    convolve = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert flops.count(convolve, image, kernel) == 2 * 8 * 9 * 5 * 3 * 3 * 2


def test_what_no_result_depends_on_does_not_count():
    a = jnp.zeros((4, 4))
    assert flops.count(jax.jit(lambda a: (a @ a, jnp.sin(a))[1]), a) == 0
    looped = lambda x: jax.lax.scan(lambda x, _: (x + 1, x @ x), x, length=6)[0]  # noqa: E731
    assert flops.count(looped, a) == 0


def test_attention_counts_its_products_and_a_kernel_is_refused():
    query = jnp.zeros((2, 600, 3, 8))
    forward = 2 * 2 * 3 * 600 * 600 * 2 * 8
    gradient = jax.value_and_grad(lambda *x: jnp.sum(attention(*x, implementation="xla")), argnums=(0, 1, 2))
    for implementation in ("xla", "looped"):
        assert flops.count(lambda *x, i=implementation: attention(*x, implementation=i), query, query, query) == forward
    assert flops.count(gradient, query, query, query) == 3 * forward
    with placement.compiling_for("tpu"), pytest.raises(ValueError, match="pallas_call cannot be counted"):
        flops.count(lambda *x: attention(*x, implementation="pallas"), query, query, query)
