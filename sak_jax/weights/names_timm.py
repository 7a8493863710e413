"""Weights in timm's naming: vision transformers, DINOv3 (timm's Eva), SAM and Swin."""

import dataclasses

import numpy as np

from sak_jax.weights.formats import Format
from sak_jax.weights.rules import IDENTITY, LINEAR, PATCHES, Rule, Transform, join

HEADS = (r"(fc_norm|head|head_dist|head_drop|attn_pool|pre_logits)\..*", "mask_token", r"rope\..*")
"""What timm's vision transformers may have besides: what follows the final norm, what only pretraining uses, and
buffers that are computed."""

WITHOUT_CLASS_POSITION = Transform(
    lambda x: np.concatenate([np.zeros_like(x[:, :1]), x], axis=1), lambda x: (x[:, 1:],)
)
"""Position embeddings of patches only, where ours cover the class token: it gets zeros."""


def norm_rules(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A layer norm in PyTorch's names."""
    return Rule(f"{theirs}.weight", f"{ours}.scale"), Rule(f"{theirs}.bias", f"{ours}.bias")


NORM = norm_rules("norm", "norm")
"""The final norm, as most call it."""

QUERY_AND_VALUE_BIAS = Transform(
    lambda query, value: np.concatenate([query, np.zeros_like(query), value]),
    lambda x: (x[: len(x) // 3], x[2 * len(x) // 3 :]),
)
"""Keys have no bias; our joined map has zeros there."""


def no_bias(length: int) -> Transform:
    """Our map has a bias, theirs has none: zeros."""
    return Transform(lambda: np.zeros((length,), np.float32), lambda x: ())


def block_rules(prefix: str, ours: str = "blocks") -> list[Rule]:
    """What all timm blocks have: norms, the output map of attention, and a plain MLP."""
    return [
        *(Rule(f"{prefix}.norm{n}.weight", f"{ours}.norm{n}.scale") for n in (1, 2)),
        *(Rule(f"{prefix}.norm{n}.bias", f"{ours}.norm{n}.bias") for n in (1, 2)),
        Rule(f"{prefix}.attn.qkv.weight", f"{ours}.attention.qkv.kernel", LINEAR),
        Rule(f"{prefix}.attn.proj.weight", f"{ours}.attention.output.kernel", LINEAR),
        Rule(f"{prefix}.attn.proj.bias", f"{ours}.attention.output.bias"),
        Rule(f"{prefix}.mlp.fc1.weight", f"{ours}.mlp.up.kernel", LINEAR),
        Rule(f"{prefix}.mlp.fc1.bias", f"{ours}.mlp.up.bias"),
        Rule(f"{prefix}.mlp.fc2.weight", f"{ours}.mlp.down.kernel", LINEAR),
        Rule(f"{prefix}.mlp.fc2.bias", f"{ours}.mlp.down.bias"),
    ]


PATCH_RULES = [
    Rule("patch_embed.proj.weight", "patch_embed.projection.kernel", PATCHES),
    Rule("patch_embed.proj.bias", "patch_embed.projection.bias"),
]


def vit_rules(config) -> list[Rule]:
    """timm's `VisionTransformer`."""
    positions = WITHOUT_CLASS_POSITION if config.class_token and config.registers else IDENTITY
    return [
        *PATCH_RULES,
        Rule("cls_token", "class_token"),
        Rule("reg_token", "registers"),
        Rule("pos_embed", "position_embedding", positions),
        Rule("norm_pre.weight", "norm_before.scale"),
        Rule("norm_pre.bias", "norm_before.bias"),
        *block_rules("blocks.{i}"),
        Rule("blocks.{i}.attn.qkv.bias", "blocks.attention.qkv.bias"),
        Rule("blocks.{i}.ls1.gamma", "blocks.scale1.scale"),
        Rule("blocks.{i}.ls2.gamma", "blocks.scale2.scale"),
        Rule("blocks.{i}.mlp.fc1.weight", "blocks.mlp.gate_up.kernel", LINEAR),
        Rule("blocks.{i}.mlp.fc1.bias", "blocks.mlp.gate_up.bias"),
    ]


def dinov3_rules(config, *, biases: bool) -> list[Rule]:
    """timm's `Eva` as DINOv3; `biases`: the `_qkvb` models, which keep the biases of queries and values."""
    bias = Rule(("blocks.{i}.attn.q_bias", "blocks.{i}.attn.v_bias"), "blocks.attention.qkv.bias", QUERY_AND_VALUE_BIAS)
    if not biases:
        bias = Rule((), "blocks.attention.qkv.bias", no_bias(3 * config.width), stack=("i",))
    gate_up = "blocks.{i}.mlp.fc1_g", "blocks.{i}.mlp.fc1_x"
    return [
        *PATCH_RULES,
        Rule("cls_token", "class_token"),
        Rule("reg_token", "registers"),
        *block_rules("blocks.{i}"),
        bias,
        Rule("blocks.{i}.gamma_1", "blocks.scale1.scale"),
        Rule("blocks.{i}.gamma_2", "blocks.scale2.scale"),
        Rule(tuple(f"{name}.weight" for name in gate_up), "blocks.mlp.gate_up.kernel", join(LINEAR, 2)),
        Rule(tuple(f"{name}.bias" for name in gate_up), "blocks.mlp.gate_up.bias", join(IDENTITY, 2)),
    ]


VIT = Format("timm", ("patch_embed.proj.weight", "blocks.0.attn.qkv.bias"), vit_rules, HEADS, NORM)
DINOV3_WITH_BIASES = Format(
    "timm (qkvb)", ("reg_token", "blocks.0.attn.q_bias"), lambda config: dinov3_rules(config, biases=True), HEADS, NORM
)
DINOV3 = Format(
    "timm", ("reg_token", "blocks.0.gamma_1"), lambda config: dinov3_rules(config, biases=False), HEADS, NORM
)


def sam_rules() -> list[Rule]:
    """timm's `VisionTransformerSAM`; `{w}` numbers the windowed blocks, `{g}` the global ones."""
    table = [*PATCH_RULES, Rule("pos_embed", "position_embedding")]
    for block, ours in (("blocks.{w}", "windows"), ("blocks.{g}", "globals")):
        table += [
            *block_rules(block, ours),
            Rule(f"{block}.attn.qkv.bias", f"{ours}.attention.qkv.bias"),
            Rule(f"{block}.attn.rel_pos_h", f"{ours}.attention.rows"),
            Rule(f"{block}.attn.rel_pos_w", f"{ours}.attention.columns"),
        ]
    return table


def _sam_original_rules(config) -> list[Rule]:
    """Meta's names for the same."""
    return [
        dataclasses.replace(rule, source="image_encoder." + rule.source.replace("mlp.fc", "mlp.lin"))
        for rule in sam_rules()
    ]


def _sam_transformers_rules(config) -> list[Rule]:
    """transformers' names for the same."""
    names = {
        "blocks.": "layers.",
        ".norm": ".layer_norm",
        "patch_embed.proj.": "patch_embed.projection.",
        ".fc": ".lin",
    }
    table = sam_rules()
    for theirs, ours in names.items():
        table = [dataclasses.replace(rule, source=rule.source.replace(theirs, ours)) for rule in table]
    return table


def _sam_labels(config) -> dict:
    return {"w": config.windowed, "g": config.taps}


SAM = Format(
    "timm", ("pos_embed", "blocks.0.attn.rel_pos_h"), lambda c: sam_rules(), (r"neck\..*",), labels=_sam_labels
)
SAM_TRANSFORMERS = Format(
    "Hugging Face",
    ("pos_embed", "layers.0.attn.rel_pos_h"),
    _sam_transformers_rules,
    (r"neck\..*", r"/(prompt_encoder|mask_decoder|shared_image_embedding)\..*"),
    labels=_sam_labels,
    prefixes=("vision_encoder.", ""),
)
SAM_ORIGINAL = Format(
    "Segment Anything",
    ("image_encoder.pos_embed", "image_encoder.blocks.0.attn.rel_pos_h"),
    _sam_original_rules,
    (r"image_encoder\.neck\..*", r"(prompt_encoder|mask_decoder)\..*"),
    labels=_sam_labels,
)


def swin_rules(config, *, merge_before: bool) -> list[Rule]:
    """timm's `SwinTransformer`; in Microsoft's files patch merging ends a stage instead of starting the next."""
    block, ours = "layers.{s}.blocks.{i}", "stages.{s}.blocks"
    table = [
        *PATCH_RULES,
        Rule("patch_embed.norm.weight", "norm.scale"),
        Rule("patch_embed.norm.bias", "norm.bias"),
        *block_rules(block, ours),
        Rule(f"{block}.attn.qkv.bias", f"{ours}.attention.qkv.bias"),
        Rule(f"{block}.attn.relative_position_bias_table", f"{ours}.attention.bias"),
    ]
    for stage in range(1, len(config.depths)):
        theirs, merge = f"layers.{stage if merge_before else stage - 1}.downsample", f"stages.{stage}.merge"
        table += [
            Rule(f"{theirs}.norm.weight", f"{merge}.norm.scale"),
            Rule(f"{theirs}.norm.bias", f"{merge}.norm.bias"),
            Rule(f"{theirs}.reduction.weight", f"{merge}.reduction.kernel", LINEAR),
        ]
    return table


_SWIN_BUFFERS = r"layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)"
SWIN = Format(
    "timm",
    ("layers.3.downsample.norm.weight",),
    lambda config: swin_rules(config, merge_before=True),
    (*HEADS, _SWIN_BUFFERS),
    norm_rules("norm", "final_norm"),
)
SWIN_ORIGINAL = Format(
    "Microsoft",
    ("layers.0.downsample.norm.weight",),
    lambda config: swin_rules(config, merge_before=False),
    (*HEADS, _SWIN_BUFFERS),
    norm_rules("norm", "final_norm"),
)
