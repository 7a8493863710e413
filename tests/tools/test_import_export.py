"""The command lines: exit status, one line for a mistake, nothing left behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sak_jax.methods.sak.pytorch import pytorch_state
from tests.methods.sak.cases import assert_same, save, tiny_student
from tools import export_pytorch, import_pytorch

ROOT = Path(__file__).parents[2]
RECIPE = (f"--config={ROOT}/tests/recipes/published.py", "--config.image_size=(32,32)", "--config.model.stem=tiny")


def run(tool, *arguments):
    command = [sys.executable, f"tools/{tool}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def weights():
    return pytorch_state(tiny_student((("semseg", 40), ("normals", 3), ("edge", 1), ("depth", 1))))


def test_there_and_back(weights, tmp_path):
    file = save(tmp_path / "sak.pth", weights)
    done = run("import_pytorch", *RECIPE, f"--input={file}", f"--output={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "multitask" in done.stdout
    done = run("export_pytorch", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'back.pth'}")
    assert done.returncode == 0, done.stderr
    tensors = torch.load(tmp_path / "back.pth", weights_only=True)
    assert_same({key: value.numpy() for key, value in tensors.items()}, weights)


class RunsCode:
    def __reduce__(self):
        return (Path.touch, (Path("code-was-run"),))


def truncated(path, weights):
    save(path, weights)
    path.write_bytes(path.read_bytes()[:-20000])


def malicious(path, weights):
    torch.save({"model": {key: torch.tensor(value) for key, value in weights.items()}, "hook": RunsCode()}, path)


def another_model(path, weights):
    save(path, {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})


@pytest.mark.parametrize("damage", [truncated, malicious, another_model, None])
def test_a_bad_file_is_one_line_and_status_2(weights, tmp_path, damage, capsys):
    file = tmp_path / "sak.pth"
    if damage:
        damage(file, weights)
    before = sorted(tmp_path.iterdir())
    assert import_pytorch.main([*RECIPE, f"--input={file}", f"--output={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "sak.pth" in error
    assert sorted(tmp_path.iterdir()) == before and not (ROOT / "code-was-run").exists()


@pytest.mark.parametrize(
    ("tool", "arguments", "word"),
    [
        (import_pytorch, ("--input=x.pth", "--output=y"), "--config"),
        (import_pytorch, (*RECIPE, "--output=y"), "--input"),
        (import_pytorch, (*RECIPE, "--config.model.stemm=tiny", "--input=x.pth", "--output=y"), "model.stemm"),
        (export_pytorch, ("--checkpoint=nowhere", "--output=y.pth"), "nowhere"),
        (export_pytorch, ("--checkpoint=nowhere",), "--output"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(tool, arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error
    assert not any(tmp_path.iterdir())
