"""The table of tasks: what a config may say of them, and kinds of one's own."""

import dataclasses
import os
import pickle
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax import tasks
from sak_jax.data import transforms
from sak_jax.errors import UserError
from sak_jax.tasks import KINDS, TASKS, Task, select
from tests.tasks.flow import Flow

NEW = {"channels": 3, "kind": "classes", "weight": 1.0, "metric": "mIoU"}


@pytest.fixture
def flow():
    tasks.register(Flow())
    yield Task("flow", channels=2, kind="flow", weight=1.0, metric="EPE", options={"longest": 8})
    del KINDS["flow"]


def test_overrides_keep_their_order_and_what_is_not_given():
    chosen = select({"edge": {}, "semseg": {"channels": 21, "weight": 2}, "mine": NEW, "depth": {"maximum": 10}})
    assert [task.name for task in chosen] == ["edge", "semseg", "mine", "depth"]
    assert chosen[0] == TASKS["edge"]
    assert chosen[1] == dataclasses.replace(TASKS["semseg"], channels=21, weight=2.0)
    assert chosen[2] == Task("mine", channels=3, kind="classes", weight=1.0, metric="mIoU")
    assert chosen[3].option("maximum") == 10.0 and TASKS["depth"].option("maximum") == 80.0
    assert len({hash(task) for task in chosen}) == 4  # Static under jit.


def test_a_known_task_of_another_kind_takes_that_kinds_options():
    (task,) = select({"depth": {"kind": "boundary", "metric": "loss"}})
    assert task.options == () and task.channels == 1


