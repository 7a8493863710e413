"""The study: all arms can run, two of them do, and the table and the picture say what was measured."""

import json
import re
import subprocess

import numpy as np
import pytest

from sak_jax import experiments, recipe
from sak_jax.report import bars
from tests import runs
from tools import study

SMALL = ["--config.distill.steps=3", "--config.multitask.steps=2", "--config.multitask.eval_every=0"]


@pytest.fixture
def small(tmp_path):
    """The tiny recipe with baselines, so that Delta_m needs no runs of single tasks."""
    file = tmp_path / "small.py"
    file.write_text(
        "from tests.recipes import tiny\n"
        "def get_config(text=''):\n"
        "    config = tiny.get_config(text)\n"
        "    config.baselines = {'semseg/mIoU': 5.0, 'depth/RMSE': 3.0, 'edge/odsF': 10.0}\n"
        "    return config\n"
    )
    return str(file)


@pytest.mark.parametrize("path", [runs.TINY, "rooms"])
def test_every_arm_is_a_run_that_can_be(path):
    config = recipe.load(path)
    arms = study.arms(path, config)
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names)
    assert {"multitask", "sak", "many-to-one", "only-scene", "labels-50", "shared-trunk-no-router"} <= set(names)
    made = {arm.name: recipe.load(arm.recipe, arm.overrides) for arm in arms}
    for name, one in made.items():
        recipe.check(one, 1)
        assert name == "sak" or one.to_json() != made["sak"].to_json(), name
    assert list(recipe.ordered(made["only-scene"].teachers))[3:] == ["scene"]
    assert made["labels-25"].data.train_length == config.data.train_length // 4
    assert all(arm.start in ("", "sak") for arm in arms)
    documented = study.__doc__
    for name in {re.sub(r"-(\d+|scene|regions|geometry)$", "", arm.row or arm.name) for arm in arms}:
        assert name in documented, name


def test_two_arms_run_and_are_not_run_again(small, tmp_path, capsys, monkeypatch):
    output = tmp_path / "study"
    arguments = [f"--config={small}", "--arms=sak,shared-trunk", "--seeds=1", "--jobs=2", f"--output={output}", *SMALL]
    assert study.main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads((output / "study.json").read_text())
    keys = ("semseg/mIoU", "depth/RMSE", "edge/odsF")
    assert list(found["table"]) == ["sak", "shared-trunk"]
    for name, row in found["table"].items():
        scores = json.loads((output / f"{name}-0/results.json").read_text())["metrics"]
        assert {key: row[key] for key in keys} == {key: scores[key] for key in keys}
    text = (output / "study.md").read_text()
    assert text in printed and "| method | semseg/mIoU | depth/RMSE | edge/odsF | Delta_m % |" in text
    assert "1 seeds" in text and "2 runs took 0.0 hours in all on " in text and "unknown" not in text
    # The second arm has the first stage of the first, of its own seed.
    config = json.loads((output / "shared-trunk-0/config.json").read_text())
    assert config["init_from"].endswith("sak-0/checkpoints/distill/3") and config["distill"]["steps"] == 0
    assert config["seed"] == 0 and config["model"]["trunk"] == "shared"

    def refuse(command, _):
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(experiments, "launch", refuse)
    assert study.main(arguments) == 0
    assert json.loads((output / "study.json").read_text()) == found


def test_a_failed_run_stops_the_study_with_its_words(small, tmp_path, monkeypatch, capsys):
    started = []

    def fail(command, _):
        started.append(command)
        return subprocess.CompletedProcess(command, 1, "no room")

    monkeypatch.setattr(experiments, "launch", fail)
    assert study.main([f"--config={small}", "--arms=sak,no-router", f"--output={tmp_path / 'x'}", "--seeds=1"]) == 1
    assert "the run ended with no room; " in capsys.readouterr().err
    assert len(started) == 1  # What starts from it did not start.


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--arms=sak,none"], "none"),
        (["--arms=no-router"], "name both"),
        (["--arms=sak"], "no baseline"),
        (["--seeds=0"], "--seeds"),
        (["--arms="], "--arms"),
        (["--output="], "--output"),
        (["--config.batch_sise=2"], "batch_sise"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(arguments, word, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "launch", lambda *_: pytest.fail("started"))
    assert study.main([f"--config={runs.TINY}", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error


def test_hours_and_machines_are_those_that_the_runs_recorded(tmp_path):
    for name, device in (("one", "1 x cpu"), ("two", "1 x cpu"), ("three", "8 x TPU v5e")):
        (tmp_path / name / "report").mkdir(parents=True)
        (tmp_path / name / "results.json").write_text('{"seconds": 1800}')
        versions = {"device": device, "processor": "AMD EPYC, 2 processors"}
        (tmp_path / name / "report" / "report.json").write_text(json.dumps({"versions": versions}))
    said = study.made_by([tmp_path / name for name in ("one", "two", "three")])
    assert said == "3 runs took 1.5 hours in all on 1 x cpu (AMD EPYC, 2 processors), 8 x TPU v5e."


def test_the_summary_by_hand():
    scores = {"one": [{"depth/RMSE": 1.0}, {"depth/RMSE": 3.0}], "two": [{"depth/RMSE": 2.0}, {"depth/RMSE": 2.0}]}
    table = experiments.summary(scores, ["depth/RMSE"], {"depth/RMSE": 4.0})
    assert table["one"] == {"depth/RMSE": 2.0, "depth/RMSE_std": 1.0, "delta_m": 50.0, "delta_m_std": 25.0}
    assert table["two"]["delta_m"] == 50.0 and table["two"]["delta_m_std"] == 0.0
    text = experiments.markdown(table, ["depth/RMSE"], lambda row, key: f"{row[key]:.1f}")
    assert text.splitlines()[2] == "| one | 2.0 | +50.00 ± 25.00 |"
    table["one"]["delta_m"] = -1e-14  # Rounding of baselines that are the row itself.
    text = experiments.markdown(table, ["depth/RMSE"], lambda row, key: f"{row[key]:.1f}")
    assert text.splitlines()[2] == "| one | 2.0 | +0.00 ± 25.00 |"


def test_the_picture_has_a_row_a_name_and_bars_to_scale():
    from xml.etree import ElementTree

    root = ElementTree.fromstring(bars.svg("Delta_m", {"sak": [10.0, 20.0, 30.0], "<b>&": [5.0], "same": [7.0, 7.0]}))
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{name}text")]
    assert {"sak", "<b>&", "same", "+20.0 ± 8.2", "+5.0 ± 0.0"} <= set(texts)
    seeds = [float(dot.get("cx")) for dot in root.iter(f"{name}circle") if dot.get("class") == "seed"]
    first = next(line for line in root.iter(f"{name}line") if line.get("class") == "bar")
    scale = (seeds[2] - seeds[0]) / 20
    assert float(first.get("x2")) - float(first.get("x1")) == pytest.approx(2 * np.std([10, 20, 30]) * scale, abs=0.3)
