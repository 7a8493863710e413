import pytest
import timm
from parity import check, convert, fill, maps, timm_maps

from sak_jax.teachers import zoo

REFERENCES = {
    "vit_base": "vit_base_patch16_384",
    "dinov2_base": "vit_base_patch14_dinov2",
    "clip_base": "vit_base_patch16_clip_384",
}


@pytest.mark.parametrize("name", REFERENCES)
def test_features_equal_timms_at_native_and_odd_sizes(name):
    config = zoo.get(name).config
    reference = timm.create_model(REFERENCES[name], num_classes=0, global_pool="").eval()
    state = convert(name, fill(reference))
    for size in [config.image_size, (448, 576), (120, 170)]:
        check(maps(name, state, size), timm_maps(reference, size, config.taps))
