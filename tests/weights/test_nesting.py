"""Files of training runs: the weights that are meant, and that it is said which were taken."""

import logging

import numpy as np
import pytest
import torch

from sak_jax.errors import UserError
from sak_jax.weights.files import read_weights
from sak_jax.weights.nesting import unchunked

SHAPES = {"a.weight": (3, 2), "b.weight": (4,)}


def state(value, prefix=""):
    return {f"{prefix}{key}": torch.full(shape, float(value)) for key, shape in SHAPES.items()}


def read(tmp_path, content, **options):
    torch.save(content, tmp_path / "x.pth")
    return read_weights(tmp_path / "x.pth", **options)


def check(found, value):
    assert {key: array.shape for key, array in found.items()} == SHAPES
    assert all((array == value).all() for array in found.values())


BESIDE = {
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(100, 100)}}, "param_groups": [{"lr": 0.1}]},
    "rng_state": torch.zeros(816, dtype=torch.uint8),
    "epoch": 3,
}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        *(
            lambda s, key=key: {key: s}
            for key in ("state_dict", "model_state_dict", "model", "teacher", "student", "net", "ema", "my_weights")
        ),
        lambda s: {"checkpoint": {"model": {"state_dict": s}}},
    ],
)
def test_wrappers_are_taken_off(tmp_path, caplog, wrap):
    check(read(tmp_path, wrap(state(1))), 1)
    if "a.weight" not in wrap(state(1)):
        check(read(tmp_path, wrap(state(1)) | BESIDE), 1)
    assert not caplog.records


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."]
)
def test_prefixes_of_ddp_and_compile_are_taken_off(tmp_path, prefix):
    check(read(tmp_path, {"model": state(1, prefix)}), 1)


def test_compiled_submodules(tmp_path):
    content = {"a._orig_mod.weight": torch.ones(3, 2), "b._checkpoint_wrapped_module.weight": torch.ones(4)}
    check(read(tmp_path, content), 1)


def test_a_module_that_is_called_module_is_kept(tmp_path):
    found = read(tmp_path, {"module.weight": torch.ones(2), "head.weight": torch.ones(2)})
    assert found.keys() == {"module.weight", "head.weight"}


def test_it_is_said_which_weights_were_taken_and_which_there_are(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        check(read(tmp_path, {"model_ema": state(2), "model": state(1), "epoch": 3}), 1)
    assert "x.pth: took the weights in 'model'; it also holds 'model_ema' (--weights=model_ema" in caplog.text
    caplog.clear()
    check(read(tmp_path, {"model": state(2), "state_dict": state(1)}), 1)
    assert "took the weights in 'state_dict'; it also holds 'model'" in caplog.text


@pytest.mark.parametrize("wanted", ["ema", "model_ema", "EMA"])
def test_the_average_is_taken_where_it_is_asked_for(tmp_path, caplog, wanted):
    check(read(tmp_path, {"model_ema": state(2, "module."), "model": state(1)}, weights=wanted), 2)
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"teacher": state(2, "backbone."), "student": state(1, "backbone.")}, "teacher.backbone"),
        ({"model": state(2, "teacher.backbone.") | state(1, "student.backbone.")}, "teacher.backbone"),
        ({"model": state(2, "module.backbone.") | state(1, "module.head.")}, "backbone"),
        (state(2, "backbone.") | state(1, "head."), "backbone"),
        ({"model": state(1), "ema": state(2, "backbone.")}, "ema.backbone"),
    ],
)
def test_a_prefix_of_keys_can_be_asked_for(tmp_path, content, wanted):
    check(read(tmp_path, content, weights=wanted), 2)


@pytest.mark.parametrize(
    ("content", "wanted", "words"),
    [
        ({"model": state(1), "model_ema": state(2)}, "emma", "no weights are called 'emma'.*'model', 'model_ema'"),
        ({"ema_a": state(1), "ema_b": state(2)}, "ema", "several weights are called 'ema'.*'ema_a', 'ema_b'"),
        (state(1, "backbone.") | state(1, "head."), "ema", "can be 'backbone', 'head'"),
        ({"epoch": 3, "lr": 0.1}, "", r"holds no weights \(it holds epoch, lr\)"),
        ({"optimizer": BESIDE["optimizer"]}, "", "holds no weights"),
    ],
)
def test_what_is_not_there_is_one_line_with_what_is(tmp_path, content, wanted, words):
    with pytest.raises(UserError, match=f"x.pth: .*{words}"):
        read(tmp_path, content, weights=wanted)


def test_a_dict_that_holds_itself_is_read(tmp_path):
    content = {"model": state(1)}
    content["again"] = content
    check(read(tmp_path, content), 1)


def test_blocks_in_chunks():
    # DINOv2 counts on in each chunk; others start at 0 in each.
    on = {f"blocks.{i // 2}.{i}.norm1.weight": np.full(1, i) for i in range(6)}
    anew = {f"backbone.blocks.{i // 2}.{i % 2}.norm1.weight": np.full(1, i) for i in range(6)}
    assert unchunked(on | {"cls_token": 3}) == {f"blocks.{i}.norm1.weight": i for i in range(6)} | {"cls_token": 3}
    assert unchunked(anew) == {f"backbone.blocks.{i}.norm1.weight": i for i in range(6)}
    plain = {f"blocks.{i}.norm1.weight": i for i in range(12)}
    assert unchunked(plain) == plain
