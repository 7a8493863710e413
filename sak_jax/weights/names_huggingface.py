"""Weights in Hugging Face transformers' naming (as the files on its hub have it), and RADIO's."""

from sak_jax.weights.formats import Format
from sak_jax.weights.names_timm import NORM, QUERY_AND_VALUE_BIAS, block_rules, norm_rules
from sak_jax.weights.rules import IDENTITY, LINEAR, PATCHES, Rule, Transform, join, lead

FLAT_PATCHES = Transform(
    lambda x: PATCHES.load(x.reshape(x.shape[0], 3, round((x.shape[1] // 3) ** 0.5), -1)),
    lambda x: (PATCHES.save(x)[0].reshape(x.shape[1], -1),),
)
"""A patch map kept as Linear over (channel, row, column) <-> ours over (row, column, channel)."""


def _attention(names: tuple[str, str, str], output: str) -> list[Rule]:
    """Separate maps for queries, keys and values."""
    return [
        Rule(tuple(f"{name}.weight" for name in names), "blocks.attention.qkv.kernel", join(LINEAR, 3)),
        Rule(tuple(f"{name}.bias" for name in names), "blocks.attention.qkv.bias", join(IDENTITY, 3)),
        *_linear(output, "blocks.attention.output"),
    ]


def _linear(theirs: str, ours: str) -> list[Rule]:
    return [Rule(f"{theirs}.weight", f"{ours}.kernel", LINEAR), Rule(f"{theirs}.bias", f"{ours}.bias")]


def _patches(theirs: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", "patch_embed.projection.kernel", PATCHES),
        Rule(f"{theirs}.bias", "patch_embed.projection.bias"),
    ]


def _inner(layer: str) -> tuple[str, str, str]:
    return tuple(f"{layer}.attention.attention.{part}" for part in ("query", "key", "value"))


def dinov2_rules(config) -> list[Rule]:
    """`Dinov2Model` and `Dinov2WithRegistersModel`."""
    layer = "encoder.layer.{i}"
    return [
        Rule("embeddings.cls_token", "class_token"),
        Rule("embeddings.register_tokens", "registers"),
        Rule("embeddings.position_embeddings", "position_embedding"),
        *_patches("embeddings.patch_embeddings.projection"),
        *norm_rules(f"{layer}.norm1", "blocks.norm1"),
        *norm_rules(f"{layer}.norm2", "blocks.norm2"),
        *_attention(_inner(layer), f"{layer}.attention.output.dense"),
        Rule(f"{layer}.layer_scale1.lambda1", "blocks.scale1.scale"),
        Rule(f"{layer}.layer_scale2.lambda1", "blocks.scale2.scale"),
        *_linear(f"{layer}.mlp.fc1", "blocks.mlp.up"),
        *_linear(f"{layer}.mlp.weights_in", "blocks.mlp.gate_up"),
        *_linear(f"{layer}.mlp." + ("weights_out" if config.mlp == "swiglu" else "fc2"), "blocks.mlp.down"),
    ]


def dinov3_rules(config) -> list[Rule]:
    """`DINOv3ViTModel`."""
    layer = "layer.{i}"
    gate_up = f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"
    maps = tuple(f"{layer}.attention.{part}_proj" for part in "qkv")
    return [
        Rule("embeddings.cls_token", "class_token"),
        Rule("embeddings.register_tokens", "registers"),
        *_patches("embeddings.patch_embeddings"),
        *norm_rules(f"{layer}.norm1", "blocks.norm1"),
        *norm_rules(f"{layer}.norm2", "blocks.norm2"),
        Rule(tuple(f"{name}.weight" for name in maps), "blocks.attention.qkv.kernel", join(LINEAR, 3)),
        Rule((f"{maps[0]}.bias", f"{maps[2]}.bias"), "blocks.attention.qkv.bias", QUERY_AND_VALUE_BIAS),
        *_linear(f"{layer}.attention.o_proj", "blocks.attention.output"),
        Rule(f"{layer}.layer_scale1.lambda1", "blocks.scale1.scale"),
        Rule(f"{layer}.layer_scale2.lambda1", "blocks.scale2.scale"),
        *_linear(f"{layer}.mlp.up_proj", "blocks.mlp.up"),
        Rule(tuple(f"{name}.weight" for name in gate_up), "blocks.mlp.gate_up.kernel", join(LINEAR, 2)),
        Rule(tuple(f"{name}.bias" for name in gate_up), "blocks.mlp.gate_up.bias", join(IDENTITY, 2)),
        *_linear(f"{layer}.mlp.down_proj", "blocks.mlp.down"),
    ]


def siglip_rules(config) -> list[Rule]:
    """`SiglipVisionModel` (SigLIP, and SigLIP 2 at fixed size)."""
    layer = "encoder.layers.{i}"
    return [
        Rule("embeddings.position_embedding.weight", "position_embedding", lead(1)),
        *_patches("embeddings.patch_embedding"),
        *norm_rules(f"{layer}.layer_norm1", "blocks.norm1"),
        *norm_rules(f"{layer}.layer_norm2", "blocks.norm2"),
        *_attention(tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv"), f"{layer}.self_attn.out_proj"),
        *_linear(f"{layer}.mlp.fc1", "blocks.mlp.up"),
        *_linear(f"{layer}.mlp.fc2", "blocks.mlp.down"),
    ]


def clip_rules(config) -> list[Rule]:
    """`CLIPVisionModel`."""
    patches = Rule("embeddings.patch_embedding.weight", "patch_embed.projection.kernel", PATCHES)
    changed = ("position_embedding", "patch_embed.projection.kernel", "patch_embed.projection.bias")
    return [
        *(rule for rule in siglip_rules(config) if rule.target not in changed),
        patches,
        Rule("embeddings.class_embedding", "class_token", lead(2)),
        Rule("embeddings.position_embedding.weight", "position_embedding", lead(1)),
        *norm_rules("pre_layrnorm", "norm_before"),
    ]


def vit_rules(config) -> list[Rule]:
    """`ViTModel` (Theia's backbone)."""
    layer = "encoder.layer.{i}"
    return [
        Rule("embeddings.cls_token", "class_token"),
        Rule("embeddings.position_embeddings", "position_embedding"),
        *_patches("embeddings.patch_embeddings.projection"),
        *norm_rules(f"{layer}.layernorm_before", "blocks.norm1"),
        *norm_rules(f"{layer}.layernorm_after", "blocks.norm2"),
        *_attention(_inner(layer), f"{layer}.attention.output.dense"),
        *_linear(f"{layer}.intermediate.dense", "blocks.mlp.up"),
        *_linear(f"{layer}.output.dense", "blocks.mlp.down"),
    ]


def radio_rules(config, scale: str) -> list[Rule]:
    """RADIO's backbone; `scale`: what layer scale is called there. All its prefix tokens are registers to us."""
    return [
        Rule("patch_generator.embedder.weight", "patch_embed.projection.kernel", FLAT_PATCHES),
        Rule("patch_generator.pos_embed", "position_embedding"),
        Rule("patch_generator.cls_token.token", "registers", lead(1)),
        *block_rules("blocks.{i}"),
        Rule("blocks.{i}.attn.qkv.bias", "blocks.attention.qkv.bias"),
        Rule(f"blocks.{{i}}.{scale.format(1)}", "blocks.scale1.scale"),
        Rule(f"blocks.{{i}}.{scale.format(2)}", "blocks.scale2.scale"),
    ]


DINOV2 = Format(
    "Hugging Face", ("embeddings.mask_token", "encoder.layer.0.attention.attention.query.weight"), dinov2_rules,
    (r"embeddings\.mask_token", r"/classifier\..*"), norm_rules("layernorm", "norm"),
    prefixes=("", "dinov2.", "dinov2_with_registers."),
)  # fmt: skip
DINOV3 = Format(
    "Hugging Face", ("embeddings.mask_token", "layer.0.attention.q_proj.weight"), dinov3_rules,
    (r"embeddings\.mask_token", r"rope_embeddings\..*"), NORM,
)  # fmt: skip
SIGLIP = Format(
    "Hugging Face", ("embeddings.position_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"), siglip_rules,
    (r"head\..*", r"embeddings\.position_ids", r"/text_model\..*", "/(logit_scale|logit_bias)"),
    norm_rules("post_layernorm", "norm"),
    prefixes=("", "vision_model."),
)  # fmt: skip
CLIP = Format(
    "Hugging Face", ("embeddings.class_embedding", "encoder.layers.0.self_attn.q_proj.weight"), clip_rules,
    (
        r"embeddings\.position_ids", r"/(text_model|text_projection|visual_projection)\..*", "/logit_scale",
    ),
    norm_rules("post_layernorm", "norm"),
    prefixes=("", "vision_model."),
)  # fmt: skip
THEIA = Format(
    "Hugging Face", ("embeddings.cls_token", "encoder.layer.0.attention.attention.query.weight"), vit_rules,
    (r"pooler\..*", r"/translator\..*"), norm_rules("layernorm", "norm"), prefixes=("", "backbone.model."),
)  # fmt: skip
RADIO = [
    Format(
        name, ("patch_generator.embedder.weight", "blocks.0.attn.qkv.weight", *known),
        lambda config, scale=scale: radio_rules(config, scale),
        (r"norm\..*", r"/(radio_model\.)?(input_conditioner\..*|summary_idxs|adaptors\..*)"),
        prefixes=("radio_model.model.", "model.", ""),
    )
    for name, scale, known in (
        ("transformers", "layer_scale{}.lambda1", ("blocks.0.layer_scale1.lambda1",)),
        ("Hugging Face", "ls{}.grandma", ("blocks.0.ls1.grandma",)),
        ("NVIDIA", "ls{}.gamma", ()),
    )
]  # fmt: skip
