"""Videos: what is read, to the end or not, and sizes and rates that MPEG-4 does not have."""

import resource

import cv2
import numpy as np
import pytest

from sak_jax import videos


def cut_video(path, kept=0.5):
    """A video of 40 frames, ten a second, of which a part is kept."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for index in range(40):
        writer.write(np.full((24, 32, 3), 5 * index, np.uint8))
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * kept)])
    return path


def test_a_video_without_frames_is_unreadable(tmp_path):
    (tmp_path / "a.mp4").write_text("text")
    with pytest.raises(videos.VideoError, match="No such file"):
        videos.Reader(tmp_path / "nowhere.mp4")
    with pytest.raises(videos.VideoError, match="no video"):
        videos.Reader(tmp_path / "a.mp4")


def test_frames_of_other_sizes_are_cut_or_laid_on_white(tmp_path):
    writer = videos.Writer(tmp_path / "a.mp4", 5)
    for size in ((15, 21), (10, 40), (40, 10)):
        writer.write(np.zeros((*size, 3), np.uint8))
    writer.close()
    frames = list(videos.Reader(tmp_path / "a.mp4"))
    assert [frame.shape for frame in frames] == [(16, 22, 3)] * 3
    assert frames[2][:, 16:].mean() > 200 and frames[2][:, :5].mean() < 60


@pytest.mark.parametrize(("kept", "least"), [(1, 0), (0.5, 15)])
def test_frames_that_are_announced_and_missing_are_counted(kept, least, tmp_path):
    reader = videos.Reader(cut_video(tmp_path / "a.avi", kept))
    read = len(list(reader))
    assert read + reader.lost == 40 and (reader.lost >= least if least else not reader.lost)


@pytest.mark.parametrize(
    ("count", "last", "lost"),
    [(-1, 0, 0), (float("nan"), 0, 0), (42, 3900, 0), (43, 3900, 3), (1000, 3900, 960), (1000, 99000, 0)],
)
def test_counts_that_are_estimates_are_forgiven(count, last, lost, tmp_path):
    """Of frames at a varying rate OpenCV announces too many; the last one's time, in milliseconds, shows the end."""
    reader = videos.Reader(cut_video(tmp_path / "a.avi", 1))
    assert len(list(reader)) == 40
    properties = {cv2.CAP_PROP_FRAME_COUNT: count, cv2.CAP_PROP_POS_MSEC: last, cv2.CAP_PROP_FPS: 10.0}
    reader._capture = type("Capture", (), {"get": lambda self, name: properties[name]})()
    assert reader.lost == lost


def test_what_mpeg_4_cannot_hold_is_scaled_down(tmp_path):
    writer = videos.Writer(tmp_path / "a.mp4", 10)
    for _ in range(2):
        writer.write(np.full((91, 9100, 3), 128, np.uint8))
    writer.close()
    assert [frame.shape for frame in videos.Reader(tmp_path / "a.mp4")] == [(82, 8190, 3)] * 2


@pytest.mark.parametrize(("rate", "written"), [(0.001, 1), (65536, 1000), (1e9, 1000), (29.97, 29.97)])
def test_rates_that_mpeg_4_does_not_have_become_the_nearest(rate, written, tmp_path):
    writer = videos.Writer(tmp_path / "a.mp4", rate)
    for _ in range(2):
        writer.write(np.zeros((16, 16, 3), np.uint8))
    writer.close()
    assert videos.Reader(tmp_path / "a.mp4").rate == pytest.approx(written)


def test_a_video_that_cannot_be_written_says_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "MOST_SIDE", 20000)
    with pytest.raises(videos.VideoError, match="9000 x 16 pixels, 10 frames a second"):
        videos.Writer(tmp_path / "a.mp4", 10).write(np.zeros((16, 9000, 3), np.uint8))


def test_a_video_that_was_not_written_whole_is_told(tmp_path):
    writer, limits = videos.Writer(tmp_path / "a.mp4", 10), resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))  # As a full disk.
    try:
        for frame in noise:
            writer.write(frame)
        with pytest.raises(videos.VideoError, match="TMPDIR"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
