import pytest
import timm
import torch
import torch.nn.functional as F
from flax import nnx

from sak_jax.teachers import registry
from tests.teachers.parity import check, convert, fill, image, maps, nchw

TAPS = [2, 5, 8, 11]


@pytest.fixture(scope="module")
def reference():
    return timm.create_model("samvit_base_patch16", num_classes=0).eval()


@pytest.fixture(scope="module")
def state(reference) -> nnx.State:
    return convert(registry.get("sam_base"), fill(reference))


@torch.no_grad()
def sam_maps(model, images):
    found = model.forward_intermediates(images, indices=TAPS, norm=False, intermediates_only=True)
    return [m.permute(0, 2, 3, 1).numpy() for m in found]


@torch.no_grad()
def at_size(reference, size):
    """timm's SAM with positions resized: absolute ones bicubically without antialias, relative ones linearly."""
    model = timm.create_model("samvit_base_patch16", num_classes=0, img_size=size).eval()
    weights = reference.state_dict()
    for key, wanted in model.state_dict().items():
        value = weights[key]
        if key == "pos_embed":
            grid = wanted.shape[1:3]
            value = F.interpolate(value.permute(0, 3, 1, 2), grid, mode="bicubic").permute(0, 2, 3, 1)
        elif "rel_pos" in key and len(value) != len(wanted):
            value = F.interpolate(value.T[None], len(wanted), mode="linear")[0].T
        weights[key] = value
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("size", [(448, 576), (250, 330)])
def test_at_another_size_features_equal_timms_with_resized_positions(reference, state, size):
    h, w = (side // 16 * 16 for side in size)  # timm refuses a remainder, ours drops it
    wanted = sam_maps(at_size(reference, (h, w)), nchw(image(size)[:, :h, :w]))
    check(maps(registry.get("sam_base"), state, size, pad=False), wanted)


def test_padded_to_1024_features_equal_timms(reference, state):
    images = nchw(image((448, 576)))
    images = F.interpolate(images, (796, 1024), mode="bicubic", align_corners=False)
    images = F.pad(images, (0, 0, 0, 1024 - 796))
    check(maps(registry.get("sam_base"), state, (448, 576)), sam_maps(reference, images))
