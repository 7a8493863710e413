import json
import pickle

import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image
from skimage.morphology import thin

from sak_jax.boundary.maps import boundary_of_labels
from sak_jax.boundary.score import truth_of_boundary
from sak_jax.data.sets.pascal_context import PARTS, TASKS, PASCALContext, boundaries, human_parts
from sak_jax.errors import UserError


def test_samples_are_what_the_files_say(pascal_files):
    source = PASCALContext(pascal_files, "train")
    ids = (pascal_files / "ImageSets" / "Context" / "train.txt").read_text().split()
    assert len(source) == len(ids) == 6
    nyud = json.loads((pascal_files / "json" / "nyu_classes.json").read_text())
    context = json.loads((pascal_files / "json" / "context_classes.json").read_text())
    shared = {context[name] for name in nyud if name in context and name != "unknown"} | {context["tvmonitor"]}
    for index, name in enumerate(ids):
        sample = source[index]
        assert sample["id"] == name and set(sample) == {"id", "image", *TASKS}
        np.testing.assert_array_equal(sample["image"], np.array(Image.open(pascal_files / f"JPEGImages/{name}.jpg")))
        voc, other = (pascal_files / "semseg" / folder / f"{name}.png" for folder in ("VOC12", "pascal-context"))
        np.testing.assert_array_equal(sample["semseg"], np.array(Image.open(voc if voc.is_file() else other)))
        sal = np.array(Image.open(pascal_files / f"sal_distill/{name}.png"))
        np.testing.assert_array_equal(sample["sal"], sal > 127.5)
        labels = scipy.io.loadmat(pascal_files / f"pascal-context/trainval/{name}.mat")["LabelMap"]
        colours = np.array(Image.open(pascal_files / f"normals_distill/{name}.png")).astype(np.float32)
        valid = np.isin(labels, list(shared))[..., None]
        np.testing.assert_allclose(sample["normals"], np.where(valid, colours / 255 * 2 - 1, 0), atol=1e-7)
        np.testing.assert_array_equal(sample["edge"], thin(np.abs(cv2.Laplacian(labels, cv2.CV_64F)) > 0))
        assert sample["semseg"].dtype == sample["sal"].dtype == sample["human_parts"].dtype == np.uint8
        assert sample["edge"].dtype == sample["normals"].dtype == np.float32


def struct(fields, rows):
    array = np.empty((1, len(rows)), [(name, object) for name in fields])
    for index, row in enumerate(rows):
        array[0, index] = row
    return array


def annotation(objects):
    """A PASCAL-Part file's content."""
    import io

    rows = []
    for name, kind, mask, parts in objects:
        found = struct(("part_name", "mask"), parts) if parts else np.zeros((0, 0))
        rows.append((name, np.array([[kind]]), mask, found))
    anno = struct(("imname", "objects"), [("x", struct(("class", "class_ind", "mask", "parts"), rows))])
    content = io.BytesIO()
    scipy.io.savemat(content, {"anno": anno})
    return content.getvalue()


def masks(*boxes, size=(8, 10)):
    found = []
    for top, bottom in boxes:
        mask = np.zeros(size, np.uint8)
        mask[top:bottom] = 1
        found.append(mask)
    return found


def test_parts_are_grouped_and_only_of_people():
    head, torso, other, everything = masks((0, 2), (2, 5), (5, 8), (0, 8))
    content = annotation(
        [
            ("person", 15, everything, [("head", head), ("torso", torso)]),
            ("cat", 8, everything, [("head", other)]),
            ("person", 15, other, [("lfoot", other)]),
        ]
    )
    expected = np.repeat([1, 1, 2, 2, 2, 6, 6, 6], 10).reshape(8, 10)
    np.testing.assert_array_equal(human_parts(content, "x.mat", (8, 10)), expected)
    people_without_area = annotation([("person", 15, np.zeros((8, 10), np.uint8), [("head", head)])])
    assert not human_parts(people_without_area, "x.mat", (8, 10)).any()
    without_parts = annotation([("person", 15, everything, [])])
    assert not human_parts(without_parts, "x.mat", (8, 10)).any()
    with pytest.raises(UserError, match=r"x\.mat: part 'wing' of a person is unknown"):
        human_parts(annotation([("person", 15, everything, [("wing", head)])]), "x.mat", (8, 10))
    with pytest.raises(UserError, match=r"x\.mat: is 8 x 10, its image 9 x 10"):
        human_parts(content, "x.mat", (9, 10))


