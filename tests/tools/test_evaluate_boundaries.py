import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sak_jax.boundary import score
from sak_jax.errors import UserError
from tests.boundary.processes import gone_within

ROOT = Path(__file__).parents[2]
REFERENCE = np.load(ROOT / "tests" / "reference" / "boundary.npz")
IMAGES = range(3)
TOOL = ROOT / "tools" / "evaluate_boundaries.py"


@pytest.fixture
def folders(tmp_path):
    predictions, labels = tmp_path / "predictions", tmp_path / "labels"
    predictions.mkdir(), labels.mkdir()
    for image in IMAGES:
        Image.fromarray(REFERENCE[f"{image}/prediction"]).save(predictions / f"{image}.png")
        if image == 2:  # either kind of label
            Image.fromarray(REFERENCE[f"{image}/boundary"].astype(np.uint8)).save(labels / f"{image}.png")
        else:
            np.save(labels / f"{image}.npy", REFERENCE[f"{image}/label_map"])
    return tmp_path


def flags(folder, **changes):
    values = {
        "predictions": folder / "predictions",
        "labels": folder / "labels",
        "max_distance": 0.011,
        "protocol": "invpt",
        "output": folder / "scores.json",
        "workers": 1,
    }
    return [f"--{name}={value}" for name, value in (values | changes).items() if value is not None]


def run_here(arguments):
    specification = importlib.util.spec_from_file_location("evaluate_boundaries", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.run(arguments)


def run_there(arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, env=environment)


def test_tool_writes_scores_and_counts(folders):
    done = run_there(flags(folders, workers=2))
    assert done.returncode == 0 and done.stderr == ""  # no progress bar outside a terminal
    written = json.loads((folders / "scores.json").read_text())
    assert written["odsF"] == pytest.approx(float(REFERENCE["invpt/0.011/odsF"]), abs=0.002)
    assert f"odsF {written['odsF']:.4f}" in done.stdout
    expected = sum(
        score.evaluate_image(REFERENCE[f"{image}/prediction"], REFERENCE[f"{image}/boundary"], 0.011, "invpt")
        for image in IMAGES
    )
    np.testing.assert_array_equal(written["counts"], expected)
    assert {"oisF", "AP", "threshold"} <= set(written)
    assert sorted(path.name for path in folders.iterdir()) == ["labels", "predictions", "scores.json"]


def test_tool_reports_mistakes_in_one_line_with_status_2(folders):
    (folders / "predictions" / "1.png").write_bytes((folders / "predictions" / "1.png").read_bytes()[:500])
    done = run_there(flags(folders, workers=2))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "predictions/1.png cannot be read" in done.stderr
    assert not (folders / "scores.json").exists()


def spoil(what, folder):
    predictions, labels = folder / "predictions", folder / "labels"
    if what == "missing label":
        (labels / "1.npy").unlink()
    elif what == "size":
        np.save(labels / "1.npy", np.zeros((7, 9), np.int32))
    elif what == "not a PNG":
        (predictions / "0.png").write_bytes(b"hello")
    elif what == "pickle":
        np.save(labels / "0.npy", np.array([{}]), allow_pickle=True)
    elif what == "colours":
        Image.fromarray(np.zeros((150, 110, 3), np.uint8)).save(predictions / "2.png")
    elif what == "16 bits":
        Image.fromarray(np.zeros((150, 110), np.uint16)).save(predictions / "2.png")
    elif what == "empty":
        for path in predictions.iterdir():
            path.unlink()
    elif what == "two labels":
        np.save(labels / "2.npy", np.zeros((150, 110), np.int32))
    elif what == "no truth":
        for path in labels.iterdir():
            path.unlink()
        for image in IMAGES:
            np.save(labels / f"{image}.npy", np.zeros_like(REFERENCE[f"{image}/label_map"]))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing label", r"predictions/1\.png has no label 1\.png or 1\.npy"),
        ("size", r"1\.png is 96 x 140 but its label .*1\.npy is 7 x 9"),
        ("not a PNG", r"0\.png cannot be read"),
        ("pickle", r"0\.npy cannot be read"),
        ("colours", r"2\.png has the shape \(150, 110, 3\)"),
        ("16 bits", r"2\.png holds uint16"),
        ("empty", r"--predictions=.* holds no PNG"),
        ("two labels", r"2\.png and 2\.npy are both of one image"),
        ("no truth", r"--labels=.*not one boundary pixel in 3 labels"),
    ],
)
def test_tool_names_the_culprit(folders, what, message):
    spoil(what, folders)
    with pytest.raises(UserError, match=message) as caught:
        run_here(flags(folders))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in folders.iterdir()) == ["labels", "predictions"]  # nothing half-written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": "/nowhere"}, "--labels=/nowhere is not a folder"),
        ({"output": "/proc/x.json"}, "--output=/proc/x.json"),
        ({"max_distance": 11}, "--max_distance=11"),
        ({"protocol": "bsds"}, "'bsds'"),
        ({"protocol": None}, "--protocol"),
        ({"colour": 3}, "--colour=3"),
    ],
)
def test_tool_names_the_wrong_flag(folders, change, message):
    with pytest.raises(UserError, match=message):
        run_here(flags(folders, **change))


