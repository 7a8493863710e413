"""Where a run's time goes."""

import json

import pytest

from sak_jax.engine import timing
from tests import runs


def test_laps_leave_out_what_is_not_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    clock = timing.Clock(images=8)

    def spend(activity, seconds):
        with clock.during(activity):
            now[0] += seconds

    spend("compiling", 50)
    assert clock.lap(1, 100) == {}
    for _ in range(4):
        spend("data", 0.5)
        now[0] += 1.5
    spend("saving", 3)
    spend("evaluating", 20)
    values = clock.lap(5, 100)
    assert values["step_seconds"] == pytest.approx(2.0) and values["images_per_second"] == pytest.approx(4.0)
    assert values["data_seconds"] == pytest.approx(0.5) and values["remaining_seconds"] == pytest.approx(190)
    assert 0.01 < values["memory_gigabytes"] < 1000
    values["memory_gigabytes"] = 1.25
    assert timing.line(values) == "4 images/s, 2 s a step (data 25 %), 1.25 GB, 3 min to go"
    assert timing.line(values | {"remaining_seconds": 7500.0}).endswith("2 h 05 min to go")
    expected = {"compiling": 50, "data": 2, "saving": 3, "evaluating": 20, "training": 6}
    assert clock.spent == pytest.approx(expected)


@pytest.mark.parametrize(
    ("window", "first", "traced", "words"),
    [
        ((3, 2), 1, [3, 5], "profile of 2 steps"),
        ((3, 9), 3, [3, "end"], "profile of 9 steps"),
        ((3, 2), 4, [], "step 3 is past, the run goes on at step 4"),
        ((3, 0), 4, [], ""),
    ],
)
def test_a_profile_is_of_the_steps_asked_for_or_says_that_they_are_past(
    monkeypatch, caplog, tmp_path, window, first, traced, words
):
    now, seen = [None], []
    monkeypatch.setattr(timing.jax.profiler, "start_trace", lambda folder: seen.append(now[0]))
    monkeypatch.setattr(timing.jax.profiler, "stop_trace", lambda: seen.append(now[0]))
    caplog.set_level("INFO", "sak_jax")
    profile = timing.Profile(tmp_path, window)
    for now[0] in range(first, 8):
        profile.before(now[0])
    now[0] = "end"
    profile.close()
    assert seen == traced
    assert [words in record.getMessage() for record in caplog.records] == [True] * bool(words)


def test_a_run_tells_its_speed_and_where_its_time_went(tmp_path):
    profile = ("--config.profile.first_step=2", "--config.profile.steps=1")
    done = runs.run(f"--workdir={tmp_path}", *profile, config=runs.SMALLEST)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(text) for text in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert [(line["split"], line["step"]) for line in lines] == [
        ("distill", 2), ("distill", 3), ("multitask", 2), ("multitask", 3),
    ]  # fmt: skip
    assert all(line["values"]["images_per_second"] > 0 for line in lines)
    spent = json.loads((tmp_path / "results.json").read_text())["time"]
    assert set(spent) == {*timing.ACTIVITIES, "training"}
    assert spent["compiling"] > 0 and spent["evaluating"] > 0
    for stage in ("distill", "multitask"):
        assert list((tmp_path / "profile" / stage).rglob("*.xplane.pb"))
