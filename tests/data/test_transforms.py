import pickle

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sak_jax.data import augment, transforms
from sak_jax.errors import UserError
from sak_jax.nn import levels
from sak_jax.tasks import TASKS, Task

SIZE = (48, 64)
ALL = ("semseg", "human_parts", "sal", "normals", "edge", "depth")


def make_sample(height=60, width=80, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 5, (6, 8), dtype=np.uint8)
    semseg = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    semseg[:3] = 255
    depth = rng.uniform(0.5, 8, (height, width)).astype(np.float32)
    depth[5:9, 5:20] = 0
    normals = rng.normal(size=(height, width, 3)).astype(np.float32)
    normals[20:30, 20:30] = 0
    sample = {
        "id": "a",
        "image": cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (5, 5), 2),
        "semseg": semseg,
        "human_parts": rng.integers(0, 7, (height, width), dtype=np.uint8),
        "sal": rng.integers(0, 2, (height, width), dtype=np.uint8),
        "normals": normals,
        "edge": rng.integers(0, 2, (height, width)).astype(np.float32),
        "depth": depth,
    }
    for value in sample.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)  # A source may hand out the arrays it keeps.
    return sample


class Script:
    """Stands in for a generator: gives what was written down, in order."""

    def __init__(self, *values):
        self.values = list(values)

    def random(self):
        return self.values.pop(0)

    def uniform(self, low, high):
        assert low <= self.values[0] <= high
        return self.values.pop(0)

    def integers(self, low, high):
        assert low <= self.values[0] < high
        return self.values.pop(0)


# The method restated step by step, in floating point and without fusing anything.


