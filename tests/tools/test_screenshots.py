"""Pictures of a report, light and dark."""

import numpy as np
import pytest
from PIL import Image

from sak_jax.report import page
from tests.report import browser, runs
from tools import screenshots


@browser.needed
def test_light_and_dark(tmp_path, capsys):
    pytest.importorskip("selenium", reason="needs selenium: pip install selenium")
    page.write(tmp_path / "report.html", [runs.full()])
    arguments = [f"--output={tmp_path / 'pictures'}", "--parts=results,routing", "--width=500", "--height=400"]
    assert screenshots.main([str(tmp_path / "report.html"), *arguments]) == 0
    pictures = {
        path.stem: np.asarray(Image.open(path).convert("L"), float) for path in (tmp_path / "pictures").iterdir()
    }
    assert set(pictures) == {"results-light", "results-dark", "routing-light", "routing-dark"}
    assert all(picture.shape == (400, 500) for picture in pictures.values())
    assert pictures["results-light"].mean() > 200 and pictures["results-dark"].mean() < 60
    assert not np.array_equal(pictures["results-light"], pictures["routing-light"])


@browser.needed
def test_the_demo_and_no_report(tmp_path):
    pytest.importorskip("selenium", reason="needs selenium: pip install selenium")
    pytest.importorskip("gradio", reason="needs gradio: pip install 'sak_jax[demo]'")
    arguments = [f"--output={tmp_path}", "--checkpoint=rooms", "--width=900", "--height=1000"]
    assert screenshots.main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"demo-light.webp", "demo-dark.webp"}
    light, dark = (
        np.asarray(Image.open(tmp_path / f"demo-{name}.webp").convert("L"), float) for name in ("light", "dark")
    )
    assert light.shape == (1000, 900) and light.mean() > dark.mean() + 40
    assert np.std(light) > 30  # Pictures, not an empty page.


def test_nothing_to_show(tmp_path, capsys):
    assert screenshots.main([f"--output={tmp_path}"]) == 2
    assert "--checkpoint" in capsys.readouterr().err


def test_a_report_that_is_missing(tmp_path, capsys):
    assert screenshots.main([str(tmp_path / "nowhere.html"), f"--output={tmp_path}"]) == 2
    assert "nowhere.html" in capsys.readouterr().err
