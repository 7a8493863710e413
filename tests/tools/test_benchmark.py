import json

import jax
import pytest

from sak_jax.engine import flops
from tests import runs
from tools import benchmark


def test_figures_of_both_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(flops.PEAKS, jax.devices()[0].device_kind, 1e12)
    file = tmp_path / "figures.json"
    assert benchmark.main([f"--config={runs.TINY}", "--steps=2", f"--output={file}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["distill", "multitask"]
    figures = json.loads(file.read_text())
    for row in figures.values():
        assert row["images_per_second"] == pytest.approx(8e3 / row["step_milliseconds"])
        assert row["mfu"] == pytest.approx(row["gigaflops"] / row["step_milliseconds"] / jax.device_count())
    # Forward and backward through four blocks of 12 kernels' worth of 16 x 16, for 13 tokens of 8 images: as a least.
    assert figures["distill"]["gigaflops"] > 3 * 2 * 4 * 12 * 16 * 16 * 13 * 8 / 1e9
    assert figures["multitask"]["gigaflops"] > figures["distill"]["gigaflops"]


@pytest.mark.parametrize(
    ("argument", "word"),
    [("--config.data.resise=True", "data.resise"), ("--stesp=3", "--steps"), ("--steps=0", "--steps=0")],
)
def test_mistakes_are_one_line_and_status_2(argument, word, capsys):
    assert benchmark.main([f"--config={runs.TINY}", argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and word in error
