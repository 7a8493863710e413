"""Every family of plain vision transformers at its real size: features equal the reference's.

Sizes: the native one, 448 x 576, and a small one that leaves a remainder below a patch.
"""

import pytest
import timm
import torch
import transformers
from open_clip.transformer import VisionTransformer as OpenClip
from timm.layers import resample_abs_pos_embed

from sak_jax.teachers import registry
from sak_jax.weights.files import read_weights
from tests.teachers.parity import check, convert, fill, image, maps, nchw, timm_maps

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
ODD = (120, 170)

TIMM = {
    "vit_base": "vit_base_patch16_384",
    "dinov2_base": "vit_base_patch14_dinov2",
    "clip_base": "vit_base_patch16_clip_384",
    "siglip_base": "vit_base_patch16_siglip_512",
}


@pytest.mark.parametrize("name", TIMM)
def test_features_equal_timms(name):
    teacher = registry.get(name)
    # timm keeps the exact GELU in its smaller SigLIP models; Google's and transformers' have the tanh form, as ours.
    options = {"act_layer": "gelu_tanh"} if "siglip" in name else {}
    reference = timm.create_model(TIMM[name], num_classes=0, global_pool="", **options).eval()
    state = convert(teacher, fill(reference))
    for size in [teacher.config.image_size, (448, 576), ODD]:
        check(maps(teacher, state, size), timm_maps(reference, size, teacher.config.taps))


@torch.no_grad()
def hidden_maps(reference, size, teacher):
    """The maps of a transformers model, which resizes positions itself or has none."""
    grid = [side // teacher.config.patch for side in size]
    # RADIO there refuses a remainder below a patch, which others drop.
    whole = image(size)[:, : grid[0] * teacher.config.patch, : grid[1] * teacher.config.patch]
    hidden = reference(nchw(whole), output_hidden_states=True).hidden_states[1:]
    return [hidden[tap][:, teacher.config.prefix :].reshape(1, *grid, -1).numpy() for tap in teacher.config.taps]


def saved(reference, folder):
    """The weights as files on the hub name them."""
    reference.save_pretrained(folder)
    weights = read_weights(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return weights


def test_dinov3_features_equal_transformers(tmp_path):
    teacher = registry.get("dinov3_base")
    config = transformers.DINOv3ViTConfig(**BASE, intermediate_size=3072, num_register_tokens=4)
    reference = transformers.DINOv3ViTModel(config).eval()
    fill(reference)
    state = convert(teacher, saved(reference, tmp_path))
    for size in [(256, 256), (448, 576), ODD]:
        check(maps(teacher, state, size), hidden_maps(reference, size, teacher))


def test_radio_features_equal_transformers(tmp_path):
    teacher = registry.get("cradio3_base")
    config = transformers.RadioConfig(**BASE, num_cls_tokens=3, num_registers=5)
    reference = transformers.RadioModel(config).eval()
    fill(reference)
    reference.input_conditioner = torch.nn.Identity()
    state = convert(teacher, saved(reference, tmp_path))
    for size in [(512, 512), (448, 576), ODD]:
        check(maps(teacher, state, size), hidden_maps(reference, size, teacher))


@torch.no_grad()
def test_theia_features_equal_transformers(tmp_path):
    teacher = registry.get("theia_base")
    config = transformers.ViTConfig(**BASE, intermediate_size=3072)
    reference = transformers.ViTModel(config, add_pooling_layer=False).eval()
    fill(reference)
    weights = {f"backbone.model.{key}": value for key, value in saved(reference, tmp_path).items()}
    state = convert(teacher, weights)
    check(maps(teacher, state, (224, 224)), hidden_maps(reference, (224, 224), teacher))
    # At other sizes transformers is given the positions resized by timm's rule, which is ours.
    positions = reference.embeddings.position_embeddings.data
    for size in [(448, 576), ODD]:
        grid = [side // 16 for side in size]
        reference.embeddings.position_embeddings.data = resample_abs_pos_embed(positions, grid)
        reference.embeddings.interpolate_pos_encoding = lambda *_: reference.embeddings.position_embeddings
        found = reference(nchw(image(size)), output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
        wanted = [found[tap + 1][:, 1:].reshape(1, *grid, -1).detach().numpy() for tap in teacher.config.taps]
        check(maps(teacher, state, size), wanted)


@torch.no_grad()
def test_open_clip_and_openai_features_equal_open_clips():
    teacher = registry.get("openaiclip_base")
    reference = OpenClip(
        image_size=224, patch_size=16, width=768, layers=12, heads=12, mlp_ratio=4, output_dim=512,
        act_layer=lambda: QuickGELU(),
    ).eval()  # fmt: skip
    weights = {f"visual.{key}": value for key, value in fill(reference).items()}
    state = convert(teacher, weights)
    positions = reference.positional_embedding.data
    for size in [(224, 224), (448, 576), ODD]:
        grid = [side // 16 for side in size]
        reference.positional_embedding.data = resample_abs_pos_embed(positions[None], grid)[0]
        found = reference.forward_intermediates(
            nchw(image(size)), indices=list(teacher.config.taps), intermediates_only=True
        )["image_intermediates"]
        check(maps(teacher, state, size), [m.permute(0, 2, 3, 1).numpy() for m in found])


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)
