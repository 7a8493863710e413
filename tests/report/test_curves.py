"""The curves: what is drawn of long, broken, and single-point ones."""

import re

import numpy as np
import pytest

from sak_jax.report import curves
from tests.report import runs


def points(chart):
    """The drawn line's pixels."""
    text = re.search(r'class="line" d="([^"]*)"', curves.svg(chart, ["a", "b"]))[1]
    return [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([^ML]+)", text)]


def test_scores_come_first_and_the_total_before_other_losses():
    found = [(chart.split, chart.name) for chart in curves.charts([runs.full()])]
    assert found == [("val", "semseg/mIoU"), ("multitask", "total"), ("multitask", "lr")]


def test_one_evaluation_is_no_curve():
    run = runs.full(curves=runs.curves()[:-1])
    assert "val" not in {chart.split for chart in curves.charts([run])}


def test_pixels_follow_the_values():
    chart = curves.Chart("val", "x", ((0, [(0, 1.0), (5, 3.0), (10, 2.0)]),))
    (x0, y0), (x1, y1), (x2, y2) = points(chart)
    assert (x0 + x2) / 2 == pytest.approx(x1) and x0 == curves.LEFT and x2 == curves.WIDTH - curves.RIGHT
    assert (y0 + y1) / 2 == pytest.approx(y2, abs=0.1) and y1 < y2 < y0  # SVG's y points down.


def test_a_line_is_broken_where_it_is_not_finite():
    broken = curves.charts([runs.full(curves=runs.curves(broken=(5, 6)))])[1]
    text = curves.svg(broken, ["a"])
    assert text.count('class="nan"') == 2
    assert re.search(r'class="line" d="([^"]*)"', text)[1].count("M") == 2
    assert "2 points are not finite" in text


@pytest.mark.parametrize(
    "values", [[None], [None, None], [1.0], [0.0, 0.0], [-1.0, 1.0], [1e-30, 1e30], [5e-324, 1.0], [1e308, -1e308]]
)
def test_odd_values_give_a_finite_picture(values):
    lines = [{"step": step, "split": "multitask", "values": {"x": value}} for step, value in enumerate(values)]
    (chart,) = curves.charts([runs.full(curves=lines)])
    text = curves.svg(chart, ["a"])
    assert not re.search(r"\b(nan|inf)\b", re.sub(r'class="nan"', "", text))
    curves.data(chart)


def test_losses_that_fall_far_are_logarithmic():
    chart = curves.Chart("multitask", "x", ((0, [(0, 1000.0), (1, 10.0), (2, 1.0)]),))
    (_, y0), (_, y1), (_, y2) = points(chart)
    assert "logarithmic" in curves.svg(chart, ["a"]) and (y1 - y0) == pytest.approx(2 * (y2 - y1), abs=0.2)


def test_long_runs_are_thinned_and_keep_spikes_and_gaps():
    values = np.sin(np.arange(100_000) / 3000).tolist()
    values[777], values[50_505], values[60_000] = 9.0, -9.0, None
    kept = curves.thin(list(enumerate(values)))
    assert len(kept) <= curves.POINTS + 2 and kept == sorted(kept, key=lambda point: point[0])
    assert {(777, 9.0), (50_505, -9.0), (60_000, None), (0, values[0]), (99_999, values[-1])} <= set(kept)


def test_a_step_that_was_written_again_counts_once():
    written = ((1, 5.0), (2, 4.0), (1, 3.0))
    lines = [{"step": step, "split": "multitask", "values": {"total": value}} for step, value in written]
    assert curves.charts([runs.full(curves=lines)])[0].lines == ((0, [(1, 3.0), (2, 4.0)]),)


def test_ticks_are_round_and_inside():
    scale = curves.Scale(0.13, 0.87, 0, 100)
    assert scale.ticks() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert curves.Scale(0.5, 2e5, 0, 100, log=True).ticks()[0] >= 0.5
