"""What people asked of tools/prepare_data.py and tools/write_rooms.py by mistake."""

import numpy as np
import pytest

from sak_jax.data import create_source, prepare, prepared
from sak_jax.data.rooms import layouts
from sak_jax.errors import UserError
from tools import prepare_data, write_rooms

SIZE = (48, 64)


@pytest.fixture
def original(tmp_path):
    layouts.write_nyud(tmp_path / "nyud", 3, 2, size=SIZE)
    return tmp_path / "nyud"


def lies(path):
    """A header that claims another type."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'<f4'", b"'|O8'"))


def test_a_negative_number_of_samples_publishes_nothing(original, tmp_path, capsys):
    output = tmp_path / "output"
    arguments = ["nyud", f"--source={original}", f"--output={output}"]
    assert prepare_data.main([*arguments, "--samples_per_shard=-1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error == "error: --samples_per_shard=-1 must be positive, or 0 for shards of some 150 MB"
    assert prepare_data.main(arguments) == 0 and prepared.find(output)


def test_samples_with_a_damaged_header_are_left_out(original, tmp_path):
    lies(original / "depth" / "0002.npy")
    (original / "images" / "0003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (original / "segmentation" / "0005.png").unlink()
    with pytest.raises(UserError, match=r"2 problems: .*0002\.npy: .*0003\.png"):
        prepare.prepare("nyud", original, tmp_path / "raise", ("train",))
    counts, problems = prepare.prepare("nyud", original, tmp_path / "skip", on_error="skip")
    assert counts == {"train": 1, "val": 1} and len(problems) == 3
    assert any("0002.npy" in problem for problem in problems) and any("0005.png" in problem for problem in problems)
    read = create_source({"name": "nyud", "root": str(tmp_path / "skip")}, "train", ("semseg",), SIZE)
    assert [read[index]["id"] for index in range(len(read))] == ["0001"]


def test_an_empty_data_set_is_never_published(original, tmp_path):
    for path in (original / "normals").iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="no sample of the split 'train' can be read: 5 problems"):
        prepare.prepare("nyud", original, tmp_path / "output", on_error="skip")
    assert prepared.find(tmp_path / "output") is None


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/none"])
def test_an_output_that_cannot_be_written_is_one_line(original, tmp_path, output, capsys):
    (tmp_path / "file").write_text("")
    assert prepare_data.main(["nyud", f"--source={original}", f"--output={tmp_path / output}"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert write_rooms.main(["nyud", f"--output={tmp_path / output}", "--train=1", "--val=1"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("flag", ["--seed=-1", "--train=0", "--val=-3", "--height=0", "--width=99999999999"])
def test_rooms_of_impossible_sizes_are_one_line(tmp_path, flag, capsys):
    assert write_rooms.main(["nyud", f"--output={tmp_path / 'rooms'}", flag]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: rooms needs") and not (tmp_path / "rooms").exists()


@pytest.mark.parametrize("dtype", ["<U3", "O", [("a", "<f4")]])
def test_depth_of_strings_structs_or_objects_is_named_or_skipped(original, dtype):
    np.save(original / "depth" / "0001.npy", np.zeros(SIZE, dtype), allow_pickle=True)
    data = {"name": "nyud", "root": str(original)}
    with pytest.raises(UserError, match=r"0001\.npy: holds .*not numbers"):
        create_source(data, "train", ("depth",), SIZE)[0]
    assert create_source(data | {"on_error": "skip"}, "train", ("depth",), SIZE)[0]["id"] == "0002"
