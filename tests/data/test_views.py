import pickle

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sak_jax import normalisation
from sak_jax.data import views

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.35])
@pytest.mark.parametrize(
    ("step", "enhancer"),
    [
        (views.brightness, ImageEnhance.Brightness),
        (views.contrast, ImageEnhance.Contrast),
        (views.saturation, ImageEnhance.Color),
    ],
)
def test_colours_change_as_in_pillow_up_to_rounding(step, enhancer, factor):
    expected = np.array(enhancer(Image.fromarray(IMAGE)).enhance(factor))
    found = step(IMAGE, factor)
    assert found.dtype == np.uint8 and np.abs(found.astype(int) - expected).max() <= 1


def test_hue_turns_colours_and_leaves_grey():
    red = np.zeros((1, 1, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    assert views.hue(red, 1 / 3).tolist() == [[[0, 255, 0]]] and views.hue(red, -1 / 3).tolist() == [[[0, 0, 255]]]
    assert np.abs(views.hue(IMAGE, 0.0).astype(int) - IMAGE).max() <= 1
    level = np.full((2, 2, 3), 90, np.uint8)
    np.testing.assert_array_equal(views.hue(level, 0.07), level)


def test_views_differ_and_follow_from_the_generator():
    transform = pickle.loads(pickle.dumps(views.dune_transform((28, 42))))
    sample = {"image": IMAGE, "id": "a", "group": np.array(2, np.int32)}
    first = [transform(sample, np.random.default_rng(seed)) for seed in range(40)]
    again = [transform(sample, np.random.default_rng(seed)) for seed in range(40)]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        assert one["image"].shape == (28, 42, 3) and one["image"].dtype == np.float32
        assert one["id"] == "a" and one["group"] == 2
    assert len({one["image"].tobytes() for one in first}) == 40
    # Undone normalisation: levels stay within 0..1, a fifth or so is grey, and some are not.
    images = [one["image"] * np.float32(normalisation.STD) + np.float32(normalisation.MEAN) for one in first]
    assert all(-1e-5 <= image.min() and image.max() <= 1 + 1e-5 for image in images)
    grey = [np.abs(np.ptp(image, axis=2)).max() < 1e-4 for image in images]
    assert 2 <= sum(grey) <= 16


class Draws:
    """A generator whose coins fall as given, and which draws the middle of every range."""

    def __init__(self, *coins):
        self.coins = list(coins)

    def random(self):
        return self.coins.pop(0)

    def uniform(self, low, high):
        return (low + high) / 2

    def integers(self, low, high):
        return (low + high) // 2

    def permutation(self, count):
        return np.arange(count)


def plain(image):
    return (image * np.float32(normalisation.STD) + np.float32(normalisation.MEAN)) * 255


@pytest.mark.parametrize("solarized", [False, True])
@pytest.mark.parametrize("blurred", [False, True])
def test_blur_and_solarize(blurred, solarized):
    transform, sample = views.dune_transform((40, 50)), {"image": IMAGE}
    # Coins: flip, colours, grey, blur, solarize.
    base = plain(transform(sample, Draws(0.9, 0.9, 0.9, 0.9, 0.9))["image"])
    assert np.abs(base - np.rint(base)).max() < 1e-2
    found = plain(transform(sample, Draws(0.9, 0.9, 0.9, 0.1 if blurred else 0.9, 0.1 if solarized else 0.9))["image"])
    if blurred:
        padded = np.pad(base, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        weights = np.exp(-0.5 * (np.arange(-4, 5) / 2.55) ** 2)
        weights /= weights.sum()
        rows = sum(w * padded[i : i + 40] for i, w in enumerate(weights))
        base = sum(w * rows[:, i : i + 50] for i, w in enumerate(weights))
    if solarized:
        base = np.where(base >= 127.5, 255 - base, base)
    np.testing.assert_allclose(found, base, atol=0.05 if not (blurred and solarized) else 0.1)


def test_a_shrunk_image_is_pillows():
    expected = np.array(Image.fromarray(IMAGE).resize((20, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(views.resize_bicubic(IMAGE, (16, 20)), expected)