def test_boundaries_of_the_validation_set_are_the_benchmarks_truth(pascal_files):
    source = PASCALContext(pascal_files, "val", ("edge",))
    for index, name in enumerate(source.ids):
        labels = scipy.io.loadmat(pascal_files / f"pascal-context/trainval/{name}.mat")["LabelMap"]
        edge = source[index]["edge"]
        truth = boundary_of_labels(labels)
        assert edge.dtype == np.float32 and not np.array_equal(edge, boundaries(labels))
        np.testing.assert_array_equal(edge, truth)
        np.testing.assert_array_equal(truth_of_boundary(edge > 0.5, "boundary"), truth)


def test_thinning_the_benchmarks_truth_again_changes_nothing():
    rng = np.random.default_rng(0)
    for number in range(60):
        scale, classes = (1, 3, 8)[number % 3], (2, 460)[number % 2]
        labels = np.kron(rng.integers(0, classes, (12, 16)), np.ones((scale, scale), int))
        truth = boundary_of_labels(labels)
        np.testing.assert_array_equal(truth_of_boundary(truth, "boundary"), truth)


def test_six_groups_of_24_parts():
    assert sorted(PARTS) == [1, 2, 3, 4, 5, 6]
    assert len({part for parts in PARTS.values() for part in parts}) == 24


