"""The teachers' command line, on a small model put into the registry."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.teachers import registry
from sak_jax.weights import files, names_timm, states
from tools.convert_teacher import main

NAME = "dinov2_tiny"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A registered teacher of 4 blocks of 32 channels."""
    base = registry.get("dinov2_base")
    config = dataclasses.replace(base.config, width=32, depth=4, heads=2, taps=(0, 1, 2, 3), image_size=(70, 70))
    teacher = dataclasses.replace(base, name=NAME, config=config)
    monkeypatch.setitem(registry.TEACHERS, NAME, teacher)
    return teacher


@pytest.fixture
def weights(small):
    """Its weights in timm's naming."""
    model = small.family.create(small.config, np.float32, nnx.Rngs(0))
    return states.export(model, names_timm.VIT.for_config(small.config)[0])


def save(path, weights):
    torch.save({key: torch.tensor(value) for key, value in weights.items()}, path)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_converted_teacher_loads_for_any_image_size(small, weights, tmp_path, capsys, kind):
    source, output = tmp_path / f"timm.{kind}", tmp_path / "new" / "folder"
    files.write_safetensors(source, weights) if kind == "safetensors" else save(source, weights)
    assert main([NAME, f"--input={source}", f"--output={output}"]) == 0
    assert f"wrote {output}/{NAME}.safetensors" in capsys.readouterr().out
    assert sorted(os.listdir(output)) == [f"{NAME}.json", f"{NAME}.safetensors"]
    described = json.loads((output / f"{NAME}.json").read_text())
    assert described["teacher"] == NAME and described["format"] == "timm" and described["file"] == source.name
    module, view = registry.load(NAME, (56, 87), directory=output)
    maps = module(view(jax.random.normal(jax.random.key(0), (1, 56, 87, 3))))
    assert [m.shape for m in maps] == [(1, 4, 6, 32)] * 4
    np.testing.assert_array_equal(module.class_token[...], weights["cls_token"])
    assert module.norm is None and described["final_norm"]


def test_the_final_norm_is_kept_and_given_on_request(weights, tmp_path):
    weights["norm.weight"] = np.linspace(1, 2, 32, dtype=np.float32)
    save(tmp_path / "timm.pth", weights)
    main([NAME, f"--input={tmp_path / 'timm.pth'}", f"--output={tmp_path}"])
    module, view = registry.load(NAME, (56, 87), directory=tmp_path, norm=True)
    np.testing.assert_array_equal(module.norm.scale[...], weights["norm.weight"])
    tokens = module.tokens(view(jax.random.normal(jax.random.key(0), (1, 56, 87, 3))), norm=True)
    assert tokens[-1].shape == (1, 1 + 24, 32)


def test_files_converted_without_the_final_norm_still_give_maps(weights, tmp_path, caplog):
    save(tmp_path / "timm.pth", {key: value for key, value in weights.items() if not key.startswith("norm.")})
    main([NAME, f"--input={tmp_path / 'timm.pth'}", f"--output={tmp_path}"])
    assert "timm.pth has no final norm" in caplog.text
    assert not json.loads((tmp_path / f"{NAME}.json").read_text())["final_norm"]
    module, _ = registry.load(NAME, (56, 87), directory=tmp_path)
    assert [m.shape for m in module(jnp.zeros((1, 56, 87, 3)))] == [(1, 4, 6, 32)] * 4
    with pytest.raises(UserError, match=f"without the final norm.*convert_teacher.py {NAME}"):
        registry.load(NAME, (56, 87), directory=tmp_path, norm=True)


def test_a_teacher_without_a_final_norm_says_so():
    with pytest.raises(UserError, match="rooms_scene has no final norm"):
        registry.load("rooms_scene", (72, 96), norm=True)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


def truncated(path, weights):
    save(path, weights)
    path.write_bytes(path.read_bytes()[:-20000])


DAMAGE = {
    "truncated": (truncated, ["not a whole"]),
    "runs code": (lambda path, weights: torch.save({"a": RunsCode()}, path), ["run code"]),
    "another model": (
        lambda path, w: save(path, {"conv1.weight": np.zeros((64, 3, 7, 7))}),
        ["conv1.weight", "format"],
    ),
    "missing key": (
        lambda path, w: save(path, {k: v for k, v in w.items() if k != "blocks.1.ls1.gamma"}),
        ["blocks.1.ls1.gamma", "missing"],
    ),
    "extra key": (lambda path, w: save(path, w | {"blocks.9.x": np.zeros(1)}), ["blocks.9.x", "no place"]),
    "wrong shape": (lambda path, w: save(path, w | {"cls_token": np.zeros((1, 1, 31))}), ["cls_token", "(1, 1, 31)"]),
    "not numbers": (
        lambda path, w: save(path, w | {"cls_token": np.full((1, 1, 32), np.nan, np.float32)}),
        ["class_token", "NaN"],
    ),
    "no file": (lambda path, w: None, ["no such file"]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_file_is_one_line_and_status_2_and_leaves_nothing(weights, tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    make, words = DAMAGE[damage]
    make(tmp_path / "x.pth", weights)
    assert main([NAME, f"--input={tmp_path / 'x.pth'}", f"--output={tmp_path / 'out'}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert all(word in captured.err for word in ["x.pth", *words])
    assert {entry.name for entry in tmp_path.iterdir()} <= {"x.pth"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dinov2_bass", "--output=x"], ["dinov2_bass", "dinov2_base"]),
        (["rooms_scene", "--output=x"], ["comes with the package"]),
        (["stem_bass", "--output=x"], ["stem_bass"]),
        (["stem_base", "--weights=ema"], ["--weights=ema", "one set of weights"]),
        ([NAME, "--output=x", "--inptu=y"], ["--inptu"]),
    ],
)
def test_a_mistyped_command_is_one_line_and_status_2(capsys, arguments, words):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words)


def test_without_a_network_the_address_is_told(tmp_path, capsys, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    assert main([NAME, f"--output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "huggingface.co/timm/vit_base_patch14_dinov2.lvd142m/resolve/main/model.safetensors" in error
    assert "--input=FILE" in error and not (tmp_path / "out").exists()


def test_missing_weights_name_the_file_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SAK_JAX_TEACHERS", str(tmp_path))
    with pytest.raises(UserError) as error:
        registry.load("dinov2_base", (448, 576))
    assert f"{tmp_path}/dinov2_base.safetensors" in str(error.value)
    assert f"python tools/convert_teacher.py dinov2_base --output={tmp_path}" in str(error.value)


def test_weights_of_another_teacher_are_refused(weights, tmp_path):
    save(tmp_path / "x.pth", weights)
    main([NAME, f"--input={tmp_path / 'x.pth'}", f"--output={tmp_path}"])
    (tmp_path / f"{NAME}.safetensors").rename(tmp_path / "dinov2_base.safetensors")
    with pytest.raises(UserError, match="holds the weights of dinov2_tiny, not of dinov2_base"):
        registry.load("dinov2_base", (448, 576), directory=tmp_path)
