"""An imported published checkpoint predicts of photographs what the published code does: `predict_published.npz`."""

import json
import shutil

import numpy as np
import pytest

import sak_jax
from sak_jax import recipe
from sak_jax.methods.sak.published import import_student
from tests import runs
from tests.methods.sak.cases import save
from tests.reference.formula_weights import formula_state
from tests.reference.predict_published import FILE, PHOTOGRAPHS, STRIDE, TASKS, padded


@pytest.fixture(scope="module")
def reference():
    with np.load(FILE) as file:
        return dict(file)


@pytest.fixture(scope="module")
def predictions(reference, tmp_path_factory):
    """Of each photograph, by the recipe of NYUD-v2: ViT-B, trained with 448 x 576 pixels."""
    folder = tmp_path_factory.mktemp("published")
    file = save(folder / "sak.pth", formula_state(json.loads(str(reference["shapes"]))))
    import_student(recipe.load(str(runs.ROOT / "configs/nyud.py"), []), file, folder / "run")
    student = sak_jax.load(folder / "run")
    shutil.rmtree(folder)  # Half a gigabyte a copy.
    return dict(zip(PHOTOGRAPHS, student.predict([picture for picture, _ in PHOTOGRAPHS.values()]), strict=True))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs(name, predictions, reference):
    found, (picture, size) = predictions[name], PHOTOGRAPHS[name]
    assert found.layout.window == size and found.layout.inside == padded(picture, size)[1]
    assert set(found) == set(TASKS)
    for task, result in found.items():
        expected, (mean, deviation) = reference[f"{name}/{task}"], reference[f"{name}/{task}/moments"]
        assert result.raw.shape[:2] == picture.shape[:2]
        assert np.abs(result.raw[::STRIDE, ::STRIDE] - expected).max() < 1e-4 * expected.std(), task
        np.testing.assert_allclose([result.raw.mean(dtype=float), result.raw.std(dtype=float)], [mean, deviation],
                                   rtol=0, atol=1e-5 * deviation)  # fmt: skip
    np.testing.assert_array_equal(found["semseg"].classes, found["semseg"].raw.argmax(-1))
    np.testing.assert_allclose(np.linalg.norm(found["normals"].normals, axis=-1), 1, atol=1e-5)
