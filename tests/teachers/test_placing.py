"""A teacher's weights from the file to where they are to lie."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.teachers import registry
from sak_jax.weights import files, states
from tests import gcs

NAME = "dinov2_tiny"
SIZE = (56, 84)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A folder with the converted weights of a registered teacher of 4 blocks of 32 channels."""
    base = registry.get("dinov2_base")
    config = dataclasses.replace(base.config, width=32, depth=4, heads=2, taps=(0, 1, 2, 3), image_size=(70, 70))
    teacher = dataclasses.replace(base, name=NAME, config=config)
    folder = tmp_path_factory.mktemp("teachers")
    model = teacher.family.create(config, np.float32, nnx.Rngs(0))
    files.write_safetensors(folder / f"{NAME}.safetensors", states.export(model, states.own(model)), {"teacher": NAME})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.TEACHERS, NAME, teacher)
        yield folder


def abstract(**options):
    teacher = registry.get(NAME)
    return nnx.state(registry.abstract(teacher, teacher.for_size(SIZE), **options))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("random", [False, True])
def test_a_state_is_of_numpy_and_of_the_shapes_that_were_planned(directory, dtype, random):
    state = registry.state(NAME, SIZE, dtype=dtype, directory=directory, random=random)
    planned = abstract(dtype=dtype)
    assert jax.tree.structure(state) == jax.tree.structure(planned)
    for array, shape in zip(jax.tree.leaves(state), jax.tree.leaves(planned), strict=True):
        assert type(array) is np.ndarray and array.dtype == dtype
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)


def test_no_array_of_the_model_lies_on_a_device_before_it_is_placed(directory):
    before = {id(x) for x in jax.live_arrays()}
    state = registry.state(NAME, SIZE, dtype=jnp.bfloat16, directory=directory)
    assert not [x for x in jax.live_arrays() if id(x) not in before and x.nbytes >= 32 * 32]
    assert sum(x.size for x in jax.tree.leaves(state)) > 4 * 12 * 32 * 32


def test_each_array_is_placed_once_straight_from_numpy(directory):
    placed = {}

    def place(path, array):
        assert type(array) is np.ndarray and array.dtype == ml_dtypes.bfloat16 and path not in placed
        placed[path] = jax.device_put(array, jax.devices()[-1])
        return placed[path]

    module, view = registry.load(NAME, SIZE, dtype=jnp.bfloat16, directory=directory, place=place)
    flat = states.flat(module)
    assert placed.keys() == flat.keys() and all(flat[path] is array for path, array in placed.items())
    maps = jax.jit(lambda module, x: module(view(x)))(module, jnp.zeros((1, *SIZE, 3)))
    assert [m.shape for m in maps] == [(1, 4, 6, 32)] * 4


def test_bfloat16_is_float32_rounded(directory):
    wide = states.flat(registry.state(NAME, SIZE, directory=directory))
    narrow = states.flat(registry.state(NAME, SIZE, dtype=jnp.bfloat16, directory=directory))
    for path, array in wide.items():
        np.testing.assert_array_equal(narrow[path], np.asarray(jnp.asarray(array, jnp.bfloat16)))


def test_random_weights_are_those_they_were(directory):
    teacher = registry.get(NAME)
    config = teacher.for_size(SIZE)
    wanted = jax.jit(lambda: nnx.state(teacher.family.create(config, jnp.float32, nnx.Rngs(3))))()
    found = registry.state(NAME, SIZE, random=True, seed=3)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_directory_can_be_a_bucket(directory, monkeypatch):
    for name, value in gcs.environment(gcs.serve()).items():
        monkeypatch.setenv(name, value)
    bucket = f"gs://{gcs.BUCKET}/teachers"
    with pytest.raises(UserError, match=f"missing: {bucket}/{NAME}.safetensors is wanted"):
        registry.state(NAME, SIZE, directory=bucket)
    path = registry.weights_path(NAME, bucket)
    files.write_safetensors(path, files.read_weights(directory / path.name), {"teacher": NAME})
    found = registry.state(NAME, SIZE, directory=bucket)
    wanted = registry.state(NAME, SIZE, directory=directory)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_image_size_in_a_converted_file_is_checked(directory, tmp_path):
    weights = files.read_weights(directory / f"{NAME}.safetensors")
    wrong = {"70": "is '70'", "-70,70": "is '-70,70'", "99999999,70": "is '99999999,70'"}
    for text, words in ({"42,42": "position_embedding has shape"} | wrong).items():
        metadata = {"teacher": NAME, "image_size": text}
        files.write_safetensors(tmp_path / f"{NAME}.safetensors", weights, metadata)
        with pytest.raises(UserError, match=words):
            registry.state(NAME, SIZE, directory=tmp_path)


def test_without_a_home_teachers_are_looked_for_in_a_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SAK_JAX_TEACHERS", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    registry.paths._temporary_directory.cache_clear()
    try:
        assert str(registry.weights_path("dinov2_base")).startswith(f"{tmp_path}/sak_jax-")
    finally:
        registry.paths._temporary_directory.cache_clear()
