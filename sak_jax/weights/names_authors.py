"""Weights in their authors' own naming: augreg's `.npz`, OpenCLIP, DINOv2 and DINOv3, MASt3R and
Multi-HMR."""

import numpy as np

from sak_jax.weights import names_augreg, names_timm
from sak_jax.weights.formats import Format
from sak_jax.weights.rules import IDENTITY, LINEAR, PATCHES, Rule, Transform, join, lead


def open_clip_rules(config) -> list[Rule]:
    """The image tower of OpenAI's CLIP and OpenCLIP."""
    block, ours = "transformer.resblocks.{i}", "blocks"
    return [
        Rule("class_embedding", "class_token", lead(2)),
        Rule("positional_embedding", "position_embedding", lead(1)),
        Rule("conv1.weight", "patch_embed.projection.kernel", PATCHES),
        Rule("ln_pre.weight", "norm_before.scale"),
        Rule("ln_pre.bias", "norm_before.bias"),
        *(Rule(f"{block}.ln_{n}.weight", f"{ours}.norm{n}.scale") for n in (1, 2)),
        *(Rule(f"{block}.ln_{n}.bias", f"{ours}.norm{n}.bias") for n in (1, 2)),
        Rule(f"{block}.attn.in_proj_weight", f"{ours}.attention.qkv.kernel", LINEAR),
        Rule(f"{block}.attn.in_proj_bias", f"{ours}.attention.qkv.bias"),
        Rule(f"{block}.attn.out_proj.weight", f"{ours}.attention.output.kernel", LINEAR),
        Rule(f"{block}.attn.out_proj.bias", f"{ours}.attention.output.bias"),
        Rule(f"{block}.mlp.c_fc.weight", f"{ours}.mlp.up.kernel", LINEAR),
        Rule(f"{block}.mlp.c_fc.bias", f"{ours}.mlp.up.bias"),
        Rule(f"{block}.mlp.c_proj.weight", f"{ours}.mlp.down.kernel", LINEAR),
        Rule(f"{block}.mlp.c_proj.bias", f"{ours}.mlp.down.bias"),
    ]


def dinov2_rules(config) -> list[Rule]:
    """Meta's DINOv2: timm's names but for registers (whose position embedding covers the class token) and SwiGLU."""
    own = ("registers", "position_embedding", "blocks.mlp.down.kernel", "blocks.mlp.down.bias")
    down = "w3" if config.mlp == "swiglu" else "fc2"
    return [
        *(
            rule
            for rule in names_timm.vit_rules(config)
            if rule.target not in own and not rule.target.startswith("blocks.mlp.gate_up")
        ),
        Rule("register_tokens", "registers"),
        Rule("pos_embed", "position_embedding"),
        Rule("blocks.{i}.mlp.w12.weight", "blocks.mlp.gate_up.kernel", LINEAR),
        Rule("blocks.{i}.mlp.w12.bias", "blocks.mlp.gate_up.bias"),
        Rule(f"blocks.{{i}}.mlp.{down}.weight", "blocks.mlp.down.kernel", LINEAR),
        Rule(f"blocks.{{i}}.mlp.{down}.bias", "blocks.mlp.down.bias"),
    ]


