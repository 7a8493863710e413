"""The command line of the export: a checkpoint becomes a file, mistakes are told before any work."""

import jax
import numpy as np
import pytest
from flax import nnx

import sak_jax
from sak_jax import recipe
from tests import runs
from tools import export


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A checkpoint of a fresh tiny student."""
    from sak_jax.engine import checkpoints

    config, workdir = recipe.load(runs.TINY), tmp_path_factory.mktemp("run")
    checkpoints.write_model(workdir, "multitask", 12, recipe.plain(config), nnx.state(sak_jax.build(config)))
    return workdir


@pytest.mark.parametrize("platforms", [(), ("cpu",)])
def test_a_checkpoint_becomes_a_file(workdir, tmp_path, capsys, platforms):
    output = tmp_path / "new" / "tiny.stablehlo"
    flags = [f"--platforms={','.join(platforms)}"] if platforms else []
    assert export.main([f"--checkpoint={workdir}", f"--output={output}", "--uint8", *flags]) == 0
    assert "tiny.stablehlo" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    exported = jax.export.deserialize(bytearray(output.read_bytes()))
    assert exported.platforms == (platforms or ("cpu", "cuda", "tpu"))
    found = exported.call(images)
    normalised = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    wanted = sak_jax.load(workdir)(normalised.astype(np.float32)).predictions
    for task, value in wanted.items():
        np.testing.assert_allclose(found[task], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=task)


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--checkpoint=nowhere", "--output=x.onnx"], "nowhere"),
        (["--checkpoint=nowhere", "--output=x.pb"], ".stablehlo or .onnx"),
        (["--checkpoint=nowhere", "--output=old.onnx"], "--force"),
        (["--checkpoint=nowhere", "--output=folder.onnx", "--force"], "folder"),
        (["--output=x.onnx"], "--checkpoint"),
        (["--checkpoint=nowhere", "--output=x.onnx", "--platforms=cpu"], "--platforms is for StableHLO"),
        (["--checkpoint=nowhere", "--output=x.stablehlo", "--platforms=cpu,gpu"], "'gpu' is none of cpu, cuda, tpu"),
        (["--checkpoint=nowhere", "--outptu=x.onnx"], "--output"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "old.onnx").write_text("old")
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.onnx", "old.onnx"]
    assert (tmp_path / "old.onnx").read_text() == "old"


def test_force_replaces(workdir, tmp_path):
    output = tmp_path / "tiny.stablehlo"
    output.write_text("old")
    assert export.main([f"--checkpoint={workdir}", f"--output={output}", "--force"]) == 0
    assert output.stat().st_size > 1000
