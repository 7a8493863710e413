"""Which files a user names, what their outputs are called, and how many are predicted together."""

import weakref

import numpy as np
import pytest
from PIL import Image

from sak_jax import prediction_files
from sak_jax.errors import UserError
from sak_jax.prediction_files import Output, find
from tests.test_drawing import segmentation


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_paths_are_data_and_patterns_are_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files(
        tmp_path, "a[1].png", "a1.png", "sub/b.png", "sub/deep/b.jpg", "sub/.hidden.png", "sub/notes.txt", "sub/c.mp4"
    )

    def found(*given):
        return [(str(one.path), one.name) for one in find(given)]

    assert found("a[1].png") == [("a[1].png", "a[1]")]
    assert found("a[12].png") == [("a1.png", "a1")]
    assert found("a*.png") == [("a1.png", "a1"), ("a[1].png", "a[1]")]
    assert found("sub") == [("sub/b.png", "b"), ("sub/c.mp4", "c"), ("sub/deep/b.jpg", "deep-b")]
    assert found("sub/*.png", "sub/b.png") == [("sub/b.png", "b")]
    assert found("sub/**/b.*") == [("sub/b.png", "b"), ("sub/deep/b.jpg", "b-2")]
    assert found("sub/notes.txt") == [("sub/notes.txt", "notes")]  # Given by name: whatever it is is tried.
    with pytest.raises(UserError, match="pattern"):
        found("sub/*.txt")


def test_what_was_written_below_a_folder_is_no_input(tmp_path):
    files(tmp_path, "a.png", "out/a.png", "out/depth/a.png")
    (tmp_path / "link").symlink_to("out")
    for given in ("", "**/*.png"):
        assert [one.path.name for one in find([str(tmp_path / given)], tmp_path / "out")] == ["a.png"]
    for given in ("out", "out/**/*.png"):  # Named by the user.
        assert len(find([str(tmp_path / given)], tmp_path / "out")) == 2
    assert len(find([str(tmp_path)], tmp_path / "none")) == 3


def test_links_that_lead_in_circles_end(tmp_path):
    files(tmp_path, "in/a.png", "in/b/c.png")
    for link, target in (("in/self", "."), ("in/b/up", ".."), ("in/other", "b"), ("in/loop.png", "loop.png")):
        (tmp_path / link).symlink_to(target)
    assert [one.name for one in find([str(tmp_path / "in")])] == ["a", "b-c", "loop"]
    assert len(find([str(tmp_path / "in" / "**" / "*.png")])) == 3
    assert [one.name for one in find([str(tmp_path / "in" / "othe?" / "*.png")])] == ["c"]


def test_long_names_are_shortened_and_kept_apart(tmp_path):
    files(tmp_path / ("f" * 150) / ("g" * 150), "1.png", "1.jpg")
    files(tmp_path, "x" * 240 + ".png", "é" * 120 + ".jpg")
    inputs = find([str(tmp_path)])
    output = Output(tmp_path / "out")
    output.check(inputs)
    for one in inputs:
        output.write(f"{one.name}.png", b"")
    names = [one.name for one in inputs]
    assert len(set(names)) == 4 and max(len(name.encode()) for name in names) == 202
    assert sum(name.endswith("g-1") for name in names) == sum(name.endswith("g-1-2") for name in names) == 1


def test_large_pictures_are_predicted_apart_and_let_go_of(tmp_path, monkeypatch):
    for index, height in enumerate((20, 20, 20, 90, 20)):
        Image.fromarray(np.zeros((height, 30, 3), np.uint8)).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(prediction_files, "MOST_PIXELS", 2 * 20 * 30)
    chunks, kept, alive = [], [], []

    class Student:
        def predict(self, pictures, **options):
            chunks.append(len(pictures))
            alive.append(sum(each() is not None for each in kept))
            found = [segmentation([3]) for _ in pictures]
            kept.extend(map(weakref.ref, found))
            return found

    assert prediction_files.predict(Student(), find([str(tmp_path)]), Output(tmp_path / "out")) == 5
    assert chunks == [2, 1, 1, 1] and not any(alive)
