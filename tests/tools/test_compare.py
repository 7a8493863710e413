import json
import subprocess

import pytest

from sak_jax import experiments, recipe
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

    def refuse(command, _):
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(experiments, "launch", refuse)
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
    assert "-0 was made by another config: multitask.lr is 0.001 there and 0.5 here" in error


def test_a_run_without_a_score_is_named(output, capsys):
    (output / "multitask-0" / "results.json").write_text(json.dumps({"metrics": SCORES | {"edge/odsF": None}}))
    assert run(output) == 2
    assert "multitask with seed 0 has no score edge/odsF" in capsys.readouterr().err


def test_overrides_and_arguments_reach_the_runs(output, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(
        experiments,
        "launch",
        lambda command, _: commands.append(command) or subprocess.CompletedProcess(command, 1, "no"),
    )
    (output / "sak-0" / "results.json").unlink()
    assert run(output, "--config.log_every", "7") == 1
    assert "the run ended with no; " in capsys.readouterr().err
    assert f"--config={RECIPE},method=sak" in commands[0]
    assert commands[0][-4:] == ["--config.batch_size=16", "--config.log_every", "7", "--config.seed=0"]


DUNE = str(runs.ROOT / "tests/recipes/tiny_dune.py")


def test_other_recipes_are_rows_with_overrides_of_their_own(output, monkeypatch, capsys):
    commands = []

    def train(command, _):
        commands.append(command)
        workdir = output / next(word for word in command if word.startswith("--workdir=")).split("/")[-1]
        workdir.mkdir()
        (workdir / "results.json").write_text(json.dumps({"metrics": SCORES | {"depth/RMSE": 0.5}}))
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(experiments, "launch", train)
    other = f"{runs.TINY}:method=multitask --config.multitask.lr=0.01"
    assert run(output, "--methods=single-task", f"--recipe={other}") == 0
    (command,) = commands
    assert f"--config={runs.TINY}:method=multitask" in command and command[-1] == "--config.multitask.lr=0.01"
    table = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in table[2:4]] == ["| single-task", f"| {other}"]
    assert table[3].endswith("| 20 | 0.5 | 50 | +16.67 ± 0.00 |")


def test_what_cannot_be_compared_is_refused_before_anything_starts(output, capsys):
    assert run(output, "--methods=single-task", f"--recipe={DUNE}") == 2
    assert "its tasks are not those of" in capsys.readouterr().err
    assert run(output, "--methods=sak,mean") == 2 and "mean is none of" in capsys.readouterr().err
    assert run(output, "--methods=no-router") == 2 and "name both" in capsys.readouterr().err
    for wrong in ("", " ", "--config.seed=1", 'a "b'):
        assert run(output, "--methods=", f"--recipe={wrong}") == 2
        error = capsys.readouterr().err
        assert f"--recipe={wrong}".strip() in error and error.count("\n") == 1
    assert run(output, "--methods=") == 2 and "something to compare" in capsys.readouterr().err
    assert run(output, "--output=") == 2 and "--output is empty" in capsys.readouterr().err
    assert run(output, "--methods=sak") == 2 and "no baseline for every task" in capsys.readouterr().err