def plain_multitask(sample, rng, size, tasks, scale_range=(0.5, 2.0)):
    scale = rng.uniform(*scale_range)
    arrays = {}
    for key in ("image", *tasks):
        value = sample[key].astype(np.float32)
        target = int(value.shape[1] * scale), int(value.shape[0] * scale)
        value = cv2.resize(value, target, interpolation=cv2.INTER_LINEAR if key == "image" else cv2.INTER_NEAREST)
        arrays[key] = value / np.float32(scale) if key == "depth" else value
    free = [max(arrays["image"].shape[axis] - size[axis], 0) for axis in (0, 1)]

    def location():
        return [int(rng.integers(0, extent + 1)) for extent in free] if any(free) else [0, 0]

    def crop(value, top, left):
        return value[top : top + size[0], left : left + size[1]]

    top, left = location()
    for _ in range(10 if "semseg" in tasks and any(free) else 0):
        labels, counts = np.unique(crop(arrays["semseg"], top, left), return_counts=True)
        counts = counts[labels != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
            break
        top, left = location()
    arrays = {key: crop(value, top, left) for key, value in arrays.items()}
    if rng.random() < 0.5:
        arrays = {key: value[:, ::-1].copy() for key, value in arrays.items()}
        if "normals" in arrays:
            arrays["normals"][..., 0] *= -1
    image = plain_distortion(arrays["image"].astype(np.uint8), rng)
    arrays["image"] = (image.astype(np.float32) / 255 - transforms.IMAGENET_MEAN) / transforms.IMAGENET_STD
    for key, value in arrays.items():
        fill = 0 if key in ("image", "depth", "normals") else 255
        margins = [size[axis] - value.shape[axis] for axis in (0, 1)]
        widths = [(margin // 2, margin - margin // 2) for margin in margins] + [(0, 0)] * (value.ndim - 2)
        arrays[key] = np.pad(value, widths, constant_values=fill)
    if "normals" in arrays:
        arrays["normals"][np.linalg.norm(arrays["normals"], axis=-1) == 0] = 255
    if "depth" in arrays:
        arrays["depth"][arrays["depth"] == 0] = 255
    if "human_parts" in arrays and np.isin(arrays["human_parts"], (0, 255)).all():
        arrays["human_parts"][:] = 255
    return arrays


def as_seen(sample):
    """A transformed sample's image as the device normalises it."""
    batch = {key: jnp.asarray(sample[key])[None] for key in ("image", "size") if key in sample}
    return np.asarray(levels.normalised(batch))[0]


def plain_distortion(image, rng):
    def convert(value, factor=1.0, offset=0.0):
        return np.clip(value.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)

    first = rng.random() < 0.5
    if rng.random() < 0.5:
        image = convert(image, offset=rng.uniform(-32, 32))
    if first and rng.random() < 0.5:
        image = convert(image, rng.uniform(0.5, 1.5))
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if rng.random() < 0.5:
        hsv[..., 1] = convert(hsv[..., 1], rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not first and rng.random() < 0.5:
        image = convert(image, rng.uniform(0.5, 1.5))
    return image


@pytest.mark.parametrize("tasks", [ALL, ("depth", "normals"), ("semseg",)])
@pytest.mark.parametrize("seed", range(12))
def test_training_transform_is_the_method_restated(tasks, seed):
    sample = make_sample(seed=seed)
    found = transforms.multitask_transform(SIZE, tasks)(sample, np.random.default_rng(seed))
    expected = plain_multitask(sample, np.random.default_rng(seed), SIZE, tasks)
    assert set(found) == {"image", "size", "id", *tasks} and found["image"].dtype == np.uint8
    np.testing.assert_allclose(as_seen(found), expected["image"], atol=1e-6)
    for task in tasks:
        np.testing.assert_array_equal(found[task], expected[task], err_msg=task)
        assert found[task].dtype == sample[task].dtype


def test_every_crop_is_drawn_again_while_one_class_rules():
    sample = make_sample(100, 128)
    semseg = np.zeros((100, 128), np.uint8)
    semseg[60:, 80:] = 1
    sample = sample | {"semseg": semseg}
    transform = transforms.multitask_transform(SIZE, ("semseg",), scale_range=(1, 1), photometric=False)
    good, bad = (52, 64), (0, 0)
    for draws in (0, 3, 9):
        rng = Script(*(bad * draws), *good, 0.9)
        assert (transform(sample, rng)["semseg"] == 1).mean() > 0.25
        assert not rng.values
    rng = Script(*(bad * 11), 0.9)  # The eleventh is taken as it comes.
    assert not transform(sample, rng)["semseg"].any() and not rng.values
    without = transforms.multitask_transform(SIZE, ("depth",), scale_range=(1, 1), photometric=False)
    assert without(sample, Script(*bad, 0.9))["depth"].shape == SIZE


def test_a_crop_of_void_alone_counts_as_ruled():
    assert augment.commonest_class(np.full((4, 4), 255, np.uint8))[1] == 1
    assert augment.commonest_class(np.array([[0, 1, 1, 255]], np.uint8)) == (1, pytest.approx(2 / 3))
    assert augment.class_share(np.array([[0, 1, 1, 255]], np.uint8), 1) == 0.5


def test_flipping_negates_the_x_of_normals():
    sample = make_sample(*SIZE)
    transform = transforms.multitask_transform(SIZE, ("normals", "sal"), scale_range=(1, 1), photometric=False)
    straight, mirrored = transform(sample, Script(0.7)), transform(sample, Script(0.2))
    valid = straight["normals"][..., 0] != 255
    np.testing.assert_array_equal(mirrored["normals"][:, ::-1][valid], straight["normals"][valid] * [-1, 1, 1])
    np.testing.assert_array_equal(mirrored["sal"][:, ::-1], straight["sal"])
    np.testing.assert_array_equal(mirrored["image"][:, ::-1], straight["image"])


def test_depth_is_divided_by_the_scale():
    sample = make_sample() | {"depth": np.full((60, 80), 3.0, np.float32)}
    transform = transforms.multitask_transform(SIZE, ("depth",), scale_range=(1.5, 1.5))
    np.testing.assert_allclose(transform(sample, np.random.default_rng(0))["depth"], 2.0)


def test_small_images_are_padded_in_the_middle():
    sample = make_sample(31, 41)
    transform = transforms.multitask_transform(SIZE, ALL, scale_range=(1, 1))
    result = transform(sample, np.random.default_rng(1))
    inside = np.zeros(SIZE, bool)
    inside[8 : 8 + 31, 11 : 11 + 41] = True
    assert (as_seen(result)[~inside] == 0).all() and result["size"].tolist() == [31, 41]
    seen = augment.normalise(transforms.unpad(result["image"], (31, 41)))
    np.testing.assert_allclose(transforms.unpad(as_seen(result), (31, 41)), seen, rtol=0, atol=5e-7)
    for task in ALL:
        assert (result[task][~inside] == 255).all(), task
    assert (result["edge"][inside] <= 1).all()


@pytest.mark.parametrize(
    ("script", "change"),
    [
        ((0.0, 0.0, 30.7, 0.9, 0.9, 0.9), lambda x: x + np.float32(30.7)),
        ((0.0, 0.0, -30.7, 0.9, 0.9, 0.9), lambda x: x - np.float32(30.7)),
        ((0.0, 0.9, 0.0, 1.45, 0.9, 0.9), lambda x: x * np.float32(1.45)),
        ((0.9, 0.9, 0.9, 0.9, 0.0, 0.55), lambda x: x * np.float32(0.55)),
    ],
    ids=["brighter", "darker", "contrast first", "contrast last"],
)
def test_brightness_and_contrast_clip_and_round_towards_zero(script, change):
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # The way through HSV keeps grey.
    rng = Script(*script)
    expected = np.clip(change(grey.astype(np.float32)), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(augment.distort(grey, rng), expected)
    assert not rng.values


def test_hue_turns_on_a_circle_of_180_and_saturation_clips():
    colours = cv2.cvtColor(np.array([[[170, 200, 220], [2, 200, 220]]], np.uint8), cv2.COLOR_HSV2RGB)
    hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
    turned = augment.distort(colours, Script(0.9, 0.9, 0.9, 0.0, 17, 0.9))
    moved = hsv.copy()
    moved[..., 0] = (moved[..., 0].astype(int) + 17) % 180
    np.testing.assert_array_equal(turned, cv2.cvtColor(moved, cv2.COLOR_HSV2RGB))
    saturated = augment.distort(colours, Script(0.9, 0.9, 0.0, 1.5, 0.9, 0.9))
    assert (saturated.min(axis=-1) == 0).all()


def test_nearest_indices_are_opencvs():
    rng = np.random.default_rng(0)
    for length in rng.integers(2, 600, 60):
        scaled = max(1, int(length * rng.uniform(0.5, 2)))
        ramp = np.arange(length, dtype=np.float32)[None]
        expected = cv2.resize(ramp, (scaled, 1), interpolation=cv2.INTER_NEAREST)[0]
        np.testing.assert_array_equal(augment.nearest_indices(int(length), scaled), expected)


@pytest.mark.parametrize("crop", [(30, 40), (90, 50), (50, 100), (200, 300)])
def test_antialiased_resizing_is_pils_within_one_level(crop):
    image = make_sample(*crop)["image"]
    expected = np.array(Image.fromarray(image).resize((80, 60), Image.Resampling.BILINEAR))
    found = augment.resize_antialiased(image, (60, 80))
    assert np.abs(found.astype(int) - expected).max() <= 1


def torchvision_crop(height, width, scale, ratio, draws):
    """torchvision's `RandomResizedCrop.get_params`, with its random numbers given."""
    for area_share, log_ratio, top, left in draws:
        area = height * width * area_share
        aspect = np.exp(log_ratio)
        w, h = int(round(np.sqrt(area * aspect))), int(round(np.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return top, left, h, w
    return None


def test_random_resized_crop_is_torchvisions():
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    good, bad = (0.5, np.log(1.2), 7, 9), (1.0, np.log(4 / 3), 0, 0)
    expected = torchvision_crop(60, 60, scale, ratio, [bad, good])
    rng = Script(*bad[:2], *good)
    assert augment.random_resized_crop((60, 60), scale, ratio, rng) == expected and not rng.values
    # After ten failures: the centre, its proportions within the range.
    assert augment.random_resized_crop((10, 100), scale, ratio, Script(*([1.0, 0.0] * 10))) == (0, 43, 10, 13)
    assert augment.random_resized_crop((100, 10), scale, ratio, Script(*([1.0, 0.0] * 10))) == (43, 0, 13, 10)
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        top, left, height, width = augment.random_resized_crop((60, 80), scale, ratio, generator)
        assert top >= 0 and left >= 0 and top + height <= 60 and left + width <= 80
        shares.append(height * width / 4800)
    assert min(shares) < 0.15 and max(shares) > 0.85


def test_distillation_transform_keeps_the_image_alone():
    transform = transforms.distill_transform(SIZE, scale_range=(0.3, 1.0))
    sample = make_sample()
    first, again = (transform(sample, np.random.default_rng(3)) for _ in range(2))
    assert set(first) == {"image", "id"} and first["image"].shape == (*SIZE, 3)
    assert first["image"].dtype == np.uint8
    np.testing.assert_array_equal(first["image"], again["image"])
    whole = transforms.distill_transform((60, 80), scale_range=(1, 1), ratio_range=(4 / 3, 4 / 3), flip=False)
    expected = (sample["image"].astype(np.float32) / 255 - transforms.IMAGENET_MEAN) / transforms.IMAGENET_STD
    np.testing.assert_allclose(as_seen(whole(sample, np.random.default_rng(0))), expected, atol=1e-6)


def test_evaluation_pads_and_unpad_gives_back():
    sample = make_sample(31, 41)
    result = transforms.evaluation_transform(SIZE, ALL)(sample, None)
    assert result["size"].tolist() == [31, 41] and result["size"].dtype == np.int32
    for task in ("semseg", "sal", "edge"):
        np.testing.assert_array_equal(transforms.unpad(result[task], (31, 41)), sample[task])
    depth = transforms.unpad(result["depth"], (31, 41))
    np.testing.assert_array_equal(depth, np.where(sample["depth"] == 0, 255, sample["depth"]))
    normals = transforms.unpad(result["normals"], (31, 41))
    assert (normals[20:30, 20:30] == 255).all() and (np.delete(normals, np.s_[20:30], axis=0) < 255).all()


def test_people_without_parts_are_ignored():
    none = make_sample() | {"human_parts": np.zeros((60, 80), np.uint8)}
    one = np.zeros((60, 80), np.uint8)
    one[5, 5] = 3
    transform = transforms.evaluation_transform((60, 80), ("human_parts",))
    assert (transform(none, None)["human_parts"] == 255).all()
    np.testing.assert_array_equal(transform(none | {"human_parts": one}, None)["human_parts"], one)


def test_a_new_task_is_treated_as_its_kind_says():
    distance = Task("distance", channels=1, kind="depth", weight=1.0, metric="RMSE")
    sample = {"image": make_sample()["image"], "distance": np.full((60, 80), 4.0, np.float32)}
    transform = transforms.multitask_transform(SIZE, (distance, TASKS["depth"]), scale_range=(2, 2))
    result = transform(sample | {"depth": sample["distance"]}, np.random.default_rng(0))
    assert (result["distance"] == 2).all() and (result["depth"] == 2).all()


def test_mistakes_are_named():
    sample = make_sample()
    with pytest.raises(UserError, match=r"'a' is 60 x 80, larger than image_size \(48, 64\)"):
        transforms.evaluation_transform(SIZE, ())(sample, None)
    with pytest.raises(UserError, match=r"'a' has no labels for task 'depth' \(it has semseg\)"):
        small = {key: sample[key] for key in ("id", "image", "semseg")}
        transforms.multitask_transform(SIZE, ("depth",))(small, np.random.default_rng(0))


def test_transforms_can_be_sent_to_workers():
    for transform in (transforms.multitask_transform(SIZE, ALL), transforms.distill_transform(SIZE)):
        copy = pickle.loads(pickle.dumps(transform))
        first, second = (each(make_sample(), np.random.default_rng(5)) for each in (transform, copy))
        np.testing.assert_array_equal(first["image"], second["image"])
