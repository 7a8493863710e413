"""Prepared data: the set that was asked for, whatever lies beside it and whatever its folder is called."""

import json
import shutil

import numpy as np
import pytest

from sak_jax.data import create_source, prepare
from sak_jax.data.arrayrecord import Prepared
from sak_jax.data.rooms import layouts
from sak_jax.data.sets.nyud import NYUD
from sak_jax.errors import UserError

SIZE = (48, 64)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    layouts.write_nyud(root / "nyud", 3, 2, size=SIZE)
    layouts.write_pascal_context(root / "pascal_context", 3, 2, size=SIZE)
    return root


@pytest.fixture(scope="module")
def both(tmp_path_factory, originals):
    """NYUD-v2 and PASCAL-Context prepared into one folder."""
    output = tmp_path_factory.mktemp("both")
    for name in ("nyud", "pascal_context"):
        prepare.prepare(name, originals / name, output)
    return output


def source(root, name, tasks=("semseg",)):
    return create_source({"name": name, "root": str(root)}, "train", tasks, SIZE)


def give_version(folder, version):
    shutil.copytree(folder / "1.0.0", folder / version)
    info = json.loads((folder / version / "dataset_info.json").read_text())
    (folder / version / "dataset_info.json").write_text(json.dumps(info | {"version": version}))
    return folder / version


def test_two_sets_in_one_folder_are_told_apart(both):
    assert source(both, "nyud")[0]["id"] == "0001"
    assert source(both, "pascal_context")[0]["id"] == "2008_000001"


def test_another_set_is_not_taken_for_the_one_asked_for(both):
    with pytest.raises(UserError, match="holds nyud 1.0.0, pascal_context 2.0.0 prepared, not imagenet"):
        source(both, "imagenet", ())
    with pytest.raises(UserError, match="holds pascal_context 2.0.0 prepared, not nyud"):
        source(both / "pascal_context", "nyud")


def test_versions_are_compared_as_numbers(both, tmp_path):
    root = shutil.copytree(both / "nyud", tmp_path / "nyud")
    give_version(root, "9.0.0")
    newest = give_version(root, "10.0.0")
    assert str(newest) in source(root, "nyud").name
    assert str(newest) in source(tmp_path, "nyud").name


def test_labels_of_an_old_version_are_refused(both, tmp_path):
    root = shutil.copytree(both / "pascal_context", tmp_path / "pascal_context")
    info = json.loads((root / "2.0.0" / "dataset_info.json").read_text())
    (root / "2.0.0" / "dataset_info.json").write_text(json.dumps(info | {"version": "1.0.0"}))
    with pytest.raises(UserError, match="is pascal_context 1.0.0, whose labels were others"):
        source(root, "pascal_context")


@pytest.mark.parametrize("foreign", ["{}", "[1]", "not JSON", '{"name": "coco", "version": "1.0.0"}', "\xff"])
def test_foreign_metadata_beside_original_files_do_not_matter(originals, tmp_path, foreign):
    root = shutil.copytree(originals / "nyud", tmp_path / "nyud")
    (root / "dataset_info.json").write_text(foreign, encoding="latin-1")
    assert isinstance(source(root, "nyud"), NYUD)


@pytest.mark.parametrize("name", ["my [data]", "a*b?", "{x}", "a@3", "a[0:2]", "with space"])
def test_folders_may_have_any_name(originals, tmp_path, name):
    root = tmp_path / name
    shutil.copytree(originals / "nyud", root / "original")
    assert prepare.prepare("nyud", root / "original", root / "prepared", samples_per_shard=2)[0] == {
        "train": 3,
        "val": 2,
    }
    read = source(root / "prepared", "nyud", ("semseg", "depth"))
    assert isinstance(read, Prepared)
    original = source(root / "original", "nyud", ("semseg", "depth"))
    for index in range(3):
        for key in ("image", "semseg", "depth"):
            np.testing.assert_array_equal(read[index][key], original[index][key])


def test_shrinking_prepared_data_is_no_traceback(both):
    data = {"name": "nyud", "root": str(both), "resize": True}
    assert create_source(data, "train", ("semseg",), (24, 32))[0]["id"] == "0001"


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "gone"])
def test_damaged_metadata_are_one_line(both, tmp_path, file, damage):
    root = shutil.copytree(both / "nyud", tmp_path / "nyud")
    path = root / "1.0.0" / file
    if damage == "gone":
        path.unlink()
    else:
        path.write_text({"cut": path.read_text()[:-40], "empty": "", "other": '{"a": 1}'}[damage])
    with pytest.raises(UserError) as error:
        source(root, "nyud")
    assert "\n" not in str(error.value) and str(root) in str(error.value)


def test_the_start_does_not_look_at_every_record(both, monkeypatch):
    looked = []
    original = Prepared._records
    monkeypatch.setattr(Prepared, "_records", lambda self, shard: looked.append(shard) or original(self, shard))
    found = source(both, "nyud")
    assert not looked and isinstance(found.ids, range)


def test_samples_of_a_million_records_are_found_at_once(both):
    """The shard of a record is not searched for from the first on."""
    import time

    found = source(both, "nyud")
    found._shards = [f"shard-{number}" for number in range(200_000)]
    found._lengths = [5] * 200_000
    found._ends = list(range(5, 1_000_001, 5))
    start = time.perf_counter()
    assert found.name_of(999_999) == "shard-199999, record 999999" and found.name_of(4) == "shard-0, record 4"
    assert found.name_of(5) == "shard-1, record 5"
    assert time.perf_counter() - start < 0.005
