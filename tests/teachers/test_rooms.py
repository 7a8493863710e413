import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.sak.student import STEMS
from sak_jax.nn.vit import ViT
from sak_jax.teachers import registry, rooms
from sak_jax.weights import files

NAMES = list(rooms.CONFIGS)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, *rooms.IMAGE_SIZE, 3)), jnp.float32)


run = jax.jit(lambda vit, images: vit(images))


@pytest.mark.parametrize("name", NAMES)
def test_gives_trained_maps_of_its_grid_and_width_at_each_tap(name, images):
    config = rooms.CONFIGS[name]
    vit = rooms.load(name)
    maps = run(vit, images)
    assert [x.shape for x in maps] == [(2, *config.grid, config.width)] * 4
    # Distillation compares whole maps: values are of the order of one.
    assert all(0.2 < float(x.std()) < 5 for x in maps)
    for x, again in zip(maps, run(rooms.load(name), images), strict=True):
        np.testing.assert_array_equal(x, again)
    fresh = jax.jit(lambda: ViT(config, rngs=nnx.Rngs(0)))()
    assert not np.allclose(maps[-1], run(fresh, images)[-1], atol=0.1)
    for path, leaf in nnx.to_flat_state(nnx.state(vit)):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf[...]).all(), path


@pytest.mark.parametrize("name", NAMES)
def test_says_how_it_was_made_and_is_small(name):
    facts = {key: json.loads(value) for key, value in files.read_metadata(rooms.weights_path(name)).items()}
    assert facts["seed"] == 0
    assert f"train_rooms_committee.py {name}" in facts["command"]
    assert facts["scores"] and facts["steps"] > 0
    assert rooms.weights_path(name).stat().length < 2.1e6


def test_members_differ():
    widths, patches = zip(
        *((rooms.CONFIGS[name].width, rooms.CONFIGS[name].patch) for name in rooms.BIASES), strict=True
    )
    assert len(set(widths)) == len(set(patches)) == 3


def test_stem_fits_the_student():
    assert {name: getattr(rooms.STEM, name) for name in STEMS["tiny"]} == STEMS["tiny"]
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(rooms.load("stem_tiny")))}
    assert {path: value.shape for path, value in rooms.stem_state().items()} == shapes


def test_written_weights_are_read_back(tmp_path):
    vit = rooms.load("geometry")
    rooms.write(tmp_path / "x.safetensors", vit, {"seed": 3})
    np.testing.assert_equal(
        files.read_weights(tmp_path / "x.safetensors"), files.read_weights(rooms.weights_path("geometry"))
    )
    assert files.read_metadata(tmp_path / "x.safetensors") == {"seed": "3"}


def test_what_float16_cannot_hold_is_not_written(tmp_path):
    vit = rooms.load("geometry")
    vit.position_embedding[...] = vit.position_embedding[...].at[0, 0, 0].set(1e9)
    with pytest.raises(ValueError, match="position_embedding"):
        rooms.write(tmp_path / "x.safetensors", vit, {})
    assert not list(tmp_path.iterdir())


def test_registered():
    module, _ = registry.load("rooms_scene", rooms.IMAGE_SIZE)
    ours = rooms.load("scene")
    np.testing.assert_array_equal(module.position_embedding[...], ours.position_embedding[...])


def test_unknown_name():
    with pytest.raises(UserError, match="scene, regions, geometry"):
        rooms.load("sam")
