"""What a run leaves for its report is read back, whatever state the folder is in."""

import json
import sys

import numpy as np
import pytest

from sak_jax.errors import UserError
from sak_jax.report import page, record
from tests.report import runs


@pytest.fixture
def workdir(tmp_path):
    """A finished run's folder."""
    run = runs.full()
    folder = tmp_path / "rooms"
    folder.mkdir()
    config = run.config | {"baselines": run.baselines, "published": run.published}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run.curves))
    results = {"metrics": run.scores, "delta_m": run.delta_m, "steps": run.steps, "seconds": run.seconds}
    (folder / "results.json").write_text(json.dumps(results))
    record.save(folder, run)
    return folder


def test_there_and_back(workdir):
    ours, theirs = runs.full(), record.collect(workdir)
    assert theirs.notes == [] and theirs.name == "rooms"
    for key in ("command", "versions", "scores", "baselines", "published", "delta_m", "steps", "seconds", "curves"):
        assert getattr(theirs, key) == getattr(ours, key), key
    for key in ("higher_is_better", "routing", "experts", "routing_images", "fidelity", "confusion"):
        assert getattr(theirs, key) == getattr(ours, key), key
    for one, other in zip(ours.pictures, theirs.pictures, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        for task, drawn in one["tasks"].items():
            np.testing.assert_array_equal(drawn, other["tasks"][task])
        assert other["routing"] == one["routing"]
        np.testing.assert_array_equal(one["features"]["scene: path"], other["features"]["scene: path"])


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/opt/env/bin/python", "-m", "sak_jax.main", "--config=a b.py"], "python -m sak_jax.main '--config=a b.py'"),
        (["/opt/env/bin/python3", "/opt/env/bin/sak-jax", "train", "--config=rooms"], "sak-jax train --config=rooms"),
    ],
)
def test_the_command_is_what_one_types(words, command, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", words)
    assert record.command() == command


def test_a_name_may_be_anything(workdir):
    run = runs.full(pictures=runs.examples(1, tasks=("../../evil/<b>",)))
    record.save(workdir, run)
    assert list(record.collect(workdir).pictures[0]["tasks"]) == ["../../evil/<b>"]
    assert sorted(path.name for path in workdir.parent.iterdir()) == ["rooms"]


def as_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "a folder": as_folder,
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "a list": lambda path: path.write_text("[1, 2]"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "results.json", "report/report.json", "report/pictures/001/image.png"]
)
def test_damaged_files_leave_a_page_and_a_note(workdir, name, damage):
    DAMAGE[damage](workdir / name)
    run = record.collect(workdir)
    assert "rooms" in page.render([run])
    may_be_missing = ("config.json", "metrics.jsonl", "report/report.json")
    if not (name in may_be_missing and damage == "gone" or name == "metrics.jsonl" and damage == "empty"):
        assert run.notes, name
    if name != "results.json":
        assert run.scores["semseg/mIoU"] == 24.0


@pytest.mark.parametrize(
    "pictures", [[{"image": "/etc/passwd", "tasks": {}}], [{"image": "../../x.png", "tasks": {}}], 3]
)
def test_pictures_are_read_from_the_report_alone(workdir, pictures):
    saved = json.loads((workdir / "report/report.json").read_text())
    (workdir / "report/report.json").write_text(json.dumps(saved | {"pictures": pictures}))
    (workdir.parent / "x.png").write_bytes(record.png(runs.flat(0)))
    assert record.collect(workdir).pictures == []


@pytest.mark.parametrize(
    "key, value",
    [
        ("routing", {"semseg": "much"}),
        ("routing", [1]),
        ("routing", {"semseg": [[1], [1, 2]]}),
        ("experts", {"a": 1}),
        ("command", 3),
        ("versions", ["x"]),
        ("routing_images", "x"),
        ("confusion", {"semseg": {"classes": ["a"], "counts": [[1, 2]]}}),
        ("fidelity", {"scene": 3}),
    ],
)
def test_an_entry_of_another_form_is_left_out(workdir, key, value):
    saved = json.loads((workdir / "report/report.json").read_text())
    (workdir / "report/report.json").write_text(json.dumps(saved | {key: value}))
    run = record.collect(workdir)
    assert not getattr(run, key) and any(key in note for note in run.notes)
    page.render([run])


def test_weights_that_are_no_numbers_leave_a_page(workdir):
    saved = json.loads((workdir / "report/report.json").read_text())
    saved["routing"]["semseg"][0][0] = saved["pictures"][0]["routing"]["semseg"][0][0] = float("nan")
    saved["pictures"][1]["routing"]["semseg"][0][0] = float("inf")
    (workdir / "report/report.json").write_text(json.dumps(saved))
    run = record.collect(workdir)
    assert [("routing" in example) for example in run.pictures] == [False, False, True]
    assert '<td class="num">-</td>' in page.render([run])  # Of the mean, beside its other weights.


def test_foreign_lines_and_numbers_that_are_none(workdir):
    lines = [
        '{"step": 1, "split": "multitask", "values": {"total": NaN, "lr": Infinity, "x": 1e999}}',
        '{"step": 2, "split": "multitask", "values": {"total": "high"}}',
        '{"step": 3, "split": "multitask", "values": {"total": ' + "9" * 400 + "}}",
        '{"step": "x", "split": "multitask", "values": {}}',
        '{"step": 4}',
        "warning: something",
        "null",
        '{"step": 5, "split": "multitask", "values": {"total": 1.0}}',
        '{"step": 6, "split": "multi',
    ]
    (workdir / "metrics.jsonl").write_text("\n".join(lines))
    run = record.collect(workdir)
    assert [entry["step"] for entry in run.curves] == [1, 2, 3, 5]
    assert [entry["values"]["total"] for entry in run.curves] == [None, None, None, 1.0]
    assert any("left out: 5" in note for note in run.notes)


def test_a_run_before_its_evaluation_and_before_anything(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        record.collect(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run"):
        record.collect(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert record.collect(tmp_path).notes == ["this run has no finished evaluation"]


def test_runs_of_one_name_are_told_apart():
    found = [(path, runs.full()) for path in ("/a/one/rooms", "/a/two/rooms", "/a/other")]
    assert [run.name for run in record.named_apart(found)] == ["one/rooms", "two/rooms", "other"]
