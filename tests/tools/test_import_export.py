"""The command lines: exit status, one line for a mistake, nothing left behind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
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


def test_files_that_are_there_are_kept_unless_forced(weights, tmp_path, capsys, monkeypatch):
    student = save(tmp_path / "sak.pth", weights)
    assert import_pytorch.main([*RECIPE, f"--input={student}", f"--output={tmp_path / 'run'}"]) == 0
    arguments = [f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'out.pth'}"]
    (tmp_path / "out.safetensors").write_bytes(b"mine")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("sak_jax.predict.load", None)  # It is told before the checkpoint is read.
        assert export_pytorch.main(arguments) == 2
    error = capsys.readouterr().err
    assert "out.safetensors is there already" in error and "--force" in error and error.count("\n") == 1
    assert (tmp_path / "out.safetensors").read_bytes() == b"mine" and not (tmp_path / "out.pth").exists()
    assert export_pytorch.main([*arguments, "--force"]) == 0
    assert (tmp_path / "out.pth").exists() and (tmp_path / "out.safetensors").stat().st_size > 1000


def test_the_average_is_imported_where_it_is_asked_for(weights, tmp_path):
    tensors = {key: torch.tensor(value) for key, value in weights.items()}
    zeros = {key: 0 * value for key, value in tensors.items()}
    torch.save({"model": zeros, "model_ema": tensors}, tmp_path / "sak.pth")
    options = [f"--input={tmp_path / 'sak.pth'}", f"--output={tmp_path / 'run'}", "--weights=ema"]
    assert import_pytorch.main([*RECIPE, *options]) == 0
    assert export_pytorch.main([f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'b.safetensors'}"]) == 0
    assert_same(safetensors.numpy.load_file(tmp_path / "b.safetensors"), weights)


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


def not_numbers(path, weights):
    key = next(iter(weights))
    save(path, weights | {key: np.full_like(weights[key], np.nan)})


def integers(path, weights):
    key = next(iter(weights))
    save(path, weights | {key: np.ones(weights[key].shape, np.int8)})


@pytest.mark.parametrize("damage", [truncated, malicious, another_model, not_numbers, integers, None])
def test_a_bad_file_is_one_line_and_status_2(weights, tmp_path, damage, capsys):
    file = tmp_path / "sak.pth"
    if damage:
        damage(file, weights)
    before = sorted(tmp_path.iterdir())
    assert import_pytorch.main([*RECIPE, f"--input={file}", f"--output={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "sak.pth" in error
    assert sorted(tmp_path.iterdir()) == before and not (ROOT / "code-was-run").exists()


@pytest.mark.parametrize("output", ["sak.pth", "sak.pth/below"])
def test_an_output_that_cannot_be_written_is_told_before_the_file_is_read(tmp_path, capsys, monkeypatch, output):
    (tmp_path / "sak.pth").touch()
    monkeypatch.setattr("sak_jax.weights.files.read_weights", None)
    assert import_pytorch.main([*RECIPE, f"--input={tmp_path}/sak.pth", f"--output={tmp_path}/{output}"]) == 2
    error = capsys.readouterr().err
    assert "can't be written" in error and error.count("\n") == 1


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
