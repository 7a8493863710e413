"""Results as pictures for people: legends and sizes."""

import numpy as np
import pytest

from sak_jax import drawing, pictures, recipe, tasks
from sak_jax.predict import Prediction, Result
from tests import runs


def segmentation(shown):
    """A prediction of 20 x 30 pixels in which these classes are seen."""
    config = recipe.load(runs.TINY)
    config.tasks = {"semseg": {"channels": 14, "names": tuple(f"thing {index}" for index in range(14))}}
    (task,) = tasks.select(recipe.ordered(config.tasks))
    raw = np.eye(14, dtype=np.float32)[np.resize(shown, (20, 30))]
    return Prediction({"semseg": Result(task, raw)}, {}, {}, pictures.Layout((20, 30), (20, 30)))


def test_frames_have_one_size_whatever_classes_they_show():
    picture, few, many = np.zeros((20, 30, 3), np.uint8), segmentation([3]), segmentation(range(14))
    sizes = [drawing.draw_all(picture, one, {"semseg": 1.0})[1].shape for one in (few, many)]
    assert sizes[0] == sizes[1]
    alone = [drawing.draw_all(picture, one)[1].shape for one in (few, many)]
    assert alone[0][0] < alone[1][0] == sizes[1][0]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((20, 30), (160, 240)), ((20, 240), (20, 240)), ((1500, 1), (3000, 240)), ((9000, 100), (9000, 240))],
)
def test_narrow_pictures_are_enlarged_within_bounds(size, wanted):
    picture = np.random.default_rng(0).integers(0, 200, (*size, 3), np.uint8)
    found = drawing.enlarged(picture)
    assert found.shape[:2] == wanted
    factor = wanted[0] // size[0]
    np.testing.assert_array_equal(found[:: factor or 1, : size[1] * factor : factor], picture)
    assert (found[:, size[1] * factor :] == 255).all()
