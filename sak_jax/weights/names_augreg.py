"""The augreg checkpoints' names (Steiner et al., 2022): `.npz` files of Google's original JAX code."""

from sak_jax.weights.rules import Rule, Transform, join

POSITIONS = "Transformer/posembed_input/pos_embedding"
DROPPED = (r"(pre_logits|head)/(kernel|bias)",)
"""The classifier."""

NORM = (Rule("Transformer/encoder_norm/scale", "norm.scale"), Rule("Transformer/encoder_norm/bias", "norm.bias"))
"""The final norm."""


def augreg_rules(config) -> list[Rule]:
    """A vision transformer's names; attention kernels there have an axis for the heads. `config`: a `ViTConfig`."""
    heads, patch = config.heads, config.patch
    split_out = Transform(lambda x: x.reshape(x.shape[0], -1), lambda x: (x.reshape(x.shape[0], heads, -1),))
    split_bias = Transform(lambda x: x.reshape(-1), lambda x: (x.reshape(heads, -1),))
    split_in = Transform(lambda x: x.reshape(-1, x.shape[-1]), lambda x: (x.reshape(heads, -1, x.shape[-1]),))
    patches = Transform(lambda x: x.reshape(-1, x.shape[-1]), lambda x: (x.reshape(patch, patch, 3, x.shape[-1]),))
    block = "Transformer/encoderblock_{block}"
    attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
    parts = ("query", "key", "value")
    return [
        Rule("cls", "class_token"),
        Rule(POSITIONS, "position_embedding"),
        Rule("embedding/kernel", "patch_embed.projection.kernel", patches),
        Rule("embedding/bias", "patch_embed.projection.bias"),
        Rule(f"{block}/LayerNorm_0/scale", "blocks.norm1.scale"),
        Rule(f"{block}/LayerNorm_0/bias", "blocks.norm1.bias"),
        Rule(f"{block}/LayerNorm_2/scale", "blocks.norm2.scale"),
        Rule(f"{block}/LayerNorm_2/bias", "blocks.norm2.bias"),
        Rule(tuple(f"{attention}/{p}/kernel" for p in parts), "blocks.attention.qkv.kernel", join(split_out, 3)),
        Rule(tuple(f"{attention}/{p}/bias" for p in parts), "blocks.attention.qkv.bias", join(split_bias, 3)),
        Rule(f"{attention}/out/kernel", "blocks.attention.output.kernel", split_in),
        Rule(f"{attention}/out/bias", "blocks.attention.output.bias"),
        Rule(f"{mlp}/Dense_0/kernel", "blocks.mlp.up.kernel"),
        Rule(f"{mlp}/Dense_0/bias", "blocks.mlp.up.bias"),
        Rule(f"{mlp}/Dense_1/kernel", "blocks.mlp.down.kernel"),
        Rule(f"{mlp}/Dense_1/bias", "blocks.mlp.down.bias"),
    ]
