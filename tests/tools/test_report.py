"""The command line of the report."""

import json

import pytest

from sak_jax.report import record
from tests.report import runs
from tools import report


@pytest.fixture
def workdirs(tmp_path):
    for name in ("a/rooms", "b/rooms"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"metrics": {"semseg/mIoU": 20.0}}))
        record.save(folder, runs.full())
    return [str(tmp_path / name) for name in ("a/rooms", "b/rooms")]


def test_several_runs_side_by_side(workdirs, tmp_path, capsys):
    output = tmp_path / "new" / "both.html"
    assert report.main([*workdirs, f"--output={output}"]) == 0
    assert "both.html" in capsys.readouterr().out
    page = output.read_text()
    assert "a/rooms" in page and "b/rooms" in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["nowhere", "--output=x.html"], "nowhere"),
        (["--output=x.html"], "WORKDIR"),
        (["."], "--output"),
        ([".", "--output=x.html"], "holds no run"),
        (["ROOMS", "--output=x.pdf"], ".html"),
        (["ROOMS", "--output=folder.html"], "folder.html"),
        (["ROOMS", "--outputs=x.html"], "--output"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(workdirs, arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert report.main([workdirs[0] if argument == "ROOMS" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error
    assert sorted(tmp_path.rglob("*")) == before
