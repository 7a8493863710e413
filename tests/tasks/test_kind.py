"""What holds for every kind, and what is particular to each: labels, storage, pictures, plain values."""

import dataclasses
import hashlib

import cv2
import numpy as np
import pytest

from sak_jax.data import labels, transforms
from sak_jax.data.sets import folder
from sak_jax.errors import UserError
from sak_jax.tasks import IGNORE, KINDS, TASKS, kind_of

SIZE = (24, 32)
EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def random_prediction(task, seed=0):
    return np.random.default_rng(seed).normal(size=(*SIZE, task.channels)).astype(np.float32)


@EVERY
def test_a_random_label_is_a_label(task):
    kind = kind_of(task)
    label = kind.random_label(task, SIZE, np.random.default_rng(0))
    kind.check(task, label, "sample 'a'")
    assert label.dtype == kind.dtypes[0] and label.shape == (*SIZE, *kind.vector)
    kept = kind.ignore(task, label.copy())
    np.testing.assert_array_equal(kept, label)  # Nothing in it is to be ignored.
    again = kind.random_label(task, SIZE, np.random.default_rng(0))
    np.testing.assert_array_equal(again, label)


@EVERY
def test_labels_of_another_type_shape_or_range_are_refused(task):
    kind = kind_of(task)
    label = kind.random_label(task, SIZE, np.random.default_rng(0))
    with pytest.raises(UserError, match=f"labels of task '{task.name}' are int64.*data.encodings.{task.name} to "):
        kind.check(task, label.astype(np.int64), "sample 'a'")
    with pytest.raises(UserError, match=f"sample 'a' has labels of the shape .* for task '{task.name}'"):
        kind.check(task, label[0], "sample 'a'")
    wrong = label.copy()
    wrong[0, 0] = 254 if label.dtype == np.uint8 else np.nan
    with pytest.raises(UserError, match=f"sample 'a' has .*task '{task.name}'"):
        kind.check(task, wrong, "sample 'a'")


@pytest.mark.parametrize(
    ("name", "value"), [("depth", -1), ("depth", np.inf), ("edge", 1.5), ("edge", -0.1), ("normals", np.inf)]
)
def test_values_that_no_such_label_has_are_refused(name, value):
    task, kind = TASKS[name], kind_of(name)
    label = kind.random_label(task, SIZE, np.random.default_rng(0))
    label[3, 4] = value
    with pytest.raises(UserError, match=f"'a'.*'{name}'"):
        kind.check(task, label, "sample 'a'")


def test_void_boundaries_and_bytes_are_labels_but_grey_levels_are_not():
    task, kind = TASKS["edge"], kind_of("edge")
    kind.check(task, np.array([[0, 0.5, 1, 255]], np.float32), "sample 'a'")
    kind.check(task, np.array([[0, 1, 255]], np.uint8), "sample 'a'")
    with pytest.raises(UserError, match="label 128.*data.encodings.edge to fraction"):
        kind.check(task, np.array([[0, 128, 255]], np.uint8), "sample 'a'")


@EVERY
def test_a_stored_label_is_given_back(task):
    kind = kind_of(task)
    label = kind.random_label(task, SIZE, np.random.default_rng(0))
    if task.name == "normals":
        label = np.rint((label + 1) * 127.5).astype(np.uint8) / np.float32(127.5) - np.float32(1)
        label = kind.from_stored(kind.to_stored(label))  # On the steps that are stored.
        label[4:9] = 0
    stored = kind.to_stored(label)
    if kind.stored_channels:
        assert stored.dtype == np.uint8
        assert stored.shape == (SIZE if kind.stored_channels == 1 else (*SIZE, kind.stored_channels))
        stored = cv2.imdecode(cv2.imencode(".png", stored)[1], cv2.IMREAD_UNCHANGED)
    back = kind.from_stored(stored)
    np.testing.assert_array_equal(back, label)
    assert back.dtype == label.dtype


@EVERY
def test_the_default_encoding_is_one_that_folders_know(task):
    kind = kind_of(task)
    assert kind.encodings[0] == folder.ENCODINGS.get(task.name, "index")
    assert set(kind.encodings) <= set(labels.ENCODINGS)


