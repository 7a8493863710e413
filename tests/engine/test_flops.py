import jax
import jax.numpy as jnp

from sak_jax.engine import flops


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
