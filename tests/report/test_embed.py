"""Pictures in a page: exact where they are few-coloured, small, and spread over all images."""

import base64
import io

import numpy as np
from PIL import Image

from sak_jax.report import embed
from tests.report import runs


def decode(uri):
    head, _, content = uri.partition(",")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def test_labels_are_exact_and_photographs_are_small():
    labels = np.random.default_rng(0).integers(0, 40, (300, 400))
    colours = np.random.default_rng(1).integers(0, 256, (40, 3), np.uint8)
    head, found = decode(embed.data_uri(colours[labels]))
    assert "png" in head and np.array_equal(found, colours[labels])
    photograph = runs.picture(300, 400)
    head, found = decode(embed.data_uri(photograph))
    assert "jpeg" in head and found.shape == photograph.shape
    assert np.array_equal(decode(embed.data_uri(runs.picture(24, 32)))[1], runs.picture(24, 32))


def test_large_pictures_are_shrunk_and_labels_get_no_new_colours():
    labels = np.zeros((900, 1280, 3), np.uint8)
    labels[:, 640:] = 255
    _, found = decode(embed.data_uri(labels))
    assert found.shape == (450, 640, 3) and set(np.unique(found)) == {0, 255}


def test_the_budget_is_kept_with_images_spread_over_all():
    run = runs.full(pictures=runs.examples(100, size=(40, 50)))
    pool = embed.Pool()
    shown = embed.examples([run], pool, budget=150_000)[0]
    numbers = [example["number"] for example in shown]
    assert pool.bytes <= 150_000 and 8 <= len(numbers) < 100 and numbers == sorted(numbers)
    assert max(np.diff([*numbers, 100])) <= 2.1 * 100 / len(numbers)


def test_a_picture_of_several_runs_is_held_once():
    pool = embed.Pool()
    one, other = embed.examples([runs.full(), runs.full(pictures=runs.examples(2))], pool)
    assert [len(one), len(other)] == [3, 2]
    assert one[1]["image"] == other[1]["image"]
    assert len(pool.uris) == 3 + 3 + 3  # images, flat colours, features
