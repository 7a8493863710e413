"""What a run's loggers hold at its end besides curves: pictures of predictions, and routing."""

import json

import numpy as np
import pytest

from tests import events, runs

OPTIONS = ("--config.distill.steps=3", "--config.multitask.steps=2", "--config.multitask.eval_every=0")
WANDB = """
import os
def note(*entry):
    with open(os.environ["NOTED"], "a") as file:
        print(*entry, file=file)
def init(**options):
    note("init", options["name"])
def log(values, step):
    note("log", step, *(f"{name}={value}" for name, value in values.items()))
def finish():
    note("finish")
def Image(picture):
    return "x".join(map(str, picture.shape))
"""


@pytest.fixture(scope="module")
def noted(tmp_path_factory):
    """A finished run that was started a second time, and what a stand-in for wandb was told the first time."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "wandb.py").write_text(WANDB)
    env = {"PYTHONPATH": str(folder), "NOTED": str(folder / "noted")}
    arguments = (f"--workdir={folder / 'run'}", *OPTIONS, '--config.loggers=("tensorboard","wandb")')
    told = []
    for _ in range(2):
        done = runs.run(*arguments, env=env)
        assert done.returncode == 0, done.stderr
        told.append((folder / "noted").read_text().splitlines())
    return folder / "run", told[0]


def test_event_files_hold_pictures_and_routing_once(noted):
    workdir, _ = noted
    found = events.read(workdir / "events/multitask")
    kept = json.loads((workdir / "report/report.json").read_text())
    for task in ("semseg", "depth", "edge"):
        for level, row in enumerate(kept["routing"][task], 1):
            for expert, weight in zip(("stem", "scene", "geometry"), row, strict=True):
                assert found[f"routing/{task}/level{level}/{expert}"] == [(3, pytest.approx(weight, abs=1e-6))]
        ((step, picture),) = found[f"routing/{task}"]
        assert step == 3 and picture.shape == (4 * 24, 3 * 24, 3)
    shown = {tag for tag, ones in found.items() if np.ndim(ones[0][1]) == 3}
    assert shown == {f"predictions/image{i}" for i in (1, 2, 3, 4)} | {f"routing/{task}" for task in kept["routing"]}
    assert all(len(ones) == len({step for step, _ in ones}) for ones in found.values())
    assert [step for step, _ in found["multitask/total"]] == [1, 2]


def test_a_service_gets_them_in_the_stages_own_run(noted):
    _, lines = noted
    assert [line for line in lines if line.startswith("init")] == ["init run/distill", *["init run/multitask"] * 2]
    last = lines[len(lines) - 1 - lines[::-1].index("init run/multitask") :]
    weights, predictions, routing = last[1:-1]
    assert last[-1] == "finish" and all(line.startswith("log 3 ") for line in last[1:-1])
    assert "routing/depth/level2/geometry=0." in weights and weights.count("=") == 3 * 4 * 3
    assert predictions.split()[2:] == [f"predictions/image{i}=360x896x3" for i in (1, 2, 3, 4)]
    assert routing.split()[2:] == [f"routing/{task}=96x72x3" for task in ("semseg", "depth", "edge")]
