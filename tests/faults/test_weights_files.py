"""Weight files as people have them: wrapped, prefixed, averaged, in chunks, at other sizes, or something else."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.teachers import conversion, registry
from sak_jax.weights import files, names_authors, names_timm, states
from tools.convert_teacher import main

NAME = "dinov2_tiny"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A registered DINOv2 of 4 blocks of 32 channels, for images of 70 pixels."""
    base = registry.get("dinov2_base")
    config = dataclasses.replace(base.config, width=32, depth=4, heads=2, taps=(0, 1, 2, 3), image_size=(70, 70))
    teacher = dataclasses.replace(base, name=NAME, config=config)
    monkeypatch.setitem(registry.TEACHERS, NAME, teacher)
    return teacher


def named(config, naming, seed=0):
    """Random weights of `config` in a naming."""
    model = registry.get(NAME).family.create(config, np.float32, nnx.Rngs(seed))
    return states.export(model, naming.for_config(config)[0])


@pytest.fixture
def weights(small):
    return named(small.config, names_timm.VIT)


def convert(tmp_path, content, *options):
    """Converts a file of `content`; returns the status."""
    wrap = lambda x: {k: wrap(v) for k, v in x.items()} if isinstance(x, dict) else torch.from_numpy(np.array(x))  # noqa: E731
    torch.save(wrap(content), tmp_path / "run.pth")
    return main([NAME, f"--input={tmp_path / 'run.pth'}", f"--output={tmp_path / 'out'}", *options])


def cls_token(tmp_path):
    return files.read_weights(tmp_path / "out" / f"{NAME}.safetensors")["class_token"]


@pytest.mark.parametrize(
    ("wrap", "options"),
    [
        (lambda w: {"teacher": w}, []),
        (lambda w: {"student": w}, []),
        (lambda w: {"net": {f"module.{key}": value for key, value in w.items()}}, []),
        (lambda w: {f"_orig_mod.{key}": value for key, value in w.items()}, []),
        (lambda w: {"teacher": {f"backbone.{key}": value for key, value in w.items()}}, ["--weights=backbone"]),
        (lambda w: {f"teacher.backbone.{key}": v for key, v in w.items()}, ["--weights=teacher.backbone"]),
        (lambda w: {"model": {key: 0 * value for key, value in w.items()}, "model_ema": w}, ["--weights=ema"]),
    ],
)
def test_a_training_runs_file_is_converted(weights, tmp_path, wrap, options):
    assert convert(tmp_path, wrap(weights), *options) == 0
    np.testing.assert_array_equal(cls_token(tmp_path), weights["cls_token"])


def test_a_file_with_an_average_says_which_weights_it_took(weights, tmp_path, caplog):
    assert convert(tmp_path, {"model": weights, "model_ema": {k: 0 * v for k, v in weights.items()}}) == 0
    assert "took the weights in 'model'; it also holds 'model_ema' (--weights=model_ema takes those)" in caplog.text
    np.testing.assert_array_equal(cls_token(tmp_path), weights["cls_token"])


def test_a_prefix_that_was_not_asked_for_is_named(weights, tmp_path, capsys):
    both = {f"{part}.backbone.{key}": v for part in ("teacher", "student") for key, v in weights.items()}
    assert convert(tmp_path, both | {"teacher.head.weight": np.zeros(3, np.float32)}) == 2
    error = capsys.readouterr().err
    assert "run.pth: the weights have the prefix teacher.backbone. or student.backbone." in error
    assert "--weights=teacher.backbone" in error


