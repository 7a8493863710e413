import dataclasses

import jax
import numpy as np
import pytest
import timm
import torch
from timm.models.swin_transformer import checkpoint_filter_fn

from sak_jax.errors import UserError
from sak_jax.teachers import registry
from sak_jax.weights.names_timm import SWIN, SWIN_ORIGINAL
from sak_jax.weights.states import export
from tests.teachers.parity import TOLERANCE, check, convert, error, fill, image, maps, nchw

NAME = "swin_base_patch4_window7_224"


@pytest.fixture(scope="module")
def reference():
    return timm.create_model(NAME, num_classes=0, global_pool="").eval()


@torch.no_grad()
def swin_maps(reference, size):
    reference.set_input_size(img_size=size, window_size=(7, 7))
    found = reference.forward_intermediates(nchw(image(size)), indices=[0, 1, 2, 3], intermediates_only=True)
    return [m.permute(0, 2, 3, 1).numpy() for m in found]


def test_features_of_the_stages_equal_timms_at_native_and_odd_sizes(reference):
    teacher = registry.get("swin_base")
    state = convert(teacher, fill(reference))
    for size in [(224, 224), (448, 576), (230, 331)]:
        check(maps(teacher, state, size), swin_maps(reference, size))


@torch.no_grad()
def test_the_last_map_through_the_final_norm_equals_timms(reference):
    teacher = registry.get("swin_base")
    module = registry.fitted(teacher, convert(teacher, fill(reference)), teacher.for_size((224, 224), norm=True))
    reference.set_input_size(img_size=(224, 224), window_size=(7, 7))
    wanted = reference.forward_features(nchw(image((224, 224)))).numpy()
    found = jax.jit(lambda module, x: module(x, norm=True))(module, image((224, 224)))
    assert error(np.asarray(found[-1]), wanted) < TOLERANCE


def test_microsofts_names():
    teacher = registry.get("swin_tiny")
    small = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    state = convert(teacher, fill(small))
    theirs = export(state, SWIN_ORIGINAL.for_config(teacher.config)[0])
    converted = checkpoint_filter_fn({key: torch.from_numpy(np.array(value)) for key, value in theirs.items()}, small)
    missing, extra = small.load_state_dict(converted, strict=False)
    assert not extra and not missing
    again = convert(dataclasses.replace(teacher, formats=(SWIN_ORIGINAL,)), theirs)
    back = export(again, SWIN.for_config(teacher.config)[0])
    for key, value in back.items():
        np.testing.assert_array_equal(value, small.state_dict()[key].numpy())


def test_too_small_an_image_is_refused():
    with pytest.raises(UserError, match="Swin needs images of some 224 pixels"):
        registry.abstract(registry.get("swin_tiny"), registry.get("swin_tiny").for_size((128, 128)))