def test_tool_mentions_labels_without_prediction(folders, capsys):
    (folders / "predictions" / "0.png").unlink()
    run_here(flags(folders))
    assert "1 labels have no prediction" in capsys.readouterr().err
    assert json.loads((folders / "scores.json").read_text())["images"] == 2


def test_an_output_that_exists_is_refused_before_the_scoring_unless_forced(folders, capsys):
    output = folders / "scores.json"
    output.write_text("precious")
    (folders / "predictions" / "0.png").write_bytes(b"")  # Would be told if it were read first.
    with pytest.raises(UserError, match="--output=.*scores.json is there already.*--force"):
        run_here(flags(folders))
    assert output.read_text() == "precious" and capsys.readouterr().out == ""
    (folders / "predictions" / "0.png").unlink()
    run_here([*flags(folders), "--force"])
    assert json.loads(output.read_text())["images"] == 2


@pytest.mark.parametrize("name", ["x" * 300, "scores.json/below", "/proc/scores.json"])
def test_an_output_that_cannot_be_written_is_told_before_the_scoring(folders, name, capsys):
    (folders / "scores.json").write_text("a file")
    with pytest.raises(UserError, match="--output=.* can't be written"):
        run_here(flags(folders, output=folders / name))
    assert capsys.readouterr().out == ""


def test_scores_are_printed_though_they_cannot_be_written(folders, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sak_jax.paths.write_text", full)
    with pytest.raises(UserError, match="--output=.* cannot be written .No space left"):
        run_here(flags(folders))
    assert "odsF 0." in capsys.readouterr().out


def test_home_and_brackets_in_paths(folders, monkeypatch):
    monkeypatch.setenv("HOME", str(folders))
    (folders / "predictions").rename(folders / "maps [1]")
    (folders / "maps [1]" / "0.png").rename(folders / "maps [1]" / "0.PNG")
    (folders / "maps [1]" / "._1.png").write_bytes(b"left by another system")
    run_here(flags(folders, predictions="~/maps [1]", labels="~/labels", output="~/scores.json"))
    assert json.loads((folders / "scores.json").read_text())["images"] == 3


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_tool(folders, how):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400), np.uint8)
    for image in range(10, 40):
        Image.fromarray(noise).save(folders / "predictions" / f"{image}.png")
        Image.fromarray((noise > 250).astype(np.uint8)).save(folders / "labels" / f"{image}.png")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    tool = subprocess.Popen(
        [sys.executable, TOOL, *flags(folders, workers=2)], env=environment, stderr=subprocess.DEVNULL
    )
    workers, deadline = [], time.monotonic() + 60
    while len(workers) < 3 and time.monotonic() < deadline:  # Two, and Python's tracker of shared resources.
        workers = Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
        time.sleep(0.1)
    assert len(workers) == 3 and tool.poll() is None
    tool.send_signal(how)
    tool.wait()
    assert gone_within(20, workers)
    assert not (folders / "scores.json").exists()
