"""A student on raw pictures: the same numbers as on padded images, at the picture's size, named and decoded."""

import copy
import types

import numpy as np
import pytest
from flax import nnx

import sak_jax
from sak_jax import pictures, recipe
from sak_jax.data.augment import normalise, pad, unpad
from sak_jax.errors import UserError
from sak_jax.methods.sak.student import Outputs
from sak_jax.predict import Predictor
from tests import runs


def made(*overrides):
    config = recipe.load(runs.TINY, overrides)
    return Predictor(sak_jax.build(config), config, "multitask")


@pytest.fixture(scope="module")
def student():
    """A fresh student of the tiny recipe: 24 x 32 pixels, patch 8, three tasks, two teachers."""
    return made()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(24, 32), (21, 27), (33, 40)])
def test_results_are_those_of_the_padded_image(student, size):
    picture = noise(*size)
    found = student.predict(picture)
    window = student.sizes.layout(size).window
    wanted = student(pad(normalise(picture), window, 0)[None])
    assert set(found) == {"semseg", "depth", "edge"}
    for task, result in found.items():
        raw = unpad(np.asarray(wanted.predictions[task][0]), size)
        np.testing.assert_allclose(result.raw, raw, rtol=0, atol=1e-5 * np.abs(raw).max(), err_msg=task)
        np.testing.assert_allclose(found.routing[task], wanted.routing[task][0], atol=1e-5)
    assert found["semseg"].classes.shape == size and found["semseg"].classes.dtype == np.uint8
    np.testing.assert_allclose(found["semseg"].probabilities.sum(-1), 1, atol=1e-5)
    assert found["depth"].metres.shape == size and found["depth"].metres.min() >= 0
    assert 0 <= found["edge"].probability.min() and found["edge"].probability.max() <= 1
    for result in found.values():
        assert result.draw().shape == (*size, 3) and result.draw().dtype == np.uint8


def test_a_list_gives_what_each_picture_gives(student, tmp_path):
    from PIL import Image

    given = [noise(24, 32, 1), noise(21, 27, 2), noise(30, 30, 3), noise(20, 20, 4)]
    Image.fromarray(given[1]).save(tmp_path / "one.png")
    found = student.predict([given[0], tmp_path / "one.png", *given[2:]], batch=2)
    for picture, together in zip(given, found, strict=True):
        alone = student.predict(picture)
        for task in alone:
            assert together[task].raw.shape[:2] == picture.shape[:2]
            np.testing.assert_allclose(together[task].raw, alone[task].raw, rtol=1e-4, atol=1e-5)
    assert student.predict([]) == []


def test_pictures_of_many_sizes_share_few_programs():
    student = made()
    student.predict([noise(height, width) for height in (17, 20, 24) for width in (25, 28, 32)], batch=3)
    assert student._without_aligned._cache_size() == 1


def test_a_picture_is_resized_and_results_are_scaled_back(student):
    picture = noise(50, 60)
    found = student.predict(picture, resize=(24, 32))
    assert found.layout.size == (24, 29)
    small = student.predict(pictures.scaled(picture, (24, 32)))
    assert found["depth"].metres.shape == (50, 60)
    np.testing.assert_allclose(found["depth"].raw, pictures.at_size(small["depth"].raw, (50, 60)), atol=1e-5)


def test_tiles_are_computed_one_by_one_and_blended(student):
    picture = noise(24, 80)
    found = student.predict(picture, tile=(24, 32))
    assert found.layout.lefts == (0, 24, 48) and found.layout.window == (24, 32)
    alone = student.predict(picture[:, :32])
    np.testing.assert_allclose(found["depth"].raw[:, :24], alone["depth"].raw[:, :24], rtol=1e-4, atol=1e-5)
    tiles = [student.predict(picture[:, left : left + 32]) for left in (0, 24, 48)]
    for task in found:
        np.testing.assert_allclose(found.routing[task], np.mean([tile.routing[task] for tile in tiles], 0), atol=1e-5)


def test_aligned_features_are_given_when_asked_for(student):
    picture = noise(21, 27)
    assert student.predict(picture).aligned == {}
    found = student.predict(picture, aligned=True)
    wanted = student(pad(normalise(picture), (24, 32), 0)[None]).aligned
    assert set(found.aligned) == {"scene", "geometry"}
    for name, levels in found.aligned.items():
        assert len(levels) == 4
        for ours, theirs in zip(levels, wanted[name], strict=True):
            np.testing.assert_allclose(ours, theirs[0], atol=1e-5)
    with pytest.raises(UserError, match="one pass"):
        student.predict(noise(24, 80), tile=32, aligned=True)