def test_thinning_is_scikit_images():
    rng = np.random.default_rng(0)
    for scale, classes in ((3, 460), (8, 460), (20, 460), (1, 2), (3, 65536), (8, 65536)):
        blocks = rng.integers(0, classes, (-(-90 // scale), -(-120 // scale)), dtype=np.uint16)
        blocks[:2, :2] = ((classes - 1, 0), (0, classes - 1))
        labels = np.kron(blocks, np.ones((scale, scale), np.uint16))[:90, :120]
        expected = thin(cv2.Laplacian(labels, cv2.CV_64F) != 0)
        np.testing.assert_array_equal(boundaries(labels), expected)


@pytest.mark.parametrize("cached", [True, False])
def test_parts_alone_take_the_images_with_people(pascal_root, cached):
    lists = pascal_root / "ImageSets" / "Parts" / "train.txt"
    objects = json.loads(lists.read_text())
    expected = [name for name, kinds in objects.items() if 15 in kinds]
    assert 0 < len(expected) < 6
    if not cached:
        lists.unlink()
    source = PASCALContext(pascal_root, "train", ("human_parts",))
    assert [source[index]["id"] for index in range(len(source))] == expected
    assert [name for name, kinds in json.loads(lists.read_text()).items() if 15 in kinds] == expected
    assert len(PASCALContext(pascal_root, "train", ("human_parts", "sal"))) == 6


def test_files_of_parts_are_read_of_images_with_people_alone(pascal_root):
    lists = pascal_root / "ImageSets" / "Parts" / "train.txt"
    objects = json.loads(lists.read_text())
    before = [sample["human_parts"] for sample in PASCALContext(pascal_root, "train", ("human_parts", "sal"))]
    for name, kinds in objects.items():
        if 15 not in kinds:
            (pascal_root / f"human_parts/{name}.mat").write_bytes(b"never read")
    source = PASCALContext(pascal_root, "train", ("human_parts", "sal"))
    for index, name in enumerate(source.ids):
        np.testing.assert_array_equal(source[index]["human_parts"], before[index])
        assert source.shows_people(index) == before[index].any() == (15 in objects[name])
    lists.write_text(json.dumps({name: kinds for name, kinds in objects.items() if name != source.ids[0]}))
    source = PASCALContext(pascal_root, "train", ("human_parts", "sal"))
    nobody = next(index for index, name in enumerate(source.ids) if 15 not in objects[name])
    with pytest.raises(UserError, match=f"human_parts/{source.ids[nobody]}.mat: is not a whole .mat file"):
        source[nobody]


@pytest.mark.parametrize(
    "file",
    [
        "JPEGImages/{}.jpg",
        "pascal-context/trainval/{}.mat",
        "human_parts/{}.mat",
        "sal_distill/{}.png",
        "normals_distill/{}.png",
    ],
)
def test_damaged_files_are_named_or_skipped(pascal_root, file):
    ids = (pascal_root / "ImageSets" / "Context" / "train.txt").read_text().split()
    objects = json.loads((pascal_root / "ImageSets" / "Parts" / "train.txt").read_text())
    damaged = next(index for index, name in enumerate(ids[:-1]) if 15 in objects[name])
    path = pascal_root / file.format(ids[damaged])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = PASCALContext(pascal_root, "train")
    with pytest.raises(UserError, match=file.format(ids[damaged])):
        source[damaged]
    source = PASCALContext(pascal_root, "train", on_error="skip")
    assert source[damaged]["id"] == ids[damaged + 1] and list(source.skipped) == [ids[damaged]]


def test_problems_are_reported_together(pascal_root):
    ids = (pascal_root / "ImageSets" / "Context" / "val.txt").read_text().split()
    (pascal_root / "human_parts" / f"{ids[0]}.mat").unlink()
    for folder in ("VOC12", "pascal-context"):
        path = pascal_root / "semseg" / folder / f"{ids[1]}.png"
        if path.exists():
            Image.fromarray(np.full((60, 80), 21, np.uint8)).save(path)
    Image.fromarray(np.zeros((50, 80), np.uint8)).save(pascal_root / "sal_distill" / f"{ids[2]}.png")
    with pytest.raises(UserError) as error:
        PASCALContext(pascal_root, "val")
    for part in ("3 problems", f"human_parts/{ids[0]}.mat is missing", f"{ids[1]}.png: label 21 is unknown", "50 x 80"):
        assert part in str(error.value)


def test_label_maps_of_another_size_are_named(pascal_root):
    ids = (pascal_root / "ImageSets" / "Context" / "val.txt").read_text().split()
    path = pascal_root / "pascal-context" / "trainval" / f"{ids[0]}.mat"
    scipy.io.savemat(path, {"LabelMap": np.zeros((61, 80), np.uint16)})
    with pytest.raises(UserError, match=f"{ids[0]}.mat: is 61 x 80, its image 60 x 80"):
        PASCALContext(pascal_root, "val", ("edge",))[0]
    for values in (np.full((60, 80), -1.0), np.full((60, 80), np.nan), np.full((60, 80), 65536)):
        scipy.io.savemat(path, {"LabelMap": values})
        with pytest.raises(UserError, match=f"{ids[0]}.mat: `LabelMap` must hold labels of 0..65535"):
            PASCALContext(pascal_root, "val", ("edge",))[0]
    scipy.io.savemat(path, {"Other": np.zeros((60, 80))})
    with pytest.raises(UserError, match=f"{ids[0]}.mat: has no variable 'LabelMap'"):
        PASCALContext(pascal_root, "val", ("edge",))[0]


def test_pickles_small(pascal_files):
    source = PASCALContext(pascal_files, "val")
    content = pickle.dumps(source)
    assert len(content) < 5000
    np.testing.assert_array_equal(pickle.loads(content)[0]["normals"], source[0]["normals"])


def test_mistakes_are_named(pascal_files, tmp_path):
    with pytest.raises(UserError, match="PASCAL-Context has no labels for 'depth'"):
        PASCALContext(pascal_files, "train", ("depth",))
    with pytest.raises(UserError, match="prepare_data.py pascal_context"):
        PASCALContext(tmp_path / "none", "train")
