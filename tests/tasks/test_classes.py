import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax import tasks
from sak_jax.tasks import TASKS
from tests.tasks.streams import REFERENCE, TOLERANCE, batches, check_streaming, nothing_valid, score

CASES = [("nyud", "semseg"), ("pascalcontext", "semseg"), ("pascalcontext", "human_parts")]


@pytest.mark.parametrize(("data", "task"), CASES)
def test_matches_the_reference(data, task):
    metric = tasks.metric(TASKS[task])
    expected = REFERENCE[f"{data}/metric/score/{task}/mIoU"]
    np.testing.assert_allclose(score(metric, batches(data, task)), expected, rtol=TOLERANCE)
    check_streaming(metric, data, task)


def test_perfect_predictions_give_100_and_absent_classes_count_as_zero():
    metric = tasks.metric(TASKS["semseg"])
    label = jnp.asarray([[[0, 1, 255, 0]]], jnp.uint8)
    for classes, expected in ((2, 100.0), (4, 50.0)):
        prediction = jnp.asarray(np.eye(classes, dtype=np.float32)[np.array([[[0, 1, 1, 0]]])])
        assert score(metric, [(prediction, label)]) == expected


def test_ignore_label_counts_nowhere():
    assert nothing_valid(tasks.metric(TASKS["semseg"]), "nyud", "semseg") == 0
