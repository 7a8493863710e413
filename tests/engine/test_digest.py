"""Any change of a checkpoint's arrays is noticed, and where they lie changes nothing."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from sak_jax.engine import digest


@pytest.fixture
def tree():
    rng = np.random.default_rng(0)
    return {
        "a": {0: rng.standard_normal((3, 4, 5), np.float32), 10: np.zeros((), np.int32)},
        "b": rng.standard_normal((2, 8)).astype(ml_dtypes.bfloat16),
        "c": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }


def test_arrays_of_jax_and_numpy_and_keys_as_text_are_the_same(tree):
    number = digest.of_arrays(tree)
    assert 0 < number < 2**32
    assert digest.of_arrays(jax.tree.map(jnp.asarray, tree)) == number
    assert digest.of_arrays(tree | {"a": {str(key): value for key, value in tree["a"].items()}}) == number


def test_every_bit_counts(tree):
    number = digest.of_arrays(tree)
    values = tree["a"][0]
    for index in np.ndindex(values.shape):
        for bit in (0, 13, 31):
            values.view(np.uint32)[index] ^= np.uint32(1 << bit)
            assert digest.of_arrays(tree) != number
            values.view(np.uint32)[index] ^= np.uint32(1 << bit)
    tree["b"].view(np.uint16)[1, 3] ^= np.uint16(1)
    assert digest.of_arrays(tree) != number


def test_order_and_place_count(tree):
    number = digest.of_arrays(tree)
    assert digest.of_arrays(tree | {"b": tree["b"][::-1]}) != number
    assert digest.of_arrays({("d" if key == "b" else key): value for key, value in tree.items()}) != number


def test_plain_data():
    assert digest.of_plain({"a": 1, "b": [2]}) == digest.of_plain({"b": [2], "a": 1}) != digest.of_plain({"a": 1})
