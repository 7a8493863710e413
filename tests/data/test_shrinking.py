"""data.resize: images larger than image_size, in training, evaluation and stage 1."""

import cv2
import numpy as np
import pytest

from sak_jax.data import create_source, transforms
from sak_jax.data.augment import fitting
from sak_jax.data.rooms import layouts
from sak_jax.errors import UserError
from sak_jax.tasks import IGNORE

SIZE = (30, 40)
TASKS = ("semseg", "depth", "normals", "edge")


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 5, (10, 13), dtype=np.uint8)
    semseg = cv2.resize(blocks, (130, 100), interpolation=cv2.INTER_NEAREST)
    edge = np.zeros((100, 130), np.float32)
    edge[50], edge[:, 65] = 1, 1
    normals = rng.normal(size=(100, 130, 3)).astype(np.float32)
    return {
        "id": "x",
        "image": cv2.GaussianBlur(rng.integers(0, 256, (100, 130, 3), dtype=np.uint8), (9, 9), 3),
        "semseg": semseg,
        "depth": rng.uniform(1, 9, (100, 130)).astype(np.float32),
        "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
        "edge": edge,
    }


def train(sample, **options):
    plain = {"flip": False, "photometric": False, "max_class_ratio": 1.0}
    transform = transforms.multitask_transform(SIZE, TASKS, shrink=True, **(plain | options))
    return transform(sample, np.random.default_rng(3))


def test_the_fitted_size_keeps_proportions_and_small_ones_stay():
    assert fitting((100, 130), SIZE) == ((30, 39), 0.3)
    assert fitting((30, 40), SIZE) == ((30, 40), 1.0) and fitting((5, 40), SIZE) == ((5, 40), 1.0)
    assert fitting((1, 4000), SIZE)[0] == (1, 40)


def test_evaluation_averages_areas_and_takes_nearest_labels(sample):
    result = transforms.evaluation_transform(SIZE, TASKS, shrink=True)(sample)
    assert result["size"].tolist() == [30, 39] and result["image"].shape == (30, 40, 3)
    image = cv2.resize(sample["image"], (39, 30), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(result["image"][:, :39], image)
    for task in ("semseg", "depth"):
        expected = cv2.resize(sample[task], (39, 30), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(result[task][:, :39], expected)  # The depth is not divided.
    with pytest.raises(UserError, match="larger than image_size"):
        transforms.evaluation_transform(SIZE, TASKS)(sample)


@pytest.mark.parametrize("evaluate", [True, False])
def test_boundaries_keep_no_gaps(sample, evaluate):
    if evaluate:
        edge = transforms.evaluation_transform(SIZE, TASKS, shrink=True)(sample)["edge"][:, :39]
    else:
        edge = train(sample, scale_range=(1, 1))["edge"][:, :39]
    rows, columns = np.flatnonzero((edge == 1).all(axis=1)), np.flatnonzero((edge == 1).all(axis=0))
    assert 1 <= len(rows) <= 2 and 1 <= len(columns) <= 2
    assert abs(rows.mean() - 50 * 0.3) < 1.5 and abs(columns.mean() - 65 * 0.3) < 1.5


def test_what_is_unknown_of_boundaries_does_not_spread(sample):
    edge = sample["edge"].copy()
    edge[:10] = IGNORE
    found = transforms.evaluation_transform(SIZE, ("edge",), shrink=True)(sample | {"edge": edge})["edge"][:, :39]
    assert (found[3:] != IGNORE).all() and (found[:3] == IGNORE).all()


def test_training_scales_the_fitted_size_in_one_resampling(sample):
    whole = train(sample, scale_range=(1, 1))
    shrunk = cv2.resize(sample["image"], (39, 30), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(whole["image"][:, :39], shrunk)
    large = {key: value for key, value in sample.items()}
    twice = train(large, scale_range=(2, 2))  # 60 x 78, of which a window of 30 x 40 remains
    rng = np.random.default_rng(3)
    top, left = int(rng.integers(0, 31)), int(rng.integers(0, 39))
    image = cv2.resize(sample["image"], (78, 60), interpolation=cv2.INTER_AREA)[top : top + 30, left : left + 40]
    np.testing.assert_array_equal(twice["image"], image)
    # Sharper than what is first shrunk and then enlarged.
    blurred = cv2.resize(cv2.resize(sample["image"], (39, 30), interpolation=cv2.INTER_AREA), (78, 60))
    detail = [
        np.abs(np.diff(each.astype(int), axis=1)).mean() for each in (image, blurred[top : top + 30, left : left + 40])
    ]
    assert detail[0] > 1.1 * detail[1]


def test_depth_is_divided_by_the_random_scale_alone(sample):
    sample = sample | {"depth": np.full((100, 130), 6, np.float32)}
    for scale in (0.5, 1, 2):
        depth = train(sample, scale_range=(scale, scale))["depth"]
        assert set(np.unique(depth)) <= {np.float32(6 / scale), np.float32(IGNORE)}


def test_what_fits_is_as_without(sample):
    small = {key: value[:28, :36] if key != "id" else value for key, value in sample.items()}
    for scale_range in ((0.5, 2.0), (1, 1)):
        first = train(small, scale_range=scale_range)
        transform = transforms.multitask_transform(
            SIZE, TASKS, scale_range=scale_range, flip=False, photometric=False, max_class_ratio=1.0
        )
        second = transform(small, np.random.default_rng(3))
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key])


def test_stage_1_crops_from_the_original(tmp_path):
    layouts.write_nyud(tmp_path / "nyud", 1, 1, size=(96, 128))
    data = {"name": "nyud", "root": str(tmp_path / "nyud"), "resize": True}
    source = create_source(data, "train", (), (24, 32))
    assert source[0]["image"].shape == (96, 128, 3)
    crop = transforms.distill_transform((24, 32), (0.08, 0.08), flip=False)
    first = crop(source[0], np.random.default_rng(0))["image"]
    assert first.shape == (24, 32, 3)


def test_samples_are_not_changed(sample):
    before = {key: value.copy() for key, value in sample.items() if key != "id"}
    train(sample)
    transforms.evaluation_transform(SIZE, TASKS, shrink=True)(sample)
    for key, value in before.items():
        np.testing.assert_array_equal(sample[key], value)
