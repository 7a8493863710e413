"""The teachers of DUNE: their files' layouts, and their tokens at a small size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.dune.pytorch import TEACHERS
from sak_jax.nn import resize, vit
from sak_jax.teachers import conversion, registry
from sak_jax.teachers.committee import Committee
from sak_jax.teachers.views import View
from sak_jax.weights import files, rules, states
from tests.methods.dune.cases import TYPES, deviations, images, reference, shapes
from tests.reference.formula_weights import formula_input, formula_state

WRAPPERS = dict(zip(TYPES, (None, "model", "model_state_dict"), strict=True))
TOLERANCE = 2e-5


def entry(name):
    """The registry's entry as DUNE's code has it: positions by DINOv2's rule."""
    teacher = registry.get(TEACHERS[name])
    return dataclasses.replace(teacher, config=dataclasses.replace(teacher.config, position_offset=0.1))


@functools.cache
def tiny(name):
    teacher = entry(name)
    image_size = (70, 70) if teacher.config.patch == 14 else (64, 96)
    config = dataclasses.replace(teacher.config, width=192, depth=4, heads=3, taps=(0, 1, 2, 3), image_size=image_size)
    teacher = dataclasses.replace(teacher, config=config)
    found = conversion.read(teacher, formula_state(shapes(f"teacher_tiny_{name}")), name)
    return teacher, states.like(nnx.state(registry.abstract(teacher, found.config)), found.arrays)


def tokens(name, pictures, size, **view):
    """The teacher's tokens of the student's images, through its final norm."""
    teacher, state = tiny(name)
    view = registry.view_of(teacher, **view)
    module = registry.fitted(teacher, state, teacher.for_size(view.on_grid(size), norm=True))
    committee = Committee({name: module}, {name: view})
    kinds = TYPES[name] if teacher.config.class_token is False else ("cls", "patch")
    return jax.jit(lambda committee, images: committee.tokens(images, {name: kinds}))(committee, pictures)[name]


@pytest.mark.parametrize("name", ["dino2reg_vitlarge_14", "multihmr_vitlarge_14_672"])
def test_tokens_of_both_dinov2_teachers(name):
    found = tokens(name, jnp.asarray(images("image", 2, (56, 84))), (56, 84))
    for kind in ("cls", "patch"):
        assert deviations(found[kind], reference("dune_teacher_dinov2")[f"{name}/{kind}"]) < TOLERANCE


def test_tokens_of_mast3r():
    name, wanted = "mast3r_vitlarge_16", reference("dune_teacher_mast3r")
    found = tokens(name, jnp.asarray(images("image", 2, (64, 96))), (64, 96))
    assert deviations(found["patch"], wanted["features"]) < TOLERANCE
    pictures = jnp.asarray(images("student_image", 2, (56, 84)))
    found = tokens(name, pictures, (56, 84), normalisation="native", student_patch=14)
    assert deviations(found["patch"], wanted["through_student_image"]) < 3e-5


def test_the_rotation_of_croco():
    wanted = reference("dune_teacher_mast3r")
    x = formula_input("tokens", (1, 3, 24, 64)).transpose(0, 2, 1, 3)
    swap = lambda x: x.reshape(1, 24, 3, 2, 2, 16).swapaxes(3, 4).reshape(x.shape)  # noqa: E731
    cosines, sines = vit.rotary_tables(100.0, (4, 6), 64, 0, counts=True)
    found = swap(np.asarray(vit._rotate(jnp.asarray(swap(x)), cosines, sines))).transpose(0, 2, 1, 3)
    assert deviations(found, wanted["rotated"]) < 1e-6


@pytest.mark.parametrize("size", ["56x56", "84x84", "56x84", "336x336", "448x448"])
def test_the_teachers_image(size):
    height, width = map(int, size.split("x"))
    view = View(patches=(16, 14))
    wanted = reference("dune_teacher_image")
    assert view.on_grid((height, width)) == tuple(wanted[f"{size}/size"])
    found = jax.jit(view)(jnp.asarray(images("image", 1, (height, width)))).transpose(0, 3, 1, 2)
    step = 16 if height > 100 else 2
    # PyTorch computes the source coordinate in float32.
    assert deviations(found[..., ::step, ::step], wanted[f"{size}/resized"]) < (2e-4 if height > 100 else 6e-5)


@pytest.mark.parametrize("name", TYPES)
def test_the_published_file_has_the_keys_that_are_wanted(name):
    teacher = entry(name)
    naming = next(f for f in teacher.formats if f.name in ("DINOv2", "MASt3R", "Multi-HMR"))
    table, _ = naming.for_config(teacher.config)
    wanted = rules.wanted_shapes(states.flat(nnx.state(registry.abstract(teacher, teacher.config))), table)
    published = {
        key.removeprefix("backbone.encoder."): tuple(shape) for key, shape in shapes(f"teacher_large_{name}").items()
    }
    published.pop("mask_token", None)
    assert wanted == published


@pytest.mark.parametrize("name", TYPES)
def test_a_file_in_the_published_layout_is_converted(name, tmp_path, monkeypatch):
    teacher, state = tiny(name)
    monkeypatch.setitem(registry.TEACHERS, teacher.name, teacher)
    weights = {key: torch.tensor(value) for key, value in formula_state(shapes(f"teacher_tiny_{name}")).items()}
    if name == "mast3r_vitlarge_16":
        rest = shapes("teacher_large_mast3r_vitlarge_16_rest")
        weights |= {key: torch.zeros(()) for key in rest}
    if name == "multihmr_vitlarge_14_672":
        weights |= {"x_attention_head.init_body_pose": torch.zeros(3), "fovn": torch.zeros(1)}
    content = {WRAPPERS[name]: weights, "epoch": 3} if WRAPPERS[name] else weights
    torch.save(content, tmp_path / "published.pth")
    written = conversion.convert_teacher(teacher.name, tmp_path, tmp_path / "published.pth")
    arrays = files.read_weights(written)
    flat = {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
    assert set(arrays) == set(flat) and "norm.scale" in arrays
    for key, value in flat.items():
        np.testing.assert_array_equal(arrays[key], value)
    module, view = registry.load(
        teacher.name, (56, 84), directory=tmp_path, norm=True, student_patch=14, position_offset=0.1
    )
    assert module.config.grid == (4, 6) and view.on_grid((56, 84)) == ((64, 96) if "mast3r" in name else (56, 84))
    if module.position_embedding is not None:
        lead = resize.resize_positions(
            flat["position_embedding"], (5, 5), (4, 6), prefix=1, antialias=False, offset=0.1
        )
        np.testing.assert_allclose(module.position_embedding[...], lead, atol=1e-6)


def test_what_a_committee_cannot_give_is_refused():
    teacher, state = tiny("mast3r_vitlarge_16")
    committee = Committee({"a": registry.fitted(teacher, state, teacher.for_size((32, 32)))}, {"a": View()})
    with pytest.raises(UserError, match="teacher a has no class token"):
        committee.tokens(jnp.ones((1, 32, 32, 3)), {"a": ("cls",)})
    with pytest.raises(UserError, match="sam_base pads its image"):
        registry.view_of(registry.get("sam_base"), student_patch=14)
    with pytest.raises(UserError, match="sam_base.position_offset"):
        registry.load("sam_base", (64, 64), position_offset=0.1)
    with pytest.raises(UserError, match="fetch https://download.europe.naverlabs.com"):
        conversion.convert_teacher("multihmr_large", "/nowhere")
