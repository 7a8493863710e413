import json

import jax
import pytest

from sak_jax.engine import flops
from tests import runs
from tools import benchmark


def test_figures_of_a_step_and_of_what_it_gains_by(tmp_path, capsys):
    file = tmp_path / "figures.json"
    arguments = ["--work=distill", "--rounds=2", "--steps=1", "--without=gelu", "--batches=2", f"--output={file}"]
    assert benchmark.main([f"--config={runs.TINY}", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["distill, batch 2, ours", "distill, batch 2, without gelu"]
    ours, without = json.loads(file.read_text())
    assert ours["images_per_second"] == pytest.approx(2 / ours["seconds"])
    assert ours["mfu_measured"] == pytest.approx(1e9 * ours["gigaflops"] / ours["seconds"] / ours["matrix_rate"])
    assert without["times"] == pytest.approx(without["seconds"] / ours["seconds"])
    assert without["gigaflops"] == ours["gigaflops"] and min(ours["compile_seconds"], ours["peak_gibibytes"]) > 0


def test_the_data_sheet_counts_where_it_is_known(monkeypatch):
    device = jax.devices()[0].device_kind
    monkeypatch.setitem(flops.PEAKS, device, 4e12)
    figures = {"seconds": 2.0, "gigaflops": 1e3, "device": device, "matrix_rate": 1e12, "dtype": "bfloat16"}
    row = benchmark._rates(figures, 8)
    assert (row["images_per_second"], row["mfu_measured"], row["mfu_datasheet"]) == (4, 0.5, 0.125)
    row = benchmark._rates(figures | {"devices": 4}, 8)  # All of them have that rate.
    assert (row["images_per_second"], row["mfu_measured"], row["mfu_datasheet"]) == (4, 0.125, 0.03125)
    assert "mfu_datasheet" not in benchmark._rates(figures | {"dtype": "float32"}, 8)


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ("--config.data.resise=True", "data.resise"), ("--stesp=3", "--steps"), ("--steps=0", "--steps: '0'"),
        ("--work=stuednt", "student"), ("--batches=4,x", "--batches=4,x"), ("--without=speed", "attention"),
        ("--reference=nowhere", "nowhere"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_status_2(argument, word, capsys):
    assert benchmark.main([f"--config={runs.TINY}", argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error
