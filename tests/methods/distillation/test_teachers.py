"""In which precision the frozen teachers are held."""

import jax
import jax.numpy as jnp
import pytest

from sak_jax import recipe
from sak_jax.methods.distillation.teachers import teachers_dtype
from sak_jax.methods.sak import build
from tests import runs


@pytest.mark.parametrize(
    ("backend", "given", "dtype"),
    [
        ("cpu", "", "float32"),
        ("gpu", "", "bfloat16"),
        ("tpu", "", "bfloat16"),
        ("tpu", "float32", "float32"),
        ("cpu", "bfloat16", "bfloat16"),
    ],
)
def test_teachers_are_bfloat16_on_accelerators_unless_the_recipe_says_otherwise(backend, given, dtype, monkeypatch):
    config = recipe.load(runs.TINY)
    config.teachers.dtype = given
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert teachers_dtype(config) == dtype
    frozen = build.committee(config)
    assert {x.dtype for x in jax.tree.leaves(frozen.abstract)} == {jnp.dtype(dtype)}
    assert config.dtype == "float32"  # The student's is another key.