MASKED_BIAS = Transform(
    lambda bias, mask: np.where(mask == 0, np.zeros_like(bias), bias),
    lambda x: (x, np.repeat(np.asarray([1, 0, 1], x.dtype), len(x) // 3)),
)
"""DINOv3 masks the keys' part of the joint bias."""


def dinov3_rules(config) -> list[Rule]:
    """Meta's DINOv3."""
    gate_up = "blocks.{i}.mlp.w1", "blocks.{i}.mlp.w2"
    down = "w3" if config.mlp == "swiglu" else "fc2"
    bias = "blocks.{i}.attn.qkv.bias"
    own = ("blocks.mlp.down.kernel", "blocks.mlp.down.bias")
    return [
        *names_timm.PATCH_RULES,
        Rule("cls_token", "class_token"),
        Rule("storage_tokens", "registers"),
        *(rule for rule in names_timm.block_rules("blocks.{i}") if rule.target not in own),
        Rule((bias, f"{bias}_mask"), "blocks.attention.qkv.bias", MASKED_BIAS),
        Rule("blocks.{i}.ls1.gamma", "blocks.scale1.scale"),
        Rule("blocks.{i}.ls2.gamma", "blocks.scale2.scale"),
        Rule(tuple(f"{name}.weight" for name in gate_up), "blocks.mlp.gate_up.kernel", join(LINEAR, 2)),
        Rule(tuple(f"{name}.bias" for name in gate_up), "blocks.mlp.gate_up.bias", join(IDENTITY, 2)),
        Rule(f"blocks.{{i}}.mlp.{down}.weight", "blocks.mlp.down.kernel", LINEAR),
        Rule(f"blocks.{{i}}.mlp.{down}.bias", "blocks.mlp.down.bias"),
    ]


def croco_rules(config) -> list[Rule]:
    """CroCo's encoder, as MASt3R has it."""
    theirs = "enc_blocks.{i}.attn.qkv"
    own = ("blocks.attention.qkv.kernel", "blocks.attention.qkv.bias")
    return [
        *names_timm.PATCH_RULES,
        *(rule for rule in names_timm.block_rules("enc_blocks.{i}") if rule.target not in own),
        Rule(f"{theirs}.weight", "blocks.attention.qkv.kernel", _rotation_order(config.heads, LINEAR)),
        Rule(f"{theirs}.bias", "blocks.attention.qkv.bias", _rotation_order(config.heads, IDENTITY)),
    ]


def _rotation_order(heads: int, transform: Transform) -> Transform:
    """Channels of queries and keys in the order of DINOv3's rotation.

    CroCo keeps the channels that turn with rows before those that turn with columns, each in two halves that are
    turned against each other; DINOv3 keeps the halves apart, each with rows before columns.
    """

    def swap(x: np.ndarray) -> np.ndarray:
        parts = x.reshape(3, heads, 2, 2, -1, *x.shape[1:])
        return np.concatenate([parts[:2].swapaxes(2, 3), parts[2:]]).reshape(x.shape)

    return Transform(lambda x: transform.load(swap(x)), lambda x: tuple(swap(part) for part in transform.save(x)))


AUGREG = Format(
    "augreg .npz",
    (names_augreg.POSITIONS, "embedding/kernel"),
    names_augreg.augreg_rules,
    names_augreg.DROPPED,
    names_augreg.NORM,
)
OPEN_CLIP = Format(
    "OpenCLIP",
    ("class_embedding", "conv1.weight", "ln_pre.weight"),
    open_clip_rules,
    (
        "proj",
        r"/(transformer|token_embedding|ln_final)\..*",
        "/(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)",
        "/(input_resolution|context_length|vocab_size)",
    ),
    norm=names_timm.norm_rules("ln_post", "norm"),
    prefixes=("visual.", "module.visual.", ""),
)
DINOV2 = Format("DINOv2", ("mask_token", "blocks.0.attn.qkv.bias"), dinov2_rules, ("mask_token",), names_timm.NORM)
DINOV3 = Format(
    "DINOv3",
    ("storage_tokens", "blocks.0.attn.qkv.weight"),
    dinov3_rules,
    (r"(cls_norm|local_cls_norm|rope_embed)\..*", "mask_token"),
    names_timm.NORM,
)
MAST3R = Format(
    "MASt3R",
    ("patch_embed.proj.weight", "enc_blocks.0.attn.qkv.weight"),
    croco_rules,
    (r"(decoder_embed|dec_blocks2?|dec_norm|downstream_head[12])\..*", "mask_token"),
    names_timm.norm_rules("enc_norm", "norm"),
)
MULTIHMR = Format(
    "Multi-HMR", ("cls_token", "blocks.0.ls1.gamma"), dinov2_rules, ("mask_token", "/.*"), names_timm.NORM,
    prefixes=("backbone.encoder.",),
)  # fmt: skip
