"""Every entry of the registry: its arrays are those of the reference, and its maps have the right shapes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.teachers import registry
from sak_jax.weights import names_timm as timm_names
from sak_jax.weights import rules, states

NAMES = [name for name, teacher in registry.TEACHERS.items() if not teacher.packaged]
ELSEWHERE = {
    "openclip_base": "vit_base_patch16_clip_224",
    "openclip_large": "vit_large_patch14_clip_224",
    "dfnclip_base": "vit_base_patch16_clip_224",
    "dfnclip_large": "vit_large_patch14_clip_224",
    "dfnclip_huge": "vit_huge_patch14_clip_378",
    "siglip_base": "vit_base_patch16_siglip_512",
    "siglip_large": "vit_large_patch16_siglip_384",
    "siglip_so400m": "vit_so400m_patch14_siglip_384",
    "siglip2_base": "vit_base_patch16_siglip_512",
    "siglip2_large": "vit_large_patch16_siglip_512",
    "siglip2_so400m": "vit_so400m_patch14_siglip_384",
    "dinov3_small": "vit_small_patch16_dinov3_qkvb",
    "dinov3_base": "vit_base_patch16_dinov3_qkvb",
    "dinov3_large": "vit_large_patch16_dinov3_qkvb",
    "dinov3_huge_plus": "vit_huge_plus_patch16_dinov3_qkvb",
    "dinov3_7b": "vit_7b_patch16_dinov3",
    "theia_small": "vit_small_patch16_224",
    "theia_base": "vit_base_patch16_224",
    "multihmr_large": "vit_large_patch14_dinov2",
}
"""timm's model of the same architecture, where the weights are not timm's."""

TABLES = {"dinov3_7b": timm_names.DINOV3} | {
    name: timm_names.DINOV3_WITH_BIASES for name in ELSEWHERE if name.startswith("dinov3") and "7b" not in name
}


@pytest.mark.parametrize("name", [n for n in NAMES if "radio" not in n and "mast3r" not in n])
def test_arrays_are_timms(name):
    teacher = registry.get(name)
    with torch.device("meta"):
        reference = timm.create_model(ELSEWHERE.get(name) or re.split(r"[/.]", teacher.source)[1], num_classes=0)
    default = {"sam": timm_names.SAM, "swin": timm_names.SWIN}.get(name.split("_")[0], timm_names.VIT)
    found = TABLES.get(name, default)
    native = registry.abstract(teacher, teacher.config)
    table, drop = found.for_config(teacher.config)
    wanted = rules.wanted_shapes(states.flat(native), table, labels=found.labels(teacher.config))
    shapes = {key: tuple(value.shape) for key, value in reference.named_parameters()}
    assert wanted == {key: shape for key, shape in shapes.items() if not re.fullmatch("|".join(drop), key)}


@pytest.mark.parametrize(("name", "reference"), [("cradio3_large", "large"), ("cradio3_huge", "huge")])
def test_radio_has_as_many_parameters_as_timms(name, reference):
    teacher = registry.get(name)
    with torch.device("meta"):
        model = timm.create_model(f"vit_{reference}_patch16_radio_v3", num_classes=0)
    ours = sum(x.size for x in jax.tree.leaves(nnx.state(registry.abstract(teacher, teacher.config))))
    # timm keeps a zero bias of the patches, and positions for 512 pixels instead of 2048.
    wanted = sum(x.numel() for x in model.parameters()) - teacher.width + (128**2 - 32**2) * teacher.width
    assert ours == wanted


@pytest.mark.parametrize("name", NAMES)
def test_maps_at_the_size_of_nyud(name):
    teacher = registry.get(name)
    size = (448, 576)
    config = teacher.for_size(size)
    images = jax.ShapeDtypeStruct((2, *config.image_size, 3), jnp.float32)
    module = registry.abstract(teacher, config, jnp.bfloat16)
    maps = jax.eval_shape(lambda module, images: module(images), module, images)
    grid = tuple(side // config.patch for side in config.image_size)
    grids = list(config.grids()) if name.startswith("swin") else [grid] * 4
    assert [m.shape for m in maps] == [(2, *g, w) for g, w in zip(grids, teacher.widths, strict=True)]
    assert {m.dtype for m in maps} == {jnp.dtype(jnp.bfloat16)}


def test_views_are_the_same_image_in_other_clothes():
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 448, 576, 3)), jnp.float32)
    pixels = images * np.array((0.229, 0.224, 0.225), np.float32) + np.array((0.485, 0.456, 0.406), np.float32)
    siglip = registry.view_of(registry.get("siglip_base"), normalisation="native")
    np.testing.assert_allclose(siglip(images), (pixels - 0.5) / 0.5, atol=1e-6)
    assert registry.view_of(registry.get("siglip_base"))(images) is images
    with pytest.raises(UserError, match="natvie"):
        registry.view_of(registry.get("siglip_base"), normalisation="natvie")


def test_sams_padding_can_be_cropped_from_its_maps():
    sam = registry.get("sam_base")
    maps = (jnp.arange(64.0)[None, :, None, None] * jnp.ones((1, 64, 64, 1)),)
    assert registry.view_of(sam).select(maps, (448, 576))[0].shape == (1, 64, 64, 1)
    view = registry.view_of(sam, crop=True)
    assert view.resized((448, 576)) == (796, 1024)
    assert view.select(maps, (448, 576))[0].shape == (1, 50, 64, 1)
    assert view.select(maps, (576, 448))[0].shape == (1, 64, 50, 1)
    padded = view(jnp.ones((1, 448, 576, 3)))
    assert padded.shape == (1, 1024, 1024, 3)
    np.testing.assert_allclose(padded[:, :796], 1, atol=1e-6)
    assert not padded[:, 796:].any()


def test_what_a_student_cannot_follow_is_refused():
    with pytest.raises(UserError, match="swin_tiny.*96"):
        registry.width("swin_tiny")
    with pytest.raises(UserError, match="below one patch"):
        registry.load("vit_base", (8, 8), random=True)
    with pytest.raises(UserError, match="sam_base"):
        registry.get("sam_bse")


def test_random_weights_run_in_bfloat16():
    module, view = registry.load("dinov2_small", (56, 70), dtype=jnp.bfloat16, random=True)
    maps = jax.jit(lambda module, x: module(view(x)))(module, jnp.zeros((1, 56, 70, 3)))
    assert [m.shape for m in maps] == [(1, 4, 5, 384)] * 4
    assert all(m.dtype == jnp.bfloat16 and bool(jnp.isfinite(m).all()) for m in maps)


def test_the_weights_at_their_own_size_are_the_same_tree_as_at_another():
    # Where nothing is resized too: placing them on a mesh goes by the tree.
    for size in ((72, 96), (24, 32)):
        teacher = registry.get("rooms_scene")
        wanted = nnx.state(registry.abstract(teacher, teacher.for_size(size)))
        assert jax.tree.structure(registry.state("rooms_scene", size)) == jax.tree.structure(wanted)
