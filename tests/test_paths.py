import os
import stat
import subprocess
import sys

import pytest

from sak_jax import paths
from sak_jax.errors import UserError
from tools import predict, report


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths.tempfile, "tempdir", str(tmp_path / "tmp"))
    paths._temporary_directory.cache_clear()
    yield tmp_path / "home"
    paths._temporary_directory.cache_clear()


def test_caches_lie_in_the_home_folder(home):
    assert paths.cache_directory("teachers") == paths.epath.Path(home / ".cache/sak_jax/teachers")
    assert not (home / ".cache").exists()


def test_without_a_home_caches_lie_in_a_temporary_folder(home):
    # In a process of its own: of a user who is in no database, HOME unset.
    code = (
        "import os, sys, pwd, tempfile; from sak_jax import paths\n"
        "pwd.getpwuid = lambda uid: {}[uid]\n"
        "print(paths.cache_directory('teachers'))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | {"TMPDIR": str(home.parent)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(home.parent / f"sak_jax-{os.getuid()}" / "teachers")


@pytest.mark.parametrize("value", ["", "no/absolute/path", "/dev/null", "/nonexistent"])
def test_a_home_that_is_no_folder_is_not_used(home, monkeypatch, value):
    monkeypatch.setenv("HOME", value)
    folder = paths.cache_directory("stems")
    assert folder == paths.epath.Path(home.parent / "tmp" / f"sak_jax-{os.getuid()}" / "stems")
    assert stat.S_IMODE(os.stat(folder.parent).st_mode) == 0o700


def test_a_home_that_cannot_be_written_is_used_only_to_read_what_is_there(home, monkeypatch):
    (home / ".cache/sak_jax/teachers").mkdir(parents=True)
    monkeypatch.setattr(paths.os, "access", lambda path, mode: not str(path).startswith(str(home)))
    temporary = paths.epath.Path(home.parent / "tmp" / f"sak_jax-{os.getuid()}")
    assert paths.cache_directory("teachers") == temporary / "teachers"
    assert paths.cache_directory("teachers", writable=False) == paths.epath.Path(home / ".cache/sak_jax/teachers")
    assert paths.cache_directory("stems", writable=False) == temporary / "stems"


def test_a_temporary_folder_that_is_a_link_is_not_trusted(home, monkeypatch):
    monkeypatch.setenv("HOME", "")
    (home.parent / "tmp" / f"sak_jax-{os.getuid()}").symlink_to(home)
    folder = paths.cache_directory("stems")
    assert folder.parent.name.startswith("sak_jax-") and folder.parent.name != f"sak_jax-{os.getuid()}"


def test_a_file_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(paths.os, "fsync", lambda fd: events.append(("sync", os.fstat(fd).st_size)) or fsync(fd))
    monkeypatch.setattr(paths.os, "replace", lambda a, b: events.append(("rename", str(b))) or replace(a, b))
    paths.write_bytes(tmp_path / "new" / "x", b"12345")
    assert events == [("sync", 5), ("rename", str(tmp_path / "new" / "x"))]
    assert (tmp_path / "new" / "x").read_bytes() == b"12345"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        paths.write_bytes(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_an_empty_path_is_not_the_folder_one_is_in(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for check in (paths.given, paths.check_output):
        with pytest.raises(UserError, match="is empty"):
            check("")
    assert paths.given(".") == paths.epath.Path(".")
    flags = {"checkpoint": "rooms", "images": str(tmp_path), "output": "out"}
    (tmp_path / "a.png").write_bytes(b"")
    for empty in flags:
        given = [f"--{flag}={'' if flag == empty else value}" for flag, value in flags.items()]
        assert predict.main(given) == 2, empty
        error = capsys.readouterr().err
        assert "is empty" in error and error.count("\n") == 1
    (tmp_path / "config.json").write_text("{}")
    assert report.main(["", "--output=x.html"]) == 2 and "is empty" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.png", "config.json"]
