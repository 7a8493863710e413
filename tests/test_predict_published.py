"""An imported published checkpoint on photographs of odd sizes gives what it gives for the same padded image."""

import numpy as np
import pytest
import skimage.data

import sak_jax
from sak_jax.methods.sak.published import import_student
from sak_jax.predict import Result
from tests.methods.sak.cases import SHAPES, save
from tests.recipes import published
from tests.reference.formula_weights import formula_state

CASE = "student_small_aligned_nyud"  # Trained, as far as the file goes, with 64 x 96 pixels.


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    file = save(folder / "sak.pth", formula_state(SHAPES[CASE]))
    import_student(published.get_config(f"case={CASE}"), file, folder / "run")
    return sak_jax.from_pretrained(folder / "run")


@pytest.mark.parametrize(
    ("photograph", "padded"),
    [
        (skimage.data.chelsea()[20:95, 100:201], (128, 128)),  # 75 x 101
        (skimage.data.coffee()[::7, ::13], (64, 64)),  # 58 x 47
        (skimage.data.camera()[::9, ::6], (64, 96)),  # 57 x 86, grey
    ],
)
def test_photographs(student, photograph, padded):
    found = student.predict(photograph)
    height, width = photograph.shape[:2]
    colours = photograph if photograph.ndim == 3 else np.stack([photograph] * 3, -1)
    image = np.zeros((1, *padded, 3), np.float32)
    top, left = (padded[0] - height) // 2, (padded[1] - width) // 2
    rows, columns = slice(top, top + height), slice(left, left + width)
    image[0, rows, columns] = (colours / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    wanted = student(image)
    assert set(found) == {"semseg", "normals", "edge", "depth"}
    for task, result in found.items():
        assert isinstance(result, Result) and result.raw.shape[:2] == (height, width)
        raw = np.asarray(wanted.predictions[task][0, rows, columns])
        assert np.abs(result.raw - raw).max() < 1e-4 * raw.std(), task
    np.testing.assert_array_equal(found["semseg"].classes, found["semseg"].raw.argmax(-1))
    lengths = np.linalg.norm(found["normals"].normals, axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)
