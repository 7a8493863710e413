"""The command line of predictions: pictures, folders, patterns, videos; what can't be read; nothing overwritten."""

import os

import cv2
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import sak_jax
from sak_jax import recipe, videos
from sak_jax.engine import checkpoints
from tests import runs
from tests.test_videos import cut_video
from tools import predict

NAMES = tuple(f"thing {index}" for index in range(14))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A checkpoint of a fresh student of the tiny recipe, with names of classes."""
    config, workdir = recipe.load(runs.TINY), tmp_path_factory.mktemp("run")
    config.tasks = {**recipe.ordered(config.tasks), "semseg": {"channels": 14, "names": NAMES}}
    student = sak_jax.build(config)
    checkpoints.write_model(workdir, "multitask", 12, recipe.plain(config), nnx.state(student))
    return workdir


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def picture(path, height=24, width=32, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width, seed)).save(path)
    return path


def video(path, frames=5, height=24, width=32):
    writer = videos.Writer(path, 10)
    for index in range(frames):
        writer.write(np.full((height, width, 3), 20 * index, np.uint8))
    writer.close()
    return path


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(workdir, images, output, *more):
    return predict.main([f"--checkpoint={workdir}", "--images", *map(str, images), f"--output={output}", *more])


def test_pictures_are_drawn_and_values_are_written(workdir, tmp_path, capsys):
    output = tmp_path / "out"
    picture(tmp_path / "in" / "kitchen.png", 21, 27)
    assert run(workdir, [tmp_path / "in"], output, "--raw") == 0
    assert "1 file to" in capsys.readouterr().out
    tasks = ("depth", "edge", "semseg")
    assert names(output) == sorted(["kitchen.npz", "kitchen.png", *(f"{task}/kitchen.png" for task in tasks)])
    found = np.load(output / "kitchen.npz")
    wanted = sak_jax.load(workdir).predict(noise(21, 27))
    assert set(found) == {
        "semseg/classes", "semseg/probabilities", "depth/metres", "edge/probability",
        "routing/semseg", "routing/depth", "routing/edge",
    }  # fmt: skip
    np.testing.assert_allclose(found["depth/metres"], wanted["depth"].metres, atol=1e-5)
    np.testing.assert_allclose(found["routing/edge"], wanted.routing["edge"], atol=1e-5)
    drawn = np.asarray(Image.open(output / "semseg" / "kitchen.png"))
    big = np.kron(wanted["semseg"].draw(), np.ones((9, 9, 1), np.uint8))  # 27 pixels are enlarged to 240 or more.
    np.testing.assert_array_equal(drawn[: len(big)], big)
    assert len(drawn) > len(big)  # The legend.


def test_what_cannot_be_read_is_a_line_and_the_rest_is_done(workdir, tmp_path, capsys):
    folder = tmp_path / "in"
    picture(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    (folder / "c.mp4").write_bytes(b"no video")
    picture(folder / "d.png", 30, 20)
    assert run(workdir, [folder], tmp_path / "out", "--batch=2") == 1
    error = capsys.readouterr().err
    skipped = [line for line in error.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 2 and "b.png" in skipped[0] and "c.mp4" in skipped[1] and "data.on_error" not in error
    assert error.splitlines()[-1].startswith("error: 2 of 4 files")
    assert {"a.png", "d.png", "depth/a.png", "depth/d.png"} <= set(names(tmp_path / "out"))
    assert len(names(tmp_path / "out")) == 8


def test_a_video_becomes_videos(workdir, tmp_path):
    source = video(tmp_path / "walk.mp4")
    assert run(workdir, [source], tmp_path / "out", "--batch=2", "--raw") == 0
    frames = [f"walk/{index:06d}.npz" for index in range(5)]
    tasks = ("depth", "edge", "semseg")
    assert names(tmp_path / "out") == sorted(["walk.mp4", *(f"{task}/walk.mp4" for task in tasks), *frames])
    found = videos.Reader(tmp_path / "out" / "depth" / "walk.mp4")
    assert found.rate == 10 and len(list(found)) == 5
    assert np.load(tmp_path / "out" / frames[4])["depth/metres"].shape == (24, 32)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--images", "nowhere.png"], "nowhere.png"),
        (["--images", "*.bmp"], "pattern"),
        (["--images", "empty"], "neither pictures nor videos"),
        (["--images", "a.png"], "--force"),
        (["--images", "b.png", "--resize=big"], "--resize=big"),
        (["--images", "b.png", "--resize=32"], "--resize=32"),
        (["--images", "b.png", "--resize=999999,999999"], "8192 x 8192"),
        (["--images", "b.png", "--tile=0"], "--tile=0"),
        (["--images", "b.png", "--batch=0"], "--batch: '0'"),
        (["--images", "b.png", "--outptu=x"], "--outptu"),
        (["--images", "b.png", "--checkpoint=empty"], "empty holds no checkpoint"),
        (["--images", "b.png", "--checkpoint=nowhere"], "nowhere is not there"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(arguments, word, workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    picture(tmp_path / "out" / "a.png")
    before = names(tmp_path)
    assert predict.main([f"--checkpoint={workdir}", "--output=out", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error
    assert names(tmp_path) == before


def test_a_tasks_picture_that_is_there_is_kept_unless_forced(workdir, tmp_path, capsys):
    source = picture(tmp_path / "a.png")
    (tmp_path / "out" / "depth").mkdir(parents=True)
    (tmp_path / "out" / "depth" / "a.png").write_bytes(b"mine")
    assert run(workdir, [source], tmp_path / "out") == 2
    assert "--force" in capsys.readouterr().err and names(tmp_path / "out") == ["depth/a.png"]
    assert run(workdir, [source], tmp_path / "out", "--force") == 0
    assert (tmp_path / "out" / "depth" / "a.png").read_bytes() != b"mine"


def test_a_video_that_is_cut_or_cannot_be_written_is_a_line(workdir, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    picture(folder / "a.png")
    cut_video(folder / "b.avi")
    assert run(workdir, [folder], tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("cut short: ") == 1 and "b.avi" in error and "error: 1 of 2 files" in error
    assert 0 < len(list(videos.Reader(tmp_path / "out" / "b.mp4"))) < 40
    monkeypatch.setattr(videos.Writer, "write", unwritable)
    assert run(workdir, [folder], tmp_path / "other") == 1
    assert f"skipped: {folder / 'b.avi'}: no encoder" in capsys.readouterr().err
    assert names(tmp_path / "other") == ["a.png", "depth/a.png", "edge/a.png", "semseg/a.png"]


def unwritable(*_):
    raise videos.VideoError("no encoder")


@pytest.mark.parametrize("source", ["a.png", "depth/a.png"])
def test_an_input_is_never_replaced(source, workdir, tmp_path, capsys):
    content = picture(tmp_path / source).read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    assert run(workdir, [tmp_path / source], tmp_path / "link", "--force") == 2
    assert "is an input; give another --output" in capsys.readouterr().err
    assert (tmp_path / source).read_bytes() == content and names(tmp_path) == [source]


def test_a_folder_that_cannot_be_read_is_a_line(workdir, tmp_path, monkeypatch, capsys):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "secret").mkdir()
    listdir = os.listdir

    def refused(path):
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refused)
    assert run(workdir, [tmp_path / "in"], tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"skipped: {tmp_path / 'in' / 'secret'}: cannot be read" in error and "error: 1 of 2 files" in error
    assert (tmp_path / "out" / "a.png").exists()


def test_the_picture_of_the_package_is_there_for_a_first_try(tmp_path, capsys):
    assert predict.main(["--checkpoint=rooms", f"--output={tmp_path / 'out'}"]) == 0
    tasks = ("depth", "edge", "normals", "sal", "semseg")
    assert names(tmp_path / "out") == sorted(["scene.png", *(f"{task}/scene.png" for task in tasks)])
    montage = cv2.imread(str(tmp_path / "out" / "scene.png"))
    assert montage.shape[1] >= 3 * 240 and montage.std() > 30
