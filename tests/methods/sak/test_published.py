import dataclasses
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from etils import epath
from flax import nnx

import sak_jax
from sak_jax import recipe as recipes
from sak_jax.engine import checkpoints, saving
from sak_jax.errors import UserError
from sak_jax.methods.sak import build
from sak_jax.methods.sak import start as handover
from sak_jax.methods.sak.keys import set_teachers
from sak_jax.methods.sak.published import export_student, import_student, read_backbone
from sak_jax.methods.sak.pytorch import pytorch_state
from sak_jax.methods.sak.student import merge_lora
from sak_jax.nn.resize import resize_positions
from sak_jax.nn.vit import LoRA
from tests.methods.sak.cases import (
    CASES,
    SHAPES,
    TINY_TASKS,
    abstract_student,
    assert_same,
    images,
    save,
    student_config,
    tiny_student,
    worst_error,
)
from tests.recipes import published
from tests.reference.formula_weights import formula_state


def tiny_recipe(tasks=TINY_TASKS, **model):
    config = published.get_config()
    config.image_size = (32, 32)
    config.model.stem = "tiny"
    config.tasks = {name: {} for name, _ in tasks}
    config.model.update(model)
    return config


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    weights = pytorch_state(tiny_student())
    return weights, save(tmp_path_factory.mktemp("tiny") / "sak.pth", weights, optimizer={"state": {}}, epoch=3)


@pytest.mark.parametrize("case", CASES)
def test_reference_outputs_by_import_and_load(case, tmp_path):
    weights = formula_state(SHAPES[case])
    stage = import_student(published.get_config(f"case={case}"), save(tmp_path / "sak.pth", weights), tmp_path / "run")
    assert stage == ("multitask" if CASES[case].tasks else "distill")
    student = sak_jax.load(tmp_path / "run")
    shutil.rmtree(tmp_path)  # Half a gigabyte a copy.
    # Of the standard deviation; rounding alone gives 1e-5.
    assert worst_error(student(images(case)), case) < 1e-4
    assert_same(pytorch_state(student.student), weights)


def test_export_loads_into_the_published_naming(tiny, tmp_path):
    weights, file = tiny
    import_student(tiny_recipe(), file, tmp_path / "run")
    written = export_student(tmp_path / "run", tmp_path / "out" / "sak.pth")
    assert [path.name for path in written] == ["sak.pth", "sak.safetensors"]
    tensors = torch.load(written[0], weights_only=True)
    assert_same({key: value.numpy() for key, value in tensors.items()}, weights)
    assert_same(safetensors.numpy.load_file(written[1]), weights)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sak.pth", "sak.safetensors"]


def test_a_leading_tilde_is_the_home_folder(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights, _ = tiny
    safetensors.numpy.save_file(weights, tmp_path / "sak.safetensors")
    import_student(tiny_recipe(), "~/sak.safetensors", "~/run")
    student = sak_jax.load("~/run").student
    assert_same(pytorch_state(student), weights)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(student))  # Not sent anew at every call.
    for start in ("~/run", "~/sak.safetensors"):
        assert dict(handover.read(start, tiny_recipe()).config.teachers) == dict(student.config.teachers)
    export_student("~/run", "~/back.safetensors")
    assert (tmp_path / "back.safetensors").exists()


