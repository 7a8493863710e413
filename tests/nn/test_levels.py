"""Images normalised on the device are those that the host would have normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax.data.augment import normalise, pad
from sak_jax.nn import levels

SIZE = (12, 16)


@pytest.mark.parametrize("inside", [SIZE, (7, 16), (12, 9), (5, 3)])
def test_levels_become_what_the_host_makes_of_them(inside):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, *inside, 3), np.uint8)
    batch = {"image": np.stack([pad(image, SIZE, 0) for image in images]), "size": np.tile(np.int32(inside), (2, 1))}
    found = np.asarray(jax.jit(levels.normalised)(batch))
    expected = np.stack([pad(normalise(image), SIZE, 0) for image in images])
    # A device may round level * factor + offset once, the host rounds twice: half a unit of the product's last place,
    # which is below 8.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-22)
    np.testing.assert_array_equal(found == 0, expected == 0)


def test_all_of_an_image_counts_without_a_size_and_floats_are_normalised_already():
    image = np.full((1, *SIZE, 3), 255, np.uint8)
    np.testing.assert_allclose(levels.normalised({"image": jnp.asarray(image)})[0], normalise(image[0]), atol=2**-22)
    given = jnp.ones((1, *SIZE, 3))
    assert levels.normalised({"image": given, "size": jnp.array([[1, 1]])}) is given