@pytest.mark.parametrize("anew", [False, True])
def test_dinov2s_blocks_in_chunks(small, tmp_path, anew):
    weights = named(small.config, names_authors.DINOV2) | {"mask_token": np.zeros((1, 32), np.float32)}
    chunked = {}
    for key, value in weights.items():
        head, *rest = key.split(".")
        if head == "blocks":
            block = int(rest[0])
            key = ".".join(["blocks", str(block // 2), str(block % 2 if anew else block), *rest[1:]])
        chunked[key] = value
    assert convert(tmp_path, {"teacher": {f"backbone.{k}": v for k, v in chunked.items()}}, "--weights=backbone") == 0
    found = files.read_weights(tmp_path / "out" / f"{NAME}.safetensors")["blocks.mlp.up.bias"]
    np.testing.assert_array_equal(found, np.stack([weights[f"blocks.{i}.mlp.fc1.bias"] for i in range(4)]))


def test_what_publishers_always_add_is_left_out(weights, tmp_path):
    extra = {
        key: np.zeros((3, 32), np.float32)
        for key in ("mask_token", "head.weight", "head.bias", "fc_norm.weight", "head_dist.bias", "rope.periods")
    }
    native = dataclasses.replace(registry.get(NAME), formats=(names_timm.VIT,))
    converted = conversion.read(native, weights | extra, "x.safetensors")
    assert converted.arrays.keys() == conversion.read(native, weights, "x").arrays.keys()


def test_a_position_table_of_another_size_is_kept_and_resized_once(small, tmp_path, caplog, capsys):
    other = dataclasses.replace(small.config, image_size=(42, 42))
    weights = named(other, names_timm.VIT)
    assert convert(tmp_path, weights) == 0
    assert (
        "its position table is for 42 pixels (3 x 3 patches), that of dinov2_tiny for 70 pixels (5 x 5 patches)"
        in caplog.text
    )
    assert json.loads((tmp_path / "out" / f"{NAME}.json").read_text())["image_size"] == [42, 42]
    images = np.random.default_rng(0).standard_normal((1, 56, 87, 3)).astype(np.float32)
    run = jax.jit(lambda module, images: module(images))
    found = run(registry.load(NAME, (56, 87), directory=tmp_path / "out")[0], images)
    # What a teacher made for 42 pixels gives when it is resized to this image by its family's rule.
    native = dataclasses.replace(small, config=other)
    state = states.like(registry.abstract(native, other), conversion.read(native, weights, "x").arrays)
    wanted = run(registry.fitted(native, state, native.for_size((56, 87))), images)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_position_table_that_is_not_square_is_named(weights, tmp_path, capsys):
    weights["pos_embed"] = np.zeros((1, 1 + 23, 32), np.float32)
    assert convert(tmp_path, weights) == 2
    assert (
        "pos_embed has 23 positions, which is no square grid, and the model's own has 5 x 5" in capsys.readouterr().err
    )


def test_a_position_table_of_another_width_is_named(weights, tmp_path, capsys):
    weights["pos_embed"] = np.zeros((1, 26, 48), np.float32)
    assert convert(tmp_path, weights) == 2
    assert "pos_embed has shape (1, 26, 48), not (1, 26, 32)" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(128, 128), (64, 128)])
def test_sams_positions_of_another_size(size):
    sam = registry.get("sam_base")
    config = dataclasses.replace(sam.config, width=32, heads=2, image_size=(256, 256))
    sam = dataclasses.replace(sam, config=config)
    other = dataclasses.replace(config, image_size=size)
    model = sam.family.create(other, np.float32, nnx.Rngs(0))
    weights = states.export(model, names_timm.SAM.table(other), labels=names_timm.SAM.labels(other))
    converted = conversion.read(sam, weights, "sam.safetensors")
    assert converted.config.image_size == size
    for path, value in states.flat(model).items():
        np.testing.assert_array_equal(converted.arrays[path], value)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, bool])
def test_weights_of_integers_are_refused_by_name(weights, dtype):
    weights["cls_token"] = np.ones((1, 1, 32), dtype)
    with pytest.raises(UserError, match=f"x.pth: cls_token is {np.dtype(dtype)}, of a quantised model perhaps"):
        conversion.read(registry.get(NAME), weights, "x.pth")


def test_an_output_that_is_there_is_kept_unless_forced(weights, tmp_path, capsys):
    assert convert(tmp_path, weights) == 0
    before = (tmp_path / "out" / f"{NAME}.safetensors").read_bytes()
    weights["cls_token"] = weights["cls_token"] + 1
    assert convert(tmp_path, weights) == 2
    assert f"{NAME}.safetensors is there already; give another name, or --force" in capsys.readouterr().err
    assert (tmp_path / "out" / f"{NAME}.safetensors").read_bytes() == before
    assert convert(tmp_path, weights, "--force") == 0
    np.testing.assert_array_equal(cls_token(tmp_path), weights["cls_token"])


@pytest.mark.parametrize("output", ["file", "file/below", "n" * 300, "link", "http://example.org/x"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys, monkeypatch, output):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at" / "all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "read_weights", None)
    assert main([NAME, "--input=missing.pth", f"--output={output}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and output[:60] in error and "missing.pth" not in error


@pytest.mark.parametrize("source", ["https://huggingface.co/x/model.safetensors", "s3://bucket/x.pth"])
def test_an_address_for_an_input_is_one_line(tmp_path, capsys, source):
    assert main([NAME, f"--input={source}", f"--output={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert source in error and "paths are local or gs://" in error and error.count("\n") == 1


def test_without_a_home_a_tilde_makes_no_folder_of_that_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert main([NAME, "--input=missing.pth", "--output=~/teachers"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())
