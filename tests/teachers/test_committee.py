import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sak_jax.teachers import registry
from sak_jax.teachers.committee import Committee
from sak_jax.teachers.views import View


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (2, 72, 96, 3))


def test_each_teacher_gives_what_it_gives_alone(images):
    loaded = {name: registry.load(f"rooms_{name}", (72, 96)) for name in ("scene", "geometry")}
    committee = Committee(
        {n: module for n, (module, _) in loaded.items()}, {n: view for n, (_, view) in loaded.items()}
    )
    maps = jax.jit(lambda committee, images: committee(images))(committee, images)
    assert maps.keys() == {"scene", "geometry"}
    for name, (module, view) in loaded.items():
        alone = jax.jit(lambda module, x, view=view: module(view(x)))(module, images)
        assert len(maps[name]) == len(alone) == 4
        for found, wanted in zip(maps[name], alone, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


class Echo(nnx.Module):
    """Gives the image it sees, at a quarter of its size."""

    def __call__(self, images):
        return (images[:, ::4, ::4],) * 4


def test_views_apply_to_what_goes_in_and_what_comes_out(images):
    views = {"whole": View(pad_to=128), "cropped": View(pad_to=128, crop=True), "other": View(mean=(0.5,) * 3)}
    maps = Committee({name: Echo() for name in views}, views)(images)
    assert [maps[name][0].shape for name in views] == [(2, 32, 32, 3), (2, 24, 32, 3), (2, 18, 24, 3)]
    np.testing.assert_array_equal(maps["cropped"][0], maps["whole"][0][:, :24])
    assert not jnp.any(maps["whole"][0][:, 24:])
    shift = (np.array((0.485, 0.456, 0.406)) - 0.5) / np.array((0.229, 0.224, 0.225))
    np.testing.assert_allclose(maps["other"][0], images[:, ::4, ::4] + shift, atol=1e-5)
