"""Published files of DUNE and UNIC to checkpoints of ours and back."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx

import sak_jax
from sak_jax import recipe
from sak_jax.errors import UserError
from sak_jax.methods import published as dispatch
from sak_jax.methods.dune import published, start
from sak_jax.methods.dune.pytorch import config_of, load_pytorch_state, pytorch_state, unic_statistics
from sak_jax.methods.dune.student import Followed, Student, StudentConfig, encoder_config
from tests import runs
from tests.methods.dune.cases import TYPES, images, shapes
from tests.nn.filling import filled
from tests.reference.formula_weights import formula_state


def dune(text="stem=tiny"):
    return recipe.load(str(runs.ROOT / f"configs/dune.py:{text}"), ["--config.dtype=float32"])


def save(path, weights, **more):
    content = {"model": {key: torch.tensor(np.array(value)) for key, value in weights.items()}}
    torch.save(content | more, path)
    return path


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    weights = formula_state(shapes("student_tiny_56"))
    args = argparse.Namespace(image_size=56, lr_schedule=np.linspace(0, 1, 5))
    file = save(folder / "dune.pth", weights, args=args, iter=7)
    module = dispatch.of_method("dune")
    assert module.import_student(dune(), file, folder / "run") == "distill"
    return folder, weights


def test_a_published_student_is_loaded_and_computes_what_it_did(imported):
    folder, weights = imported
    student = sak_jax.load(folder / "run")
    model = nnx.eval_shape(lambda: Student(config_of(weights), rngs=nnx.Rngs(0)))
    load_pytorch_state(model, weights)
    assert student.config.image_size == (56, 56) and student.student.config.teachers == model.config.teachers
    rows = {name: student.config.teachers[name] for name in TYPES}
    assert rows["mast3r_vitlarge_16"]["model"] == "mast3r_large"
    assert rows["mast3r_vitlarge_16"]["normalisation"] == "native"  # The recipe's own settings stay.
    pictures = jnp.asarray(images("image", 2, (56, 56)))
    expected = jax.jit(lambda model, x: model(x))(model, pictures)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), student(pictures), expected)


def test_it_goes_out_again_bit_for_bit(imported, tmp_path):
    folder, weights = imported
    written = dispatch.of_checkpoint(folder / "run").export_student(folder / "run", tmp_path / "back.pth")
    assert [path.name for path in written] == ["back.pth", "back.safetensors"]
    tensors = torch.load(written[0], weights_only=True)
    assert_same({key: value.numpy() for key, value in tensors.items()}, weights)
    assert_same(safetensors.numpy.load_file(written[1]), weights)


def test_a_stage_starts_from_a_published_file(imported):
    folder, weights = imported
    config = recipe.from_dict(recipe.plain(sak_jax.load(folder / "run").config))
    config.init_from, config.image_size = str(folder / "dune.pth"), (70, 84)
    found = start.distillation(config).weights
    assert found["projectors", "mast3r_vitlarge_16", "output", "kernel"].shape == (192, 1024)
    np.testing.assert_array_equal(
        found["encoder", "patch_embed", "projection", "bias"], weights["encoder.patch_embed.proj.bias"]
    )
    assert found[start.POSITIONS].shape == (1, 1 + 5 * 6, 192)
    heads = start.multitask(config, None).weights
    assert {path[0] for path in heads} == {"encoder"} and heads[start.POSITIONS].shape == (1, 31, 192)


def test_a_student_of_unic_keeps_its_ladder_and_statistics(tmp_path):
    encoder = encoder_config("tiny", (32, 32), patch=16, registers=0, layer_scale=False)
    teachers = (Followed("dino_vitbase_16", 16), Followed("ibot_vitbase_16", 24))
    config = StudentConfig(encoder, teachers, projector="ladder", hidden=32, last_hidden=48, standardise="running")
    model = filled(lambda: Student(config, rngs=nnx.Rngs(0)))
    weights = pytorch_state(model)
    tensors = jax.tree.map(lambda x: torch.tensor(np.array(x)), unic_statistics(model))
    published.import_student(dune(), save(tmp_path / "unic.pth", weights, teacher_ft_stats=tensors), tmp_path / "run")
    student = sak_jax.load(tmp_path / "run").student
    assert student.config.teachers == teachers and student.config.projector == "ladder"
    assert student.config.encoder == encoder
    jax.tree.map(np.testing.assert_array_equal, student.running_statistics(), model.running_statistics())
    published.export_student(tmp_path / "run", tmp_path / "back.safetensors")
    assert_same(safetensors.numpy.load_file(tmp_path / "back.safetensors"), weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "encoder.norm.bias"}, "encoder.norm.bias.*missing"),
        (lambda w: w | {"encoder.extra": np.zeros(3, np.float32)}, "encoder.extra"),
        (lambda w: w | {"encoder.cls_token": w["encoder.cls_token"] * np.nan}, "cls_token"),
        (lambda w: {k: v for k, v in w.items() if k.startswith("encoder.")}, "no projectors"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(imported, tmp_path, change, words):
    file = save(tmp_path / "dune.pth", change(imported[1]))
    with pytest.raises(UserError, match=words):
        published.import_student(dune(), file, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["dune.pth"]


def test_each_method_has_its_own(tmp_path):
    with pytest.raises(UserError, match="config.method is sak"):
        published.import_student(recipe.base(), tmp_path / "a.pth", tmp_path / "run")
    with pytest.raises(UserError, match="foundation.*sak and dune"):
        dispatch.of_method("foundation")
    with pytest.raises(UserError, match="no checkpoint"):
        dispatch.of_checkpoint(tmp_path)
