import pytest

from sak_jax.teachers import registry
from tools import list_teachers


@pytest.mark.parametrize(
    "size", ["99999999999,5", "448", "0,0", "-448,576", "448,576,3", "448,x", "100,100", "٤٤٨,576"]
)
def test_an_image_size_out_of_range_is_one_line(capsys, monkeypatch, size):
    monkeypatch.setattr(list_teachers, "row", None)
    assert list_teachers.main([f"--image_size={size}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "224 to 4096 pixels" in error


def test_parameters_are_those_that_features_need(monkeypatch, capsys):
    teacher = registry.get("rooms_scene")
    monkeypatch.setattr(registry, "TEACHERS", {"rooms_scene": teacher, "swin_tiny": registry.get("swin_tiny")})
    assert list_teachers.main(["--image_size=448,576"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0].startswith("| `rooms_scene` | 0.8 | 40 | 128 |")
    assert rows[1].startswith("| `swin_tiny` | 27.5 | 48 | 96 192 384 768 |")
