import argparse

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.dune.pytorch import (
    config_of,
    load_pytorch_state,
    pytorch_state,
    read_checkpoint,
    unic_statistics,
    without_prefixes,
)
from sak_jax.methods.dune.student import Followed, Student, StudentConfig, encoder_config
from tests.methods.dune.cases import TYPES, shapes
from tests.nn.filling import filled
from tests.reference.formula_weights import formula_state

CASES = ("student_tiny_56", "student_small_336", "student_base_448", "unic_tiny_64", "unic_base_224")


def abstract(config):
    return nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("case", CASES)
def test_published_weights_go_in_and_out_bit_for_bit(case):
    weights = formula_state(shapes(case))
    model = abstract(config_of(weights))
    load_pytorch_state(model, weights)
    assert_same(pytorch_state(model), weights)


def test_what_is_read_from_the_shapes_of_a_published_student():
    config = config_of({key: np.broadcast_to(np.zeros(()), shape) for key, shape in shapes("student_base_448").items()})
    encoder = config.encoder
    assert (encoder.width, encoder.depth, encoder.heads, encoder.patch) == (768, 12, 12, 14)
    assert (encoder.image_size, encoder.registers, encoder.layer_scale) == ((448, 448), 4, True)
    assert config.teachers == tuple(Followed(name, 1024, kinds) for name, kinds in TYPES.items())
    assert (config.projector, config.standardise) == ("transformer", "batch")
    config = config_of({key: np.broadcast_to(np.zeros(()), shape) for key, shape in shapes("unic_base_224").items()})
    assert (config.projector, config.hidden, config.last_hidden) == ("ladder", 768, 3072)
    assert [teacher.tokens for teacher in config.teachers] == [("cls", "patch")] * 4
    assert (config.encoder.image_size, config.standardise) == ((224, 224), "none")


def as_tensors(tree):
    return jax.tree.map(lambda x: torch.tensor(np.array(x)), tree)


@pytest.mark.parametrize("projector, standardise", [("mlp", "none"), ("ladder", "running"), ("transformer", "phi_s")])
def test_students_that_were_never_published_go_in_and_out_too(projector, standardise, tmp_path):
    teachers = (Followed("a", 16, ("patch",)), Followed("b", 24))
    encoder = encoder_config("tiny", (28, 28))
    config = StudentConfig(encoder, teachers, projector=projector, hidden=32, last_hidden=48, standardise=standardise)
    model = filled(lambda: Student(config, rngs=nnx.Rngs(0)))
    weights = pytorch_state(model)
    if standardise == "running":
        torch.save(
            {"model": as_tensors(weights), "teacher_ft_stats": as_tensors(unic_statistics(model))}, tmp_path / "a.pth"
        )
        assert not any(key.startswith("teacher_") for key in weights)
        weights = read_checkpoint(tmp_path / "a.pth")
        assert weights["teacher_ft_stats.a.patch.mean"].shape == (1, 1, 16)
        assert weights["teacher_ft_stats.b.cls.std"].shape == (1, 24)
    again = abstract(config_of(weights))
    load_pytorch_state(again, weights)
    assert again.config.standardise == standardise
    jax.tree.map(np.testing.assert_array_equal, again.running_statistics(), model.running_statistics())
    found, wanted = (jax.jit(lambda m: m(jnp.ones((1, 28, 28, 3))))(m) for m in (again, model))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_file_as_the_training_code_writes_it(tmp_path):
    weights = formula_state(shapes("student_tiny_56"))
    args = argparse.Namespace(image_size=56, enc_args={"depth": 12}, teachers=["a"], lr_schedule=np.linspace(0, 1, 5))
    args.mu_schedule = np.arange(3, dtype=np.float32)
    state = {f"module._orig_mod.{key}": torch.tensor(value) for key, value in weights.items()}
    torch.save({"model": state, "iter": 7, "args": args}, tmp_path / "dune.pth")
    read = read_checkpoint(tmp_path / "dune.pth")
    assert_same(read, weights)
    assert_same(without_prefixes({f"module._orig_mod.{key}": value for key, value in weights.items()}), weights)
    model = abstract(config_of(read))
    load_pytorch_state(model, read)
    assert_same(pytorch_state(model), weights)


def test_files_of_something_else_are_refused():
    weights = formula_state(shapes("student_tiny_56"))
    with pytest.raises(UserError, match="x.pth: encoder.pos_embed is missing"):
        config_of({"a": np.zeros(1)}, name="x.pth")
    with pytest.raises(UserError, match="no projectors; give the whole student"):
        config_of({key: value for key, value in weights.items() if key.startswith("encoder.")}, name="x.pth")
    narrow = {key: value[..., :100] if key == "encoder.pos_embed" else value for key, value in weights.items()}
    with pytest.raises(UserError, match="12 blocks of width 100 .* are no published encoder"):
        config_of(narrow)
    model = abstract(config_of(weights))
    del weights["encoder.mask_token"]
    with pytest.raises(UserError, match="key encoder.mask_token, which mask_token needs, is missing"):
        load_pytorch_state(model, weights)
