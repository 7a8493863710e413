import importlib.util
import json
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_shards.py"


def load(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_shards", TOOL)
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_shards", tool)
    spec.loader.exec_module(tool)
    return tool


def test_made_up_shards_are_ordered_and_looked_up(tmp_path, monkeypatch, capsys):
    tool = load(monkeypatch)
    monkeypatch.syspath_prepend(str(TOOL.parent))  # For the processes that it starts.
    assert tool.main(["--images=9500,30000", "--images_per_shard=500", f"--output={tmp_path}/out.json"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 3
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [row["images"] for row in rows] == [9500, 30000]
    for row, shards in zip(rows, (19, 60), strict=True):
        assert row["shards"] == shards  # A batch of 1024 from few shards has images of each.
        assert abs(row["r"]) < 0.05
        assert row["start"] > 0 and row["order"] > 0 and row["resume"] > 0


def test_mistakes_are_named(monkeypatch, capsys):
    tool = load(monkeypatch)
    assert tool.main(["--images=1e6"]) == 2
    assert "--images=1e6 must be whole numbers" in capsys.readouterr().err
    assert tool.main(["--images=0"]) == 2
