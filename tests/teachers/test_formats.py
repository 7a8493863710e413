"""Every naming of weights, at a small size: converted weights give the reference's features."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from open_clip.transformer import VisionTransformer as OpenClip
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models import eva, vision_transformer, vision_transformer_sam

from sak_jax.errors import UserError
from sak_jax.teachers import registry
from sak_jax.weights import files, formats, names_authors, names_huggingface, names_timm, states
from tests.teachers.parity import TOLERANCE, check, convert, error, fill, image, maps, nchw, timm_maps, tokens

SIZE = (64, 64)
SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
TAPS = (0, 1, 2, 3)
GATED = {"intermediate_size": 88, "use_gated_mlp": True, "hidden_act": "silu"}


def tiny(name, formats, **options):
    """The teacher `name`, but 4 blocks of 32 channels for images of 64 x 64."""
    teacher = registry.get(name)
    config = dataclasses.replace(
        teacher.config, width=32, depth=4, heads=2, patch=16, taps=TAPS, image_size=SIZE, **options
    )
    return dataclasses.replace(teacher, config=config, formats=formats)


@torch.no_grad()
def hidden_maps(reference, prefix):
    """The maps of a transformers model, and its weights as `save_pretrained` writes them."""
    found = reference(nchw(image(SIZE)), output_hidden_states=True).hidden_states[1:]
    return [h[:, prefix:].reshape(1, 4, 4, -1).numpy() for h in found]


HUGGING_FACE = {
    "dinov2": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE)),
        tiny("dinov2_base", (names_huggingface.DINOV2,)),
    ),
    "dinov2, SwiGLU": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE, use_swiglu_ffn=True)),
        tiny("dinov2_giant", (names_huggingface.DINOV2,), mlp_hidden=88),
    ),
    "dinov2, registers": (
        lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**SHAPE)),
        tiny("dinov2_base_registers", (names_huggingface.DINOV2,)),
    ),
    "dinov3": (
        lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**SHAPE, intermediate_size=128, num_register_tokens=4)
        ),
        tiny("dinov3_base", (names_huggingface.DINOV3,)),
    ),
    "dinov3, SwiGLU": (
        lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SHAPE, **GATED, num_register_tokens=4)),
        tiny("dinov3_huge_plus", (names_huggingface.DINOV3,), mlp_hidden=88),
    ),
    "dinov3, SwiGLU, no bias": (
        lambda: transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**SHAPE, **GATED, num_register_tokens=4, query_bias=False, value_bias=False)
        ),
        tiny("dinov3_7b", (names_huggingface.DINOV3,), mlp_hidden=88),
    ),
    "siglip": (
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SHAPE, intermediate_size=88)),
        tiny("siglip_so400m", (names_huggingface.SIGLIP,), mlp_hidden=88),
    ),
    "clip": (
        lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SHAPE, intermediate_size=128)),
        tiny("openaiclip_base", (names_huggingface.CLIP,)),
    ),
    "vit": (
        lambda: transformers.ViTModel(transformers.ViTConfig(**SHAPE, intermediate_size=128), add_pooling_layer=False),
        tiny("theia_base", (names_huggingface.THEIA,)),
    ),
    "radio": (
        lambda: transformers.RadioModel(
            transformers.RadioConfig(**SHAPE, max_img_size=64, num_cls_tokens=3, num_registers=5)
        ),
        tiny("cradio3_base", tuple(names_huggingface.RADIO)),
    ),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face_files(name, tmp_path):
    create, teacher = HUGGING_FACE[name]
    reference = create().eval()
    fill(reference)
    if name == "radio":
        reference.input_conditioner = torch.nn.Identity()
    wanted = hidden_maps(reference, teacher.config.prefix)
    reference.save_pretrained(tmp_path)
    weights = files.read_weights(tmp_path / "model.safetensors")
    check(maps(teacher, convert(teacher, weights), SIZE), wanted)


FINAL_NORMS = {
    "dinov2": "layernorm",
    "dinov2, registers": "layernorm",
    "dinov3": "norm",
    "siglip": "post_layernorm",
    "clip": "post_layernorm",
    "vit": "layernorm",
}


@pytest.mark.parametrize("name", FINAL_NORMS)
@torch.no_grad()
def test_tokens_through_the_final_norm_of_hugging_face_files(name, tmp_path):
    create, teacher = HUGGING_FACE[name]
    reference = create().eval()
    fill(reference)
    norm = getattr(getattr(reference, "vision_model", reference), FINAL_NORMS[name])
    wanted = norm(reference(nchw(image(SIZE)), output_hidden_states=True).hidden_states[-1]).numpy()
    reference.save_pretrained(tmp_path)
    state = convert(teacher, files.read_weights(tmp_path / "model.safetensors"))
    assert error(tokens(teacher, state, SIZE), wanted) < TOLERANCE


@pytest.mark.parametrize(("reference", "name"), [("vit", "vit_base"), ("eva", "dinov3_base")])
@torch.no_grad()
def test_tokens_through_the_final_norm_of_timms_files(reference, name):
    reference = {"vit": tiny_vit, "eva": lambda: tiny_eva(qkv_bias=True)}[reference]()
    teacher = tiny(name, (names_timm.DINOV3_WITH_BIASES, names_timm.VIT))
    state = convert(teacher, fill(reference))
    wanted = reference.forward_features(nchw(image(SIZE))).numpy()
    assert error(tokens(teacher, state, SIZE), wanted) < TOLERANCE


@pytest.mark.parametrize("name", ["siglip", "clip"])
def test_whole_models_with_a_text_tower(name, tmp_path):
    kind = {"siglip": "Siglip", "clip": "CLIP"}[name]
    config = getattr(transformers, f"{kind}Config")(
        vision_config=SHAPE | {"intermediate_size": {"siglip": 88, "clip": 128}[name]},
        text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64},
    )
    reference = getattr(transformers, f"{kind}Model")(config).eval()
    fill(reference)
    teacher = HUGGING_FACE[name][1]
    wanted = hidden_maps(reference.vision_model, teacher.config.prefix)
    reference.save_pretrained(tmp_path)
    weights = files.read_weights(tmp_path / "model.safetensors")
    check(maps(teacher, convert(teacher, weights), SIZE), wanted)


def tiny_vit(**options):
    return vision_transformer.VisionTransformer(
        img_size=SIZE, embed_dim=32, depth=4, num_heads=2, num_classes=0, global_pool="", **options
    ).eval()


def tiny_eva(**options):
    return eva.Eva(
        img_size=SIZE, embed_dim=32, depth=4, num_heads=2, num_classes=0, global_pool="", init_values=1e-5,
        rope_type="dinov3", rope_temperature=100, rope_rotate_half=True, use_rot_pos_emb=True, use_abs_pos_emb=False,
        num_reg_tokens=4, use_fc_norm=False, norm_layer=lambda n, **kwargs: LayerNorm(n, eps=1e-5), **options,
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "teacher"),
    [
        (lambda: tiny_vit(), tiny("vit_base", (names_timm.VIT,))),
        (
            lambda: tiny_vit(
                mlp_layer=SwiGLUPacked,
                act_layer=torch.nn.SiLU,
                mlp_ratio=5.5,
                init_values=1.0,
                reg_tokens=4,
                no_embed_class=True,
            ),  # fmt: skip
            tiny("dinov2_giant_registers", (names_timm.VIT,), mlp_hidden=88),
        ),
        (lambda: tiny_eva(qkv_bias=True), tiny("dinov3_base", (names_timm.DINOV3_WITH_BIASES,))),
        (lambda: tiny_eva(qkv_bias=False), tiny("dinov3_base", (names_timm.DINOV3,))),
        (
            lambda: tiny_eva(qkv_bias=True, swiglu_mlp=True, swiglu_align_to=8, mlp_ratio=2.75),
            tiny("dinov3_huge_plus", (names_timm.DINOV3_WITH_BIASES,), mlp_hidden=88),
        ),
        (
            lambda: tiny_eva(qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8, mlp_ratio=2.75),
            tiny("dinov3_7b", (names_timm.DINOV3,), mlp_hidden=88),
        ),
    ],
)
def test_timms_names(reference, teacher):
    reference = reference()
    state = convert(teacher, fill(reference))
    check(maps(teacher, state, SIZE), timm_maps(reference, SIZE, TAPS))


def same(ours: nnx.State, wanted: nnx.State):
    wanted = dict(nnx.to_flat_state(wanted))
    for path, leaf in nnx.to_flat_state(ours):
        np.testing.assert_array_equal(leaf.get_value(), wanted[path].get_value())


def torch_state(weights):
    return {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}


def numpy_state(weights):
    return {key: value.detach().numpy() for key, value in weights.items()}


def random_of(teacher, seed=0):
    """A random state of a teacher."""
    rng = np.random.default_rng(seed)
    flat = nnx.to_flat_state(nnx.state(registry.abstract(teacher, teacher.config)))
    leaves = {path: leaf.replace(rng.standard_normal(leaf.get_value().shape, np.float32)) for path, leaf in flat}
    return nnx.from_flat_state(leaves)


@pytest.mark.parametrize("name", ["dinov2_base", "dinov2_giant"])
def test_dinov2s_own_names(name):
    """Against timm's own converter: our state -> Meta's names -> timm's converter -> timm's names -> our state."""
    teacher = tiny(name, (names_timm.VIT,))
    state = random_of(teacher)
    theirs = states.export(state, names_authors.DINOV2.for_config(teacher.config)[0]) | {
        "mask_token": np.zeros((1, 32), np.float32)
    }
    same(convert(dataclasses.replace(teacher, formats=(names_authors.DINOV2,)), theirs), state)
    same(convert(teacher, numpy_state(vision_transformer._convert_dinov2(torch_state(theirs), None))), state)


def test_dinov2s_own_names_with_registers():
    teacher = tiny("dinov2_base_registers", (names_timm.VIT,))
    state = random_of(teacher)
    theirs = states.export(state, names_authors.DINOV2.for_config(teacher.config)[0]) | {
        "mask_token": np.zeros((1, 32), np.float32)
    }
    converted = convert(teacher, numpy_state(vision_transformer._convert_dinov2(torch_state(theirs), None)))
    # timm folds the class token's position into the class token.
    positions, token = state["position_embedding"].get_value(), state["class_token"].get_value()
    np.testing.assert_array_equal(converted["class_token"].get_value(), token + positions[:, :1])
    state["class_token"] = converted["class_token"]
    state["position_embedding"] = converted["position_embedding"]
    same(converted, state)


@pytest.mark.parametrize("name", ["dinov3_base", "dinov3_huge_plus"])
def test_dinov3s_own_names(name):
    teacher = tiny(name, (names_timm.DINOV3_WITH_BIASES,))
    flat = dict(nnx.to_flat_state(random_of(teacher)))
    flat["blocks", "attention", "qkv", "bias"].get_value()[:, 32:64] = 0
    state = nnx.from_flat_state(flat)
    theirs = states.export(state, names_authors.DINOV3.for_config(teacher.config)[0])
    extra = {"mask_token": np.zeros((1, 32), np.float32), "rope_embed.periods": np.zeros((4,), np.float32)}
    same(convert(dataclasses.replace(teacher, formats=(names_authors.DINOV3,)), theirs | extra), state)
    reference = tiny_eva(qkv_bias=True, **({"swiglu_mlp": True} if name == "dinov3_huge_plus" else {}))
    same(convert(teacher, numpy_state(eva.checkpoint_filter_fn(torch_state(theirs | extra), reference))), state)


def test_sams_own_names():
    teacher = registry.get("sam_base")
    config = dataclasses.replace(teacher.config, width=32, heads=2, image_size=(256, 256))
    teacher = dataclasses.replace(teacher, config=config)
    state = random_of(teacher)
    theirs = states.export(state, names_timm.SAM_ORIGINAL.table(config), labels=names_timm.SAM_ORIGINAL.labels(config))
    theirs["mask_decoder.x"] = np.zeros(1, np.float32)
    same(convert(teacher, theirs), state)
    same(convert(teacher, numpy_state(vision_transformer_sam.checkpoint_filter_fn(torch_state(theirs), None))), state)


@torch.no_grad()
def test_sams_names_in_transformers(tmp_path):
    teacher = registry.get("sam_base")
    config = dataclasses.replace(teacher.config, width=32, heads=2, image_size=(256, 256))
    teacher = dataclasses.replace(teacher, config=config, pad_to=None)
    shape = {key: value for key, value in SHAPE.items() if "size" not in key or key == "hidden_size"}
    shape |= {"num_hidden_layers": 12, "image_size": 256, "mlp_dim": 128, "output_channels": 8, "layer_norm_eps": 1e-5}
    reference = transformers.SamVisionModel(
        transformers.SamVisionConfig(**shape, global_attn_indexes=[2, 5, 8, 11], window_size=14)
    ).eval()
    fill(reference)
    hidden = reference(nchw(image((256, 256))), output_hidden_states=True).hidden_states
    reference.save_pretrained(tmp_path)
    weights = files.read_weights(tmp_path / "model.safetensors")
    wanted = [hidden[tap + 1].numpy() for tap in config.taps]
    check(maps(teacher, convert(teacher, weights), (256, 256)), wanted)


@torch.no_grad()
def test_open_clips_names():
    reference = OpenClip(
        image_size=64, patch_size=16, width=32, layers=4, heads=2, mlp_ratio=4, output_dim=8,
        act_layer=lambda: torch.nn.GELU(),
    ).eval()  # fmt: skip
    teacher = tiny("openclip_base", (names_authors.OPEN_CLIP,))
    weights = {f"visual.{key}": value for key, value in fill(reference).items()}
    weights |= {key: np.zeros((3, 3), np.float32) for key in ("token_embedding.weight", "transformer.resblocks.0.x")}
    weights |= {"logit_scale": np.zeros((), np.float32), "positional_embedding": np.zeros((7, 5), np.float32)}
    found = reference.forward_intermediates(nchw(image(SIZE)), indices=list(TAPS), intermediates_only=True)
    wanted = [m.permute(0, 2, 3, 1).numpy() for m in found["image_intermediates"]]
    check(maps(teacher, convert(teacher, weights), SIZE), wanted)


def test_augregs_npz(tmp_path):
    teacher = tiny("vit_base", (names_authors.AUGREG,))
    state = random_of(teacher)
    theirs = states.export(state, names_authors.AUGREG.for_config(teacher.config)[0])
    theirs |= {"head/kernel": np.zeros((32, 10), np.float32), "head/bias": np.zeros((10,), np.float32)}
    np.savez(tmp_path / "augreg.npz", **theirs)
    reference = tiny_vit()
    reference.load_pretrained(tmp_path / "augreg.npz")
    assert state["norm"]["scale"].shape == (32,)
    same(convert(teacher, files.read_weights(tmp_path / "augreg.npz")), state)
    same(convert(dataclasses.replace(teacher, formats=(names_timm.VIT,)), numpy_state(reference.state_dict())), state)


def test_another_models_file_is_refused():
    teacher = registry.get("dinov2_base")
    with pytest.raises(UserError, match="x.pth.*of no format known for this model"):
        formats.identify({"conv1.weight": np.zeros(1)}, teacher.formats, "x.pth")
    small = tiny("dinov2_base", (names_timm.VIT,))
    with pytest.raises(UserError, match="dinov2_base: key .* is missing"):
        convert(small, states.export(random_of(tiny("vit_base", ())), names_timm.VIT.for_config(small.config)[0]))
