"""Plans of a tiny recipe: for simulated devices, and for a TPU slice where its compiler is installed."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import pytest

from sak_jax.engine import planning
from tests import runs
from tools import plan

TINY = f"--config={runs.TINY}"


def start(*arguments):
    command = [sys.executable, "tools/plan.py", TINY, *map(str, arguments)]
    return subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments):
    process = start(*arguments)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_simulated_devices(tmp_path):
    file = tmp_path / "plan.json"
    options = ("--stage=distill", "--config.model.width=64", "--config.mesh.fsdp=2", f"--output={file}")
    done = run("--devices=4", *options)
    assert done.returncode == 0, done.stderr
    stages = json.loads(file.read_text())["stages"]
    found = stages["distill"]
    assert list(stages) == ["distill"] and (found["devices"], found["data"], found["fsdp"]) == (4, 2, 2)
    # Adam holds two values a parameter, and its own two counts; parameters are shared by two, the small ones are not.
    assert found["optimizer"] == pytest.approx(2 * found["parameters"], abs=64)
    assert found["teachers"] > 0 and found["temporaries"] > 0 and found["peak"] > found["parameters"]
    assert found["seconds"] is None and found["hours"] is None  # A simulated device has no rates.
    assert found["collectives"]["all-reduce"]["count"] > 0
    sources = {each["source"] for each in found["exchanges"] if each["kind"] == "all-gather"}
    assert sources and all(source.startswith("jit(") for source in sources)
    assert found["steps"] == 12
    assert "distill: batch 8 (2 a device), mesh 2 x 2" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_tpu_slice_by_two_plans_at_once(tmp_path):
    files = [tmp_path / f"{index}.json" for index in range(2)]
    options = ("--topology=v5e:2x2", "--stage=distill", "--batch_per_device=4")
    both = [start(*options, f"--output={file}") for file in files]
    for process in both:
        stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == 0 and stderr == "", stderr  # Neither found the compiler taken by the other.
        assert "images/s, bound by" in stdout
    file = files[1]
    found = json.loads(file.read_text())["stages"]["distill"]
    assert (found["devices"], found["batch"], found["steps"]) == (4, 16, 6)  # As many images as 12 steps of 8 see.
    assert found["fits"] and 0 < found["peak"] < found["memory"]
    assert found["step_seconds"] == max(found["seconds"].values()) > 0
    assert found["chip_hours"] == pytest.approx(4 * 6 * found["step_seconds"] / 3600)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "--topology"),
        (("--devices=2", "--topology=v5e:2x2"), "--topology"),
        (("--devices=0",), "--devices: '0'"),
        (("--topology=v5e:2y2",), "v5e:2y2"),
        (("--devices=1", "--batch_per_device=0"), "--batch_per_device: '0'"),
        (("--devices=1", "--stage=multitask", "--config.multitask.steps=0"), "--stage=multitask"),
        (("--devices=1", "--output=README.md"), "--force"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, word, capsys, monkeypatch):
    monkeypatch.setattr(plan, "prepare", lambda arguments: None)  # JAX runs already.
    monkeypatch.chdir(runs.ROOT)
    assert plan.main([TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error


def test_a_sum_above_the_memory_that_fits_all_the_same_is_explained():
    none = dict.fromkeys(field.name for field in dataclasses.fields(planning.Figures))
    sizes = {"parameters": 1, "optimizer": 1, "teachers": 1, "temporaries": 19 * 2**30, "peak": 19 * 2**30}
    known = {"devices": 4, "batch": 8, "flops": 1, "compile_seconds": 1.0, "over": 0.0, "memory": 15 * 2**30}
    found = planning.Figures(**none | sizes | known)
    assert "peak 19.00 GiB of 15.00 GiB: fits, says the compiler, which has arrays share" in plan.lines("x", found)[1]
    assert plan.lines("x", dataclasses.replace(found, peak=2**30))[1].endswith("peak 1.00 GiB of 15.00 GiB: fits")