def test_safetensors_come_and_go_without_pytorch(tiny, tmp_path, monkeypatch):
    weights, _ = tiny
    safetensors.numpy.save_file(weights, tmp_path / "sak.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    import_student(tiny_recipe(), tmp_path / "sak.safetensors", tmp_path / "run")
    export_student(tmp_path / "run", tmp_path / "back.safetensors")
    assert_same(safetensors.numpy.load_file(tmp_path / "back.safetensors"), weights)
    with pytest.raises(UserError, match=r"sak_jax\[torch\]"):
        export_student(tmp_path / "run", tmp_path / "other.pth")


def test_an_imported_student_is_no_run_to_resume(tiny, tmp_path):
    config = tiny_recipe()
    import_student(config, tiny[1], tmp_path / "run")
    manager = saving.Checkpoints(epath.Path(tmp_path / "run"), "multitask", recipes.plain(config))
    assert manager.newest == 10
    with pytest.raises(UserError, match="--config.init_from"):
        manager.restore(None, None)
    manager.close()


def test_a_used_output_is_left_alone(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        import_student(tiny_recipe(), tiny[1], tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("change", "recipe", "words"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "heads.edge.last_conv.bias"}, {}, "last_conv.bias.*missing"),
        (lambda w: w | {"backbone.vit.norm.bias": np.zeros(96, np.float32)}, {}, "vit.norm.bias.*no place"),
        (lambda w: w | {"backbone.vit.cls_token": np.zeros((1, 1, 95), np.float32)}, {}, r"\(1, 1, 95\)"),
        (lambda w: {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, {}, "conv1.weight"),
        (lambda w: w, {"image_size": (48, 48)}, "16 positions.*image_size"),
        (lambda w: w, {"tasks": {"semseg": {}}}, "heads.edge"),
        (lambda w: w, {"tasks": {"semseg": {"channels": 21}, "edge": {}}}, "heads.semseg.last_conv"),
        (lambda w: w, {"teachers": {"dinov2": {"model": "dinov2_base"}}}, "tsap.clip"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(tiny, tmp_path, change, recipe, words):
    config = tiny_recipe()
    for key, value in recipe.items():
        config[key] = value
    file = save(tmp_path / "sak.pth", change(tiny[0]))
    with pytest.raises(UserError, match=f"sak.pth.*{words}"):
        import_student(config, file, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["sak.pth"]


def test_aligners_of_some_teachers_only_are_not_exported(tmp_path):
    config = tiny_recipe(stem="custom", width=384, depth=4, heads=6, patch=16)
    set_teachers(config, {"dinov2": {"model": "dinov2_small"}, "sam": {"model": "sam_base"}})
    settings = build.student_config(config, "multitask")
    assert settings.aligners == ("sam",)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_student(settings))
    checkpoints.write_model(
        tmp_path / "run", "multitask", config.multitask.steps, recipes.plain(config), nnx.state(zeros)
    )
    with pytest.raises(UserError, match="aligners for sam only.*aligners=all"):
        export_student(tmp_path / "run", tmp_path / "sak.pth")
    with pytest.raises(UserError, match="must end in .pth or .safetensors"):
        export_student(tmp_path / "run", tmp_path / "sak.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("change", [{"paths": False, "router": "none"}, {"trunk": "shared"}])
def test_a_student_of_another_build_than_the_published_is_not_exported(tmp_path, change):
    config = tiny_recipe(**change)
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), abstract_student(build.student_config(config, "multitask"))
    )
    checkpoints.write_model(
        tmp_path / "run", "multitask", config.multitask.steps, recipes.plain(config), nnx.state(zeros)
    )
    with pytest.raises(UserError, match="run was made with model.paths or model.trunk changed"):
        export_student(tmp_path / "run", tmp_path / "sak.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_start_with_paths_is_none_for_a_student_without():
    with_paths = student_config("tiny", (32, 32), (), 768)
    source = handover.Source("runs/imagenet", {}, with_paths)
    with pytest.raises(UserError, match="runs/imagenet was made with model.paths=True, and here it is False"):
        handover.adapt(source, dataclasses.replace(with_paths, paths=False))


def test_low_rank_updates_are_kept_or_merged(tmp_path):
    lora = LoRA(3, 6.0, ("qkv", "proj"))
    student = tiny_student(tasks=(), lora=lora)
    file = save(tmp_path / "sak.pth", pytorch_state(student))
    with pytest.raises(UserError, match="lora.rank=3"):
        import_student(tiny_recipe(), file, tmp_path / "none")
    settings = {"lora": {"rank": 3, "alpha": 6.0, "targets": lora.targets}}
    import_student(tiny_recipe(**settings), file, tmp_path / "kept")
    assert_same(pytorch_state(sak_jax.load(tmp_path / "kept").student), pytorch_state(student))
    import_student(tiny_recipe(**settings), file, tmp_path / "merged", merge=True)
    merged = sak_jax.load(tmp_path / "merged").student
    assert merged.config.stem.lora is None
    expected = pytorch_state(merge_lora(jax.tree.map(jnp.asarray, student)))
    export_student(tmp_path / "kept", tmp_path / "exported.safetensors", merge=True)
    for weights in (pytorch_state(merged), safetensors.numpy.load_file(tmp_path / "exported.safetensors")):
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tasks", [(), (("depth", 1), ("sal", 2))])
def test_a_stage_starts_from_a_published_file_of_either_stage(tmp_path, tasks):
    # The file: other tasks, 48 x 48 pixels, and a teacher that the recipe leaves out.
    student = tiny_student(tasks, (48, 48))
    file = save(tmp_path / "sak.pth", pytorch_state(student))
    config = tiny_recipe()
    set_teachers(config, {"sam": {"model": "sam_base"}, "dinov2": {"model": "dinov2_base"}})
    source = handover.read(str(file), config)
    assert source.config.stem.image_size == (48, 48) and not source.config.tasks
    target = build.student_config(config, "multitask")
    weights = handover.adapt(source, target)
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(abstract_student(target)))}
    assert {path: value.shape for path, value in weights.items()} == {
        path: shape for path, shape in shapes.items() if path[0] not in ("routers", "heads")
    }
    up = student.adapters.blocks.up.kernel[...]
    np.testing.assert_array_equal(weights["adapters", "blocks", "up", "kernel"], up[:, [2, 0]])
    positions = student.stem.position_embedding[...]
    np.testing.assert_allclose(
        weights["stem", "position_embedding"],
        resize_positions(positions, (6, 6), (4, 4), prefix=1, antialias=False),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        # A student of base teachers for large ones, one without aligners for a recipe that has them.
        (
            {"teachers": (("sam", 96),), "aligners": ()},
            {"teachers": (("sam", 1024),)},
            "sam that is 96.*here it is 1024",
        ),
        ({}, {"teachers": (("clip", 1024),), "aligners": ("clip",)}, "clip that is 768 wide.*here it is 1024"),
        ({"aligners": ("clip", "sam")}, {}, "dinov2 .*without an aligner; here it is 768 wide, with:"),
    ],
)
def test_a_start_that_learned_from_teachers_of_another_width_is_refused(source, target, words):
    aligned = student_config("tiny", (32, 32), (), 768)
    source, target = dataclasses.replace(aligned, **source), dataclasses.replace(aligned, **target)
    with pytest.raises(UserError, match=f"runs/imagenet learned from a teacher {words}"):
        handover.adapt(handover.Source("runs/imagenet", {}, source), target)


def test_a_start_from_low_rank_weights_keeps_them_and_a_plain_one_has_none(tmp_path):
    settings = {"lora": {"rank": 3, "alpha": 6.0, "targets": ("qkv", "proj")}}
    for lora in (LoRA(3, 6.0, ("qkv", "proj")), None):
        student = tiny_student((), lora=lora)
        file = save(tmp_path / "sak.pth", pytorch_state(student))
        backbone = read_backbone(file, tiny_recipe(**settings))
        assert backbone.config.stem.lora == lora
        assert_same(pytorch_state(backbone), pytorch_state(student))


def test_a_start_from_another_models_file_is_refused(tmp_path):
    file = save(tmp_path / "resnet.pth", {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)})
    with pytest.raises(UserError, match="resnet.pth: key vit.pos_embed is missing"):
        read_backbone(file, tiny_recipe())
    file = save(tmp_path / "odd.pth", {"vit.pos_embed": np.zeros((1, 12, 96), np.float32)})
    with pytest.raises(UserError, match="odd.pth: vit.pos_embed has 11 positions, which is no square grid"):
        read_backbone(file, tiny_recipe())


def test_a_start_that_holds_no_numbers_is_refused(tmp_path):
    weights = pytorch_state(tiny_student((("depth", 1),)))
    key = next(key for key in weights if key.startswith("backbone.vit."))
    file = save(tmp_path / "sak.pth", weights | {key: np.full_like(weights[key], np.inf)})
    with pytest.raises(UserError, match=f"sak.pth: {key.removeprefix('backbone.')} holds NaN or infinity"):
        read_backbone(file, tiny_recipe())