@EVERY
def test_pictures_are_alike_for_alike_values_and_grey_where_ignored(task):
    kind = kind_of(task)
    label = kind.random_label(task, SIZE, np.random.default_rng(0))
    label[:2] = IGNORE
    picture = kind.draw_label(task, label)
    assert picture.shape == (*SIZE, 3) and picture.dtype == np.uint8
    assert (picture[:2] == 128).all() and len(np.unique(picture[2:].reshape(-1, 3), axis=0)) > 1
    if task.name in ("semseg", "human_parts", "sal"):
        prediction = 200.0 * (label[..., None] == np.arange(task.channels))
    elif task.name == "edge":
        prediction = np.where(label > 0.5, 200.0, -200.0)[..., None]
    else:
        prediction = label if label.ndim == 3 else label[..., None]
    drawn = kind.draw_prediction(task, prediction.astype(np.float32), label)
    assert drawn.dtype == np.uint8
    assert np.abs(drawn[2:].astype(int) - picture[2:]).max() <= 1  # Normals are scaled to length 1 once more.
    alone = kind.draw_prediction(task, random_prediction(task))
    assert alone.shape == (*SIZE, 3) and alone.dtype == np.uint8


def test_classes_are_drawn_in_the_tasks_colours():
    task = dataclasses.replace(
        TASKS["semseg"], channels=2, options={"palette": [[1, 2, 3], [4, 5, 6]], "names": ["a", "b"]}
    )
    picture = kind_of(task).draw_label(task, np.array([[0, 1, 255]], np.uint8))
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 6], [128, 128, 128]]]
    assert task.option("names") == ("a", "b")


def test_predictions_in_plain_values():
    shape = (2, *SIZE)
    rng = np.random.default_rng(0)
    decoded = {}
    for task in TASKS.values():
        prediction = rng.normal(size=(*shape, task.channels)).astype(np.float32)
        decoded[task.name] = prediction, kind_of(task).decode(task, prediction)
    raw, found = decoded["semseg"]
    np.testing.assert_array_equal(found["classes"], raw.argmax(-1))
    assert found["classes"].dtype == np.uint8
    expected = np.exp(raw.astype(np.float64))
    np.testing.assert_allclose(found["probabilities"], expected / expected.sum(-1, keepdims=True), rtol=1e-5)
    raw, found = decoded["sal"]
    expected = np.exp(raw.astype(np.float64))
    np.testing.assert_allclose(found["probability"], expected[..., 1] / expected.sum(-1), rtol=1e-5)
    raw, found = decoded["normals"]
    np.testing.assert_allclose(found["normals"], raw / np.linalg.norm(raw, axis=-1, keepdims=True), rtol=1e-5)
    raw, found = decoded["edge"]
    np.testing.assert_allclose(found["probability"], 1 / (1 + np.exp(-raw[..., 0].astype(np.float64))), rtol=1e-5)
    raw, found = decoded["depth"]
    np.testing.assert_array_equal(found["metres"], np.maximum(raw[..., 0], 0))
    assert all(value.shape[:3] == shape for _, values in decoded.values() for value in values.values())
    assert all(value.dtype in (np.float32, np.uint8) for _, values in decoded.values() for value in values.values())


def test_every_kind_is_in_use():
    assert set(KINDS) == {task.kind for task in TASKS.values()}


def labelled(seed):
    """A sample with void, unmeasured and partless regions; every label's values are exact in any arithmetic."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(31, 90, 2))
    semseg = rng.integers(0, 5, (6, 8), dtype=np.uint8).repeat(15, 0).repeat(12, 1)[:height, :width].copy()
    semseg[:3] = 255
    parts = np.zeros((height, width), np.uint8)
    parts[10:15] = 3 * (seed % 2)
    parts[:, :4] = 255
    normals = rng.integers(-8, 9, (height, width, 3)).astype(np.float32) / 8
    normals[20:30, 20:30] = 0
    depth = rng.integers(1, 80, (height, width)).astype(np.float32) / 8
    depth[5:9, 5:20] = 0
    edge = rng.integers(0, 2, (height, width)).astype(np.float32)
    edge[0], edge[1] = 255, 0.5
    return {
        "image": np.zeros((height, width, 3), np.uint8),
        "semseg": semseg,
        "human_parts": parts,
        "sal": rng.integers(0, 2, (height, width), dtype=np.uint8),
        "normals": normals,
        "edge": edge,
        "depth": depth,
    }


DIGESTS = {
    "semseg": "e01b700e608624a7",
    "human_parts": "792178a777adab9c",
    "sal": "6fa1bb1339376d74",
    "normals": "838d6c83e56c9483",
    "edge": "30ae515765d2ce17",
    "depth": "bda578886adbf97f",
}
"""Of what came out before kinds existed: nearest resampling and exact values, hence the same everywhere."""


@pytest.mark.parametrize("name", TASKS)
def test_transforms_do_to_labels_what_they_always_did(name):
    train = transforms.multitask_transform((48, 64), TASKS)
    evaluate = transforms.evaluation_transform((90, 90), TASKS)
    digest = hashlib.sha256()
    for seed in range(40):
        for result in (train(labelled(seed), np.random.default_rng(seed)), evaluate(labelled(seed))):
            digest.update(f"{result[name].dtype} {result[name].shape}".encode() + result[name].tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[name]
