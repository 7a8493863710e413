"""The table of latencies."""

import importlib.util
import json

import pytest

from tests import runs
from tools import latency


def test_every_runtime_is_measured(tmp_path, capsys):
    wanted = ["jax", "stablehlo", *(["onnx"] if importlib.util.find_spec("jax2onnx") else [])]
    output = tmp_path / "latency.json"
    arguments = [f"--runtimes={','.join(wanted)}", "--batches=1,2", "--repeats=2", f"--output={output}"]
    assert latency.main(["--recipes", runs.TINY, *arguments]) == 0
    rows = json.loads(output.read_text())
    assert [row["runtime"] for row in rows] == wanted
    for row in rows:
        assert row["image_size"] == [24, 32] and "processor" in row["device"] and row["versions"]
        assert set(row["seconds"]) == {"1", "2"}
        assert all(0 < times["least"] <= times["median"] < 60 for times in row["seconds"].values())
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| student | image | runtime | batch 1, ms | batch 2, ms |"
    assert table[2].startswith(f"| {runs.TINY} | 24 x 32 | jitted call | ") and len(table) == 2 + len(wanted) + 2
    assert "jax " in table[-1]


def test_a_student_without_tasks_has_no_export_and_says_so(tmp_path, capsys):
    recipe = tmp_path / "distil.py"
    recipe.write_text(
        "from tests.recipes import tiny\n"
        "def get_config(text=''):\n"
        "    config = tiny.get_config()\n"
        "    config.multitask.steps = 0\n"
        "    return config\n"
    )
    assert latency.main(["--recipes", str(recipe), "--runtimes=stablehlo", "--batches=1"]) == 0
    out = capsys.readouterr().out
    assert "| StableHLO | - |" in out and "StableHLO: this student has no tasks" in out


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--runtimes=jax,tensorrt"], "tensorrt"),
        (["--batches=1,x"], "--batches"),
        (["--batches=0"], "--batches"),
        (["--repeats=0"], "--repeats"),
        (["--recipes", "nowhere"], "nowhere"),
        (["--output=/proc/nope/x.json"], "--output=/proc/nope/x.json"),
        (["--output="], "--output"),
    ],
)
def test_a_mistake_is_one_line(arguments, word, monkeypatch, capsys):
    monkeypatch.setattr(latency, "apart", lambda *_: pytest.fail("measured"))
    assert latency.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error


def test_figures_that_are_there_are_kept(tmp_path, monkeypatch, capsys):
    rows = {"image_size": [24, 32], "device": "a", "versions": {}, "seconds": {1: {"median": 1.0, "least": 1.0}}}
    monkeypatch.setattr(latency, "apart", lambda *_: rows)
    (tmp_path / "x.json").write_text("kept")
    arguments = ["--recipes", runs.TINY, "--runtimes=jax", "--batches=1", f"--output={tmp_path / 'x.json'}"]
    assert latency.main(arguments) == 2 and "--force" in capsys.readouterr().err
    assert (tmp_path / "x.json").read_text() == "kept"
    assert latency.main([*arguments, "--force"]) == 0
    assert json.loads((tmp_path / "x.json").read_text())[0]["device"] == "a"