@pytest.mark.parametrize(
    "name",
    [
        "image",
        "mask",
        "size",
        "index",
        "id",
        "skipped",
        "total",
        "distill",
        "lr",
        "grad_norm",
        "distilled",
        "a/b",
        "a.b",
        "",
    ],
)
def test_names_that_samples_and_logs_use_are_refused(name):
    with pytest.raises(UserError, match=f"task cannot be named '{name}'"):
        select({name: NEW})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mine": {"channels": 3, "weight": 1.0}}, "tasks.mine is new and lacks kind, metric; known are semseg"),
        ({"depth": {"colour": 3}}, "tasks.depth has no field 'colour'; a task of kind depth has .*maximum"),
        ({"depth": {"loss": "l1"}}, "tasks.depth.loss is no field.*tasks.depth.kind='depth'"),
        ({"mine": {**NEW, "loss": "normals_l1"}}, "write tasks.mine.kind='normals'"),
        ({"mine": {**NEW, "kind": "colour"}}, "tasks.mine.kind is 'colour'; set it to one of classes"),
        ({"edge": {"metric": "F1"}}, "tasks.edge.metric is 'F1'; set it to one of odsF, loss"),
        ({"semseg": {"channels": 0}}, "tasks.semseg.channels is 0"),
        ({"semseg": {"channels": 2.5}}, "tasks.semseg.channels is 2.5; it must be of the type int"),
        ({"semseg": {"channels": True}}, "tasks.semseg.channels is True"),
        ({"semseg": {"channels": 256}}, "tasks.semseg.channels is 256; labels are bytes"),
        ({"sal": {"channels": 40}}, "tasks.sal.channels is 40; the kind saliency has 2"),
        ({"depth": {"weight": -1}}, "tasks.depth.weight is -1"),
        ({"depth": {"weight": float("nan")}}, "tasks.depth.weight is nan"),
        ({"depth": {"weight": "1"}}, "tasks.depth.weight is '1'; it must be of the type float"),
        ({"depth": {"maximum": 0}}, "tasks.depth.maximum is 0.0; it must be positive"),
        ({"depth": {"maximum": float("nan")}}, "tasks.depth.maximum is nan"),
        ({"depth": {"maximum": "far"}}, "tasks.depth.maximum is 'far'; it must be of the type float"),
        ({"semseg": {"channels": 2, "names": ["one"]}}, "tasks.semseg.names has 1 entries for 2 channels"),
        ({"semseg": {"channels": 1, "palette": [[0, 0, 256]]}}, "tasks.semseg.palette holds"),
        ({"semseg": {"channels": 1, "palette": "red"}}, "tasks.semseg.palette is 'red'; .* list"),
    ],
)
def test_mistakes_in_a_config_are_named(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        select(overrides)
    assert "\n" not in str(caught.value)


def test_the_maximum_of_depth_is_the_tasks():
    label = jnp.asarray([[[1.0, 5.0, 90.0, 255.0]]])
    prediction = jnp.asarray([[[1.0, 8.0, 94.0, 9.0]]])[..., None]
    for maximum, expected in ((3.0, 0.0), (80.0, np.sqrt(9 / 2)), (1000.0, np.sqrt((9 + 16) / 3))):
        (task,) = select({"depth": {"maximum": maximum}})
        metric = tasks.metric(task)
        totals = {name: np.asarray(value) for name, value in metric.batch(prediction, label, jnp.ones(1, bool)).items()}
        assert metric.result(totals)["RMSE"] == pytest.approx(expected, rel=1e-6)


def test_delta_m_is_one_number_for_every_hash_seed():
    script = """
from sak_jax.tasks import delta_m
keys = {f"t{i}/mIoU" for i in range(9)}
print(repr(delta_m({k: 1 + 0.1 * int(k[1]) for k in keys}, {k: 3.3 + 0.7 * int(k[1]) for k in keys})))
"""
    found = {
        subprocess.check_output([sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_delta_m_sums_in_one_order():
    import itertools

    keys = [f"{name}/mIoU" for name in "abcde"]
    scores = dict(zip(keys, (51.15, 0.3, 19.77, 77.35, 1e-3), strict=True))
    base = dict(zip(keys, (49.1, 0.7, 18.3, 70.9, 3e-3), strict=True))
    assert (
        len({tasks.delta_m(scores, {key: base[key] for key in order}) for order in itertools.permutations(keys)}) == 1
    )


def test_a_kind_of_ones_own_trains_is_scored_and_is_sent_to_workers(flow):
    rng = np.random.default_rng(0)
    kind = tasks.kind_of(flow)
    label = kind.random_label(flow, (20, 30), rng)
    kind.check(flow, label, "sample 'a'")
    prediction = jnp.zeros((1, 20, 30, 2))
    np.testing.assert_allclose(
        tasks.loss(flow, prediction, jnp.asarray(label[None])), np.abs(label).sum(-1).mean(), rtol=1e-5
    )
    metric = tasks.metric(flow)
    sums = metric.batch(prediction, jnp.asarray(label[None]), jnp.ones(1, bool))
    totals = {name: np.asarray(value, np.float64) for name, value in sums.items()}  # As an evaluation adds them up.
    assert metric.result(totals)["EPE"] == pytest.approx(float(np.linalg.norm(label, axis=-1).mean()), rel=1e-5)
    assert not tasks.higher_is_better("EPE") and flow.option("longest") == 8.0

    transform = transforms.multitask_transform((40, 60), (flow, TASKS["sal"]), scale_range=(2, 2), photometric=False)
    sample = {"image": np.zeros((20, 30, 3), np.uint8), "flow": label, "sal": np.zeros((20, 30), np.uint8)}
    sent = pickle.dumps(transform)
    del KINDS["flow"]  # A worker process has not run the recipe.
    result = pickle.loads(sent)(sample, np.random.default_rng(1))
    KINDS["flow"] = kind
    flipped = np.random.default_rng(1).random() < 0.5
    expected = 2 * label.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(result["flow"], expected[:, ::-1] * [-1, 1] if flipped else expected)


def test_a_kind_may_be_registered_again_but_not_under_anothers_name(flow):
    tasks.register(Flow())

    class Other(Flow):
        name = "classes"

    with pytest.raises(UserError, match="'classes' is sak_jax.tasks.classes.Classes already"):
        tasks.register(Other())