def test_aligned_features_cost_nothing_otherwise(student):
    images = np.zeros((1, 24, 32, 3), np.float32)
    flops = [
        forward.lower(student.student, images).compile().cost_analysis()["flops"]
        for forward in (student._without_aligned, student._forward)
    ]
    assert flops[0] < flops[1]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"resize": 24}, "resize is 24"),
        ({"resize": (0, 3)}, "resize"),
        ({"tile": (8, 8, 8)}, "tile"),
        ({"tile": 0}, "tile"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_a_wrong_argument_is_named(student, options, word):
    with pytest.raises(UserError, match=word):
        student.predict(noise(8, 8), **options)


def test_a_student_of_a_distillation_says_that_it_has_no_tasks():
    config = recipe.load(runs.TINY, ["--config.multitask.steps=0"])
    student = Predictor(sak_jax.build(config), config, "distill")
    with pytest.raises(UserError, match="no tasks"):
        student.predict(noise(8, 8))
    found = student.predict(noise(8, 8), aligned=True)
    assert not found and set(found.aligned) == {"scene", "geometry"}


def test_results_can_be_copied_and_name_what_they_have(student):
    result = student.predict(noise(8, 8))["depth"]
    assert np.array_equal(copy.deepcopy(result).metres, result.metres)
    with pytest.raises(AttributeError, match="depth has no 'meters'; it has metres"):
        result.meters  # noqa: B018


class OneSize(nnx.Module):
    """As a foundation model: no `config`, and its encoder is made for one size."""

    def __call__(self, images):
        assert images.shape[1:] == (24, 32, 3)
        return Outputs(predictions={"depth": images[..., :1]}, aligned={}, routing={})


def test_a_model_that_is_made_for_one_size_is_shown_that_size_alone():
    config = recipe.load(runs.TINY)
    config.tasks = {"depth": {}}
    picture = noise(30, 20)
    found = Predictor(OneSize(), config, "multitask").predict(picture)
    assert found.layout.window == (24, 32) and len(found.layout.places) == 2
    np.testing.assert_allclose(found["depth"].raw, normalise(picture)[..., :1], atol=1e-5)


class FeaturesAlone(nnx.Module):
    """As DUNE's student: a dict of features, and a patch."""

    patch = 8

    def __init__(self):
        self.config = types.SimpleNamespace()

    def __call__(self, images):
        return {"teacher": images}


def test_a_model_that_gives_features_alone_is_called_but_predicts_nothing():
    student = Predictor(FeaturesAlone(), recipe.load(runs.TINY), "distill")
    assert student(np.zeros((1, 16, 8, 3), np.float32))["teacher"].shape == (1, 16, 8, 3)
    assert student.sizes.patch == 8 and student.tasks == ()
    for aligned in (False, True):
        with pytest.raises(UserError, match="no tasks"):
            student.predict(noise(8, 8), aligned=aligned)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 24, 36, 3), np.float32), "images are 24 x 36, .*multiples of the patch 8: pad or crop"),
        (np.zeros((1, 23, 32, 3), np.float32), "images are 23 x 32"),
        (np.zeros((1, 0, 32, 3), np.float32), "images are 0 x 32"),
        (np.zeros((1, 24, 32, 3), np.uint8), "not uint8: give raw pictures to student.predict"),
        (np.zeros((1, 24, 32, 3), np.int32), "not int32"),
        (np.zeros((24, 32, 3), np.float32), r"\[b, H, W, 3\], not ndarray of the shape \(24, 32, 3\)"),
        (np.zeros((1, 3, 24, 32), np.float32), r"of the shape \(1, 3, 24, 32\)"),
        ([[0.0]], "not list of the shape None"),
    ],
)
def test_images_that_a_student_cannot_take_are_refused(student, images, words):
    with pytest.raises(UserError, match=words):
        student(images)


def test_images_of_another_size_and_of_half_precision_are_taken(student):
    images = np.random.default_rng(0).standard_normal((1, 16, 40, 3)).astype(np.float16)
    found = student(images).predictions["depth"]
    assert found.shape == (1, 16, 40, 1)
    np.testing.assert_array_equal(found, student(images.astype(np.float32)).predictions["depth"])
