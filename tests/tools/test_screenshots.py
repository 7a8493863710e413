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


def test_a_report_that_is_missing(tmp_path, capsys):
    assert screenshots.main([str(tmp_path / "nowhere.html"), f"--output={tmp_path}"]) == 2
    assert "nowhere.html" in capsys.readouterr().err
