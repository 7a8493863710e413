"""The table of scores, and what a change is."""

import math
import subprocess
import sys

import pytest

from sak_jax.report.table import change, number, table

BETTER = {"semseg/mIoU": True, "depth/RMSE": False, "edge/odsF": True}


def test_baselines_changes_and_what_is_in_print():
    scores = {"semseg/mIoU": 55.0, "depth/RMSE": 0.45, "edge/odsF": 60.0, "edge/AP": 50.0}
    baselines = {"semseg/mIoU": 50.0, "depth/RMSE": 0.5, "edge/odsF": 75.0}
    published = {"semseg/mIoU": 59.93, "depth/RMSE": 0.4942, "edge/odsF": 78.6, "delta_m": 11.11}
    lines = [line.split() for line in table(scores, baselines, 0.0, published, BETTER).splitlines()]
    assert lines[0] == ["metric", "student", "single-task", "change", "published"]
    assert lines[2] == ["semseg/mIoU", "55", "50", "+10.0", "%", "59.93"]
    assert lines[3] == ["depth/RMSE", "0.45", "0.5", "+10.0", "%", "0.4942"]  # Less is better.
    assert lines[4] == ["edge/odsF", "60", "75", "-20.0", "%", "78.6"]
    assert lines[5] == ["edge/AP", "50"]
    assert lines[6] == ["Delta_m", "+0.00", "%", "+11.11", "%"]
    assert "published" not in table(scores, baselines, 0.0)
    assert "config.baselines" in table(scores, {}, None)


def test_a_direction_that_is_not_known_gives_no_change():
    assert "change" not in table({"depth/RMSE": 0.45}, {"depth/RMSE": 0.5}, None)


@pytest.mark.parametrize("value, baseline", [(None, 1.0), (1.0, None), (1.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_no_change_without_two_numbers(value, baseline):
    assert change(value, baseline, True) is None


def test_numbers():
    assert [number(value) for value in (None, math.nan, 0.123456, 17.0)] == ["", "-", "0.1235", "17"]


def test_pages_and_tables_need_no_jax():
    code = "import sys; from sak_jax.report import page, table; print({'jax', 'ml_collections'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
