import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax import tasks
from sak_jax.errors import UserError
from sak_jax.tasks import TASKS
from tests.tasks.streams import TOLERANCE, check_streaming, nothing_valid, one_batch, score

CASES = [
    ("nyud", "edge"),
    ("nyud", "depth"),
    ("nyud", "semseg"),
    ("pascalcontext", "edge"),
    ("pascalcontext", "normals"),
    ("pascalcontext", "sal"),
]


@pytest.mark.parametrize(("data", "task"), CASES)
def test_is_the_task_loss_of_the_whole_set_as_one_batch(data, task):
    # The reference's `edge/loss` feeds probabilities to a loss that expects logits: it is not matched.
    metric = tasks.metric(dataclasses.replace(TASKS[task], metric="loss"))
    prediction, label = one_batch(data, task)
    expected = tasks.loss(TASKS[task], prediction, label)
    np.testing.assert_allclose(score(metric, [(prediction, label)]), expected, rtol=TOLERANCE)
    check_streaming(metric, data, task)
    assert np.isnan(nothing_valid(metric, data, task))


def test_masked_rows_of_integer_labels_are_ignored():
    metric = tasks.metric(dataclasses.replace(TASKS["sal"], metric="loss"))
    prediction, label = one_batch("pascalcontext", "sal")
    label = label.astype(jnp.uint8)
    mask = np.array([True] * (len(label) - 1) + [False])
    expected = tasks.loss(TASKS["sal"], prediction[:-1], label[:-1])
    np.testing.assert_allclose(score(metric, [(prediction, label)], [mask]), expected, rtol=TOLERANCE)


def test_metrics_and_losses_are_to_be_had_by_a_tasks_name():
    assert tasks.metric("depth").name == "RMSE"
    prediction, label = one_batch("nyud", "depth")
    assert tasks.loss("depth", prediction, label) == tasks.loss(TASKS["depth"], prediction, label)
    with pytest.raises(UserError, match="'dept' is unknown.*depth"):
        tasks.metric("dept")


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_direction_of_a_metric_is_known_by_its_name(task):
    assert tasks.higher_is_better(task.metric) == tasks.metric(task).higher_is_better
