import pytest

from sak_jax.errors import UserError
from sak_jax.tasks import delta_m

NYUD = ("semseg/mIoU", "depth/RMSE", "normals/mErr", "edge/odsF")
PASCAL = ("semseg/mIoU", "human_parts/mIoU", "sal/maxF", "normals/mErr", "edge/odsF")
NYUD_BASE, NYUD_LARGE = (51.15, 0.5792, 19.77, 77.35), (54.19, 0.5560, 19.22, 78.09)
PASCAL_BASE, PASCAL_LARGE = (80.25, 70.54, 84.54, 13.57, 74.22), (81.61, 72.77, 83.80, 13.87, 75.24)


@pytest.mark.parametrize(
    ("keys", "baseline", "model", "published"),
    [
        (NYUD, NYUD_BASE, (49.27, 0.5823, 19.92, 75.88), -1.72),
        (NYUD, NYUD_BASE, (59.93, 0.4942, 17.60, 78.60), 11.11),
        (NYUD, NYUD_LARGE, (55.51, 0.4930, 18.47, 78.22), 4.46),
        (NYUD, NYUD_LARGE, (59.32, 0.4698, 17.46, 79.41), 8.95),
        (NYUD, NYUD_LARGE, (63.18, 0.4313, 16.25, 79.43), 14.05),
        (NYUD, NYUD_LARGE, (63.68, 0.4113, 15.53, 80.10), 16.33),
        (PASCAL, PASCAL_BASE, (81.88, 74.30, 84.79, 14.02, 74.09), 0.83),
        (PASCAL, PASCAL_LARGE, (84.01, 76.99, 84.65, 13.82, 76.27), 2.30),
    ],
)
def test_gives_the_published_rows(keys, baseline, model, published):
    measured = delta_m(dict(zip(keys, model, strict=True)), dict(zip(keys, baseline, strict=True)))
    assert measured == pytest.approx(published, abs=0.02)  # the scores are rounded to two decimals


def test_metrics_without_a_baseline_are_left_out():
    assert delta_m({"semseg/mIoU": 55.0, "edge/loss": 0.1}, {"semseg/mIoU": 50.0}) == pytest.approx(10)


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        ({"depth/RMSE": 0.5}, "'depth/RMSE' has no metric.*semseg/mIoU"),
        ({"semseg/mIoU": 0.0}, "'semseg/mIoU' is 0"),
        ({"semseg/accuracy": 3.0}, "'accuracy' is unknown"),
        ({}, "a baseline for each task"),
    ],
)
def test_unusable_baselines_are_the_users_mistake(baselines, message):
    with pytest.raises(UserError, match=message):
        delta_m({"semseg/mIoU": 50.0, "semseg/accuracy": 60.0}, baselines)
