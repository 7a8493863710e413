import json
import subprocess

import pytest

from sak_jax import recipe
from tests import runs
from tools import compare

RECIPE = f"{runs.TINY}:method=sak"
SCORES = {"semseg/mIoU": 20.0, "depth/RMSE": 1.0, "edge/odsF": 50.0}


@pytest.fixture
def output(tmp_path, monkeypatch):
    """A comparison all of whose runs have finished, so that none may be started."""
    sections = {f"single-{key.split('/')[0]}": {key: value} for key, value in SCORES.items()}
    for name, scores in (sections | dict.fromkeys(("multitask", "sak", "no-router"), SCORES)).items():
        workdir = tmp_path / f"{name}-0"
        (workdir / "checkpoints" / "distill" / "12").mkdir(parents=True)
        (workdir / "results.json").write_text(json.dumps({"metrics": scores}))
        overrides = ["--config.batch_size=16"]
        if name == "no-router":
            start = tmp_path / "sak-0" / "checkpoints" / "distill" / "12"
            overrides += [f"--config.init_from={start}", "--config.distill.steps=0", "--config.model.router=none"]
        method = "sak" if name == "no-router" else name
        config = recipe.load(f"{runs.TINY}:method={method}", overrides)
        (workdir / "config.json").write_text(json.dumps(json.loads(config.to_json())))

    def refuse(command, **_):
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(subprocess, "run", refuse)
    return tmp_path


def run(output, *arguments):
    return compare.main([f"--config={RECIPE}", "--seeds=1", f"--output={output}", "--config.batch_size=16", *arguments])


def test_finished_runs_are_not_started_again(output, capsys):
    assert run(output) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "| method | semseg/mIoU | depth/RMSE | edge/odsF | Delta_m % |"
    assert table[2] == "| single-task | 20 | 1 | 50 | +0.00 ± 0.00 |" and table[5].startswith("| sak |")
    assert json.loads((output / "comparison.json").read_text())["table"]["sak"]["depth/RMSE"] == 1.0


def test_another_recipes_runs_are_not_taken_for_this_ones(output, capsys):
    assert run(output, "--config.multitask.lr=0.5") == 2
    error = capsys.readouterr().err
    assert "sak-0 was made by another config: multitask.lr is 0.001 there and 0.5 here" in error


def test_a_run_without_a_score_is_named(output, capsys):
    (output / "multitask-0" / "results.json").write_text(json.dumps({"metrics": SCORES | {"edge/odsF": None}}))
    assert run(output) == 2
    assert "multitask with seed 0 has no score edge/odsF" in capsys.readouterr().err


def test_overrides_and_arguments_reach_the_runs(output, monkeypatch):
    commands = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: commands.append(command) or subprocess.CompletedProcess(command, 1, "no"),
    )
    (output / "sak-0" / "results.json").unlink()
    with pytest.raises(RuntimeError, match="failed:\nno"):
        run(output, "--config.log_every", "7")
    assert f"--config={RECIPE},method=sak" in commands[0]
    assert commands[0][-4:] == ["--config.batch_size=16", "--config.log_every", "7", "--config.seed=0"]
