"""What a report shows is what the student, the labels and the teachers are."""

import types

import numpy as np
import pytest

from sak_jax import normalisation
from sak_jax.report import figures, gather
from sak_jax.report.record import Run
from sak_jax.tasks import IGNORE, select

SIZE = (8, 12)
TASKS = select(
    {"depth": {}, "semseg": {"channels": 3, "names": ["wall", "floor", "lamp"]}, "normals": {}, "edge": {}, "sal": {}}
)


def samples(count):
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        normals = rng.normal(size=(*SIZE, 3)).astype(np.float32)
        found.append(
            {
                "image": rng.normal(size=(*SIZE, 3)).astype(np.float32),
                "depth": np.full(SIZE, 1.0 + index, np.float32),
                "semseg": rng.integers(0, 3, SIZE).astype(np.uint8),
                "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
                "edge": rng.integers(0, 2, SIZE).astype(np.float32),
                "sal": rng.integers(0, 2, SIZE).astype(np.uint8),
            }
        )
        found[-1]["semseg"][0, 0] = IGNORE
    return found


def right(sample):
    """Raw predictions that say what the labels say."""
    classes = lambda label, count: 20.0 * np.eye(256, dtype=np.float32)[label][..., :count]  # noqa: E731
    return {
        "depth": sample["depth"][..., None],
        "semseg": classes(sample["semseg"], 3),
        "normals": 3 * sample["normals"],
        "edge": 40 * (sample["edge"][..., None] - 0.5),
        "sal": classes(sample["sal"], 2),
    }


def student(all_samples, calls, wrong=()):
    """The right predictions for known images (but class 0 for the samples in `wrong`), and made-up features."""

    def forward(images):
        calls.append(images.shape)
        rows = [next(i for i, s in enumerate(all_samples) if np.array_equal(s["image"], image)) for image in images]
        each = [right(all_samples[row]) for row in rows]
        for row, one in zip(rows, each, strict=True):
            if row in wrong:
                one["semseg"] = np.zeros_like(one["semseg"]) + [9.0, 0, 0]
        predictions = {task: np.stack([one[task] for one in each]) for task in sorted(each[0])}
        features = np.random.default_rng(1).normal(size=(len(rows), 2, 3, 5)).astype(np.float32)
        routing = np.asarray(rows, np.float32)[:, None, None] * np.ones((1, 4, 2), np.float32)
        return types.SimpleNamespace(
            predictions=predictions,
            aligned={"a": (features,) * 4, "b": (features,) * 4},
            routing={"semseg": routing, "depth": routing},
        )

    return forward


def test_means_are_over_all_samples_and_pictures_spread_over_them():
    found, calls = samples(11), []
    run = Run("x", experts=["stem", "b", "a"])
    gather.gather(run, student(found, calls), found, TASKS, shown=4, batch=8)
    assert set(calls) == {(8, *SIZE, 3)}  # One shape, one program.
    assert run.routing_images == 11 and list(run.routing) == ["depth", "semseg"]
    np.testing.assert_allclose(run.routing["semseg"], np.full((4, 2), 5.0))  # The mean of 0..10: no padding in it.
    assert [example["routing"]["depth"][0][0] for example in run.pictures] == [0, 2, 5, 8]
    image = (run.pictures[1]["image"] / 255 - normalisation.MEAN) / normalisation.STD
    inside = (found[2]["image"] > -1.5) & (found[2]["image"] < 1.8)
    np.testing.assert_allclose(image[inside], found[2]["image"][inside], atol=0.02)
    assert list(run.pictures[0]["tasks"]) == [task.name for task in TASKS]
    assert list(run.pictures[0]["features"]) == ["b: path", "a: path"]


def test_a_right_student_has_no_errors_and_a_wrong_one_has():
    found = samples(4)
    run = Run("x")
    gather.gather(run, student(found, [], wrong=(1,)), found, TASKS)
    assert run.confusion["semseg"]["classes"] == ["wall", "floor", "lamp"]
    counts = np.asarray(run.confusion["semseg"]["counts"])
    wrong = found[1]["semseg"]
    assert counts.sum() == 4 * (8 * 12 - 1)  # What is to be ignored is in no class.
    assert counts[1, 0] == (wrong == 1).sum() and counts[2, 0] == (wrong == 2).sum() and counts[0, 1:].sum() == 0
    black = figures.heat(np.zeros(SIZE))
    for task, (ours, truth, error) in run.pictures[0]["tasks"].items():
        known = np.ones(SIZE, bool)
        known[0, 0] = task != "semseg"
        np.testing.assert_array_equal(ours[known], truth[known], err_msg=task)
        assert np.abs(error[known].astype(int) - black[known]).max() <= 12, task
    assert (run.pictures[0]["tasks"]["semseg"][1][0, 0] == 128).all()
    _, _, error = run.pictures[1]["tasks"]["semseg"]
    assert (error[wrong == 1] == figures.heat(np.ones((1, 1)))[0, 0]).all()


def test_fidelity_is_one_for_equal_features_of_any_scale():
    found = samples(3)
    forward = student(found, [])
    teachers = lambda images: {"a": [2.5 * x for x in forward(images).aligned["a"]], "other": ()}  # noqa: E731
    run = Run("x", experts=["stem", "a", "b"])
    stem = lambda images: images[:, ::4, ::4]  # noqa: E731
    gather.gather(run, forward, found, TASKS, stem=stem, teachers=teachers, batch=4)
    assert list(run.fidelity) == ["a"] and run.fidelity["a"] == pytest.approx([1.0] * 4, abs=1e-6)
    assert list(run.pictures[0]["features"]) == ["stem", "a: path", "a: teacher", "b: path"]
    of_pictures = figures.principal_components([sample["image"][::4, ::4] for sample in found])
    for example, picture in zip(run.pictures, of_pictures, strict=True):
        np.testing.assert_array_equal(example["features"]["stem"], picture)


def test_components_are_those_of_all_images_together():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(16, 16)))[0][:3]
    strengths = rng.normal(size=(2, 6, 7, 3)) * [9, 3, 1]
    pictures = figures.principal_components(list(strengths @ axes))
    flat = np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype(float)
    true = strengths.reshape(-1, 3)
    for channel in range(3):
        assert abs(np.corrcoef(flat[:, channel], true[:, channel])[0, 1]) > 0.97
    constant = figures.principal_components([np.ones((2, 2, 1))])
    assert constant[0].shape == (2, 2, 3)


def test_a_confusion_counts_by_hand():
    true, predicted = np.array([0, 0, 1, 2, IGNORE, 7]), np.array([0, 1, 1, 0, 0, 0])
    assert figures.confusion(predicted, true, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_what_goes_to_the_loggers():
    run = Run("x", experts=["stem", "scene"], routing={"depth": [[0.25, 0.75], [0.9, 0.1]], "edge": [[0, 0.5, 0.5]]})
    run.pictures = [{"image": np.zeros((8, 12, 3), np.uint8), "tasks": {}}] * 3
    weights, pictures = gather.logged(run, shown=2)
    assert weights["depth/level2/scene"] == 0.1 and weights["edge/level1/expert3"] == 0.5 and len(weights) == 7
    assert list(pictures["predictions"]) == ["image1", "image2"]
    assert pictures["routing"]["depth"].shape == (48, 48, 3)
    assert gather.logged(Run("x")) == ({}, {"predictions": {}, "routing": {}})
