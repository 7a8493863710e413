import importlib.util
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_data.py"


def test_prints_a_line_a_stage(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("benchmark_data", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "ROUNDS", 1)
    monkeypatch.setattr(tool, "SECONDS", 0.2)
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--samples=2"])
    assert tool.main() == 0
    lines, batches = (part.splitlines() for part in capsys.readouterr().out.strip().split("\n\n"))
    assert [" ".join(line.split()[:3]) for line in lines[1:]] == [
        "stage 2 nyud", "stage 2 pascal_context", "stage 1 folder"
    ]  # fmt: skip
    assert all(float(line.split()[-2]) > 0 for line in lines[1:])
    assert len(batches) == 4
    for line in batches[1:]:
        rates = line.partition("1: ")[2]
        assert all(float(rate.rpartition(" ")[2]) > 0 for rate in rates.split(",")), line
