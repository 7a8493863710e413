import importlib.util
import sys
from pathlib import Path

import pytest

from sak_jax.data import arrayrecord, prepared
from sak_jax.data.rooms import layouts

TOOL = Path(__file__).parents[2] / "tools" / "prepare_data.py"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("original") / "nyud"
    layouts.write_nyud(root, 3, 2, size=(32, 40))
    return root


def run(monkeypatch, *arguments):
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    return tool.main()


def test_writes_what_the_data_set_reads(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "nyud", f"--source={source}", f"--output={tmp_path}", "--samples_per_shard=2") == 0
    assert "wrote 3 train, 2 val samples" in capsys.readouterr().out
    folder = prepared.find(tmp_path)
    assert len(list(folder.glob("nyud-train.array_record-*-of-00002"))) == 2
    assert len(arrayrecord.Prepared(folder, "val", ("semseg", "depth", "normals", "edge"))) == 2


def test_mistakes_end_with_status_2_and_one_line(source, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "nyud", "--source=nowhere", f"--output={tmp_path}") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and "nowhere" in error and "configs/rooms.py" in error
    assert run(monkeypatch, "nyu", "--source=nowhere", f"--output={tmp_path}") == 2
    assert capsys.readouterr().err.startswith("error: argument dataset: invalid choice: 'nyu'")
