import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image

from sak_jax.data.rooms import layouts
from sak_jax.data.rooms.render import camera_axes
from sak_jax.data.rooms.source import CLASSES, EXTRAS, TASKS, Rooms
from sak_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
SIZE = (24, 32)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


@pytest.fixture(scope="module")
def samples():
    """Two hundred small samples with every label, and their source."""
    source = Rooms("train", 200, size=SIZE, tasks=TASKS, extras=EXTRAS)
    return source, [source[index] for index in range(len(source))]


def test_samples_follow_the_contract(samples):
    source, rendered = samples
    kinds = {"depth": np.float32, "edge": np.float32, "normals": np.float32}
    for sample in rendered[:20]:
        assert set(sample) == {"image", "id", "instance", *TASKS}
        for name in ("image", "instance", *TASKS):
            assert sample[name].dtype == kinds.get(name, np.uint8), name
            channels = (3,) if name in ("image", "normals") else ()
            assert sample[name].shape == SIZE + channels, name
        assert set(np.unique(sample["edge"])) <= {0, 1}
        assert sample["semseg"].max() < len(CLASSES)
        assert sample["human_parts"].max() <= 6
        assert 0.2 < sample["depth"].min() and sample["depth"].max() < 10
    assert len({sample["id"] for sample in rendered}) == len(source)
    assert set(Rooms("val", 1, size=SIZE, tasks=("depth",))[0]) == {"image", "id", "depth"}


def test_a_sample_depends_on_seed_split_and_index_alone(samples):
    _, rendered = samples
    again = Rooms("train", 300, size=SIZE, tasks=TASKS, extras=EXTRAS)
    for index in (7, 3, 199):
        assert_same(again[index], rendered[index])
    images = [source[3]["image"] for source in (Rooms("train", 9, SIZE, seed=1), Rooms("val", 9, SIZE))]
    assert not np.array_equal(images[0], rendered[3]["image"])
    assert not np.array_equal(images[1], rendered[3]["image"])


def test_train_and_val_share_no_scene():
    cameras = [
        Rooms(split, 60, seed=seed).scene(index).camera
        for split in ("train", "val")
        for seed in (0, 1)
        for index in range(60)
    ]
    assert len(set(cameras)) == len(cameras)


@pytest.mark.parametrize("index", [-1, 5])
def test_index_out_of_range(index):
    with pytest.raises(IndexError, match=str(index)):
        Rooms("train", 5)[index]


@pytest.mark.parametrize(
    "arguments, culprit",
    [
        (dict(split="test", length=3), "test"),
        (dict(split="val", length=0), "0"),
        (dict(split="val", length=3, size=(0, 4)), "0"),
        (dict(split="val", length=3, tasks=("flow",)), "flow"),
        (dict(split="val", length=3, extras=("albedo",)), "albedo"),
    ],
)
def test_mistakes_are_named(arguments, culprit):
    with pytest.raises(UserError, match=culprit):
        Rooms(**arguments)


def test_pickles_and_caches():
    source = Rooms("val", 5, size=SIZE, cache=True)
    first = source[2]
    assert source[2]["image"] is first["image"]
    with pytest.raises(ValueError, match="read-only"):
        first["depth"][0, 0] = 1
    assert_same(first, Rooms("val", 5, size=SIZE)[2])
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    assert_same(pickle.loads(pickled)[2], first)


def test_the_scene_is_the_same_at_every_size():
    """Pixel centres of an image three times as large coincide with every third of the small one's."""
    tasks, extras = ("depth", "normals", "semseg"), ("instance",)
    for index in range(4):
        small = Rooms("val", 4, size=(25, 33), tasks=tasks, extras=extras)[index]
        large = Rooms("val", 4, size=(75, 99), tasks=tasks, extras=extras)[index]
        # Rounding moves a ray by 1e-7 or so, across a boundary in hardly any pixel.
        same = large["instance"][1::3, 1::3] == small["instance"]
        assert same.mean() > 0.99
        np.testing.assert_allclose(large["depth"][1::3, 1::3][same], small["depth"][same], rtol=1e-3)
        wide = Rooms("val", 4, size=(25, 53), tasks=tasks, extras=extras)[index]
        assert (wide["instance"][:, 10:-10] == small["instance"]).mean() > 0.99


def points(source, index, sample):
    """World points of a sample's pixels, from its depth alone: float64 [H, W, 3]."""
    scene = source.scene(index)
    height, width = sample["depth"].shape
    focal = height / 2 / scene.slope
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (np.arange(height) + 0.5 - height / 2) / focal
    rays = np.stack([*np.meshgrid(x, y), np.ones((height, width))], -1)
    return rays, scene.camera[:3] + (sample["depth"][..., None] * rays) @ camera_axes(scene.camera)


def test_depth_and_normals_of_floor_ceiling_and_walls_are_exact(samples):
    source, rendered = samples
    seen = set()
    for index in range(40):
        sample = rendered[index]
        scene = source.scene(index)
        _, world = points(source, index, sample)
        axes = camera_axes(scene.camera) * [[1], [-1], [-1]]
        width, length, height = scene.room
        planes = [(2, 0, 1), (2, height, -1), (0, 0, 1), (0, width, -1), (1, 0, 1), (1, length, -1)]
        for instance, (axis, offset, sign) in enumerate(planes):
            mask = sample["instance"] == instance
            if mask.any():
                seen.add(instance)
                np.testing.assert_allclose(world[mask][:, axis], offset, atol=1e-5)
                np.testing.assert_allclose(
                    sample["normals"][mask], np.tile(sign * axes[:, axis], (mask.sum(), 1)), atol=1e-6
                )
        name = {0: "floor", 1: "ceiling"}
        for instance in np.unique(sample["instance"][sample["instance"] < 6]):
            expected = CLASSES.index(name.get(instance, "wall"))
            assert (sample["semseg"][sample["instance"] == instance] == expected).all()
    assert seen == set(range(6))


def test_normals_are_unit_and_face_the_camera(samples):
    source, rendered = samples
    for index, sample in enumerate(rendered[:60]):
        np.testing.assert_allclose(np.linalg.norm(sample["normals"], axis=-1), 1, atol=1e-6)
        rays, _ = points(source, index, sample)
        facing = (sample["normals"] * (rays * [1, -1, -1])).sum(-1)
        assert facing.max() < 1e-3  # a hair above 0 is rounding on a silhouette


def test_normals_agree_with_depth_on_furniture():
    """Where an object is smooth over three by three pixels, the cross product of its tangents is its normal."""
    source = Rooms("train", 12, size=(96, 128), tasks=("depth", "normals"), extras=("instance",))
    compared = 0
    for index in range(len(source)):
        sample = source[index]
        _, world = points(source, index, sample)
        down, right = world[2:, 1:-1] - world[:-2, 1:-1], world[1:-1, 2:] - world[1:-1, :-2]
        normal = np.cross(down, right)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        normal = normal @ (camera_axes(source.scene(index).camera) * [[1], [-1], [-1]]).T
        flat = np.ones(normal.shape[:2], bool)
        centre = sample["normals"][1:-1, 1:-1]
        for row in range(3):
            for column in range(3):
                window = (slice(row, row + 94), slice(column, column + 126))
                flat &= sample["instance"][window] == sample["instance"][1:-1, 1:-1]
                flat &= (sample["normals"][window] * centre).sum(-1) > 0.9999
                # Two parallel faces of one object, one behind the other, have no common tangent.
                flat &= (
                    np.abs(((world[window] - world[1:-1, 1:-1]) * (normal_world(source, index, centre))).sum(-1)) < 2e-3
                )
        furniture = flat & (sample["instance"][1:-1, 1:-1] >= 6)
        compared += furniture.sum()
        assert (normal * centre).sum(-1)[furniture].min() > 0.995
    assert compared > 5000


def normal_world(source, index, normal):
    return normal @ (camera_axes(source.scene(index).camera) * [[1], [-1], [-1]])


def test_edges_are_where_instances_change(samples):
    _, rendered = samples
    for sample in rendered:
        instance, label, edge = sample["instance"].astype(int), sample["semseg"].astype(int), sample["edge"]
        for values, exact in ((instance, True), (label, False)):
            change = np.zeros(SIZE, bool)
            change[:, :-1] |= np.diff(values, axis=1) != 0
            change[:-1] |= np.diff(values, axis=0) != 0
            assert (edge[change] == 1).all()
            if exact:
                np.testing.assert_array_equal(edge > 0, change)


def test_one_foreground_object_is_salient(samples):
    _, rendered = samples
    background = [CLASSES.index(name) for name in ("floor", "wall", "ceiling", "window", "door", "picture")]
    for sample in rendered:
        mask = sample["sal"] == 1
        assert mask.any()
        chosen = np.unique(sample["instance"][mask])
        assert len(chosen) == 1
        assert not np.isin(sample["semseg"][mask], background).any()
        np.testing.assert_array_equal(mask, sample["instance"] == chosen[0])


def test_parts_cover_people_and_nothing_else(samples):
    _, rendered = samples
    for sample in rendered:
        np.testing.assert_array_equal(sample["human_parts"] > 0, sample["semseg"] == CLASSES.index("person"))
    assert {part for sample in rendered for part in np.unique(sample["human_parts"])} == set(range(7))


def test_every_class_is_common_and_images_are_exposed(samples):
    _, rendered = samples
    present = np.array([[(sample["semseg"] == k).any() for k in range(len(CLASSES))] for sample in rendered])
    assert (present.mean(0) > 0.15).all(), dict(zip(CLASSES, present.mean(0), strict=True))
    brightness = np.array([sample["image"].mean() for sample in rendered])
    assert brightness.min() > 60 and brightness.max() < 225
    assert min(sample["image"].std() for sample in rendered) > 10


def test_nyud_layout(tmp_path):
    root = tmp_path / "nyud"
    layouts.write_nyud(root, train=3, val=2, size=(33, 44), seed=4)
    assert sorted(path.name for path in root.iterdir()) == [
        "depth", "edge", "gt_sets", "images", "normals", "segmentation",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["nyud"]
    ids = {split: (root / f"gt_sets/{split}.txt").read_text().split() for split in ("train", "val")}
    assert ids == {"train": ["0001", "0002", "0003"], "val": ["0004", "0005"]}
    for split, names in ids.items():
        source = Rooms(split, len(names), size=(33, 44), seed=4)
        for sample, name in zip((source[index] for index in range(len(source))), names, strict=True):
            maps = {
                kind: np.array(Image.open(root / kind / f"{name}.png"))
                for kind in ("images", "segmentation", "normals", "edge")
            }
            assert {value.dtype for value in maps.values()} == {np.dtype(np.uint8)}
            np.testing.assert_array_equal(maps["images"], sample["image"])
            np.testing.assert_array_equal(maps["edge"], sample["edge"] * 255)
            # Half a step of the 8-bit coding.
            np.testing.assert_allclose(maps["normals"] / 127.5 - 1, sample["normals"], atol=0.5 / 127.5 + 1e-6)
            void = maps["segmentation"] == 0
            np.testing.assert_array_equal(void, sample["edge"] > 0)
            expected = np.array([layouts.NYUD_LABELS[k] + 1 for k in CLASSES])[sample["semseg"]]
            np.testing.assert_array_equal(maps["segmentation"][~void], expected[~void])
            assert maps["segmentation"].max() <= 40
            depth = np.load(root / "depth" / f"{name}.npy")
            assert depth.dtype == np.float32
            window = sample["semseg"] == CLASSES.index("window")
            np.testing.assert_array_equal(depth, np.where(window, 0, sample["depth"]))
    assert sorted(layouts.NYUD_LABELS) == sorted(CLASSES)


def test_pascal_context_layout(tmp_path):
    root, size = tmp_path / "pascal", (48, 64)
    layouts.write_pascal_context(root, train=6, val=2, size=size)
    numbers = {}
    for split, count in (("train", 6), ("val", 2)):
        names = (root / f"ImageSets/Context/{split}.txt").read_text().split()
        parts_list = json.loads((root / f"ImageSets/Parts/{split}.txt").read_text())
        assert list(parts_list) == names and len(names) == count
        numbers |= parts_list
        source = Rooms(split, count, size=size, tasks=("semseg", "human_parts", "sal", "normals"))
        for index, name in enumerate(names):
            check_pascal_image(root, name, source[index], parts_list[name])
    assert 15 in sum(numbers.values(), [])
    for path in ("nyu_classes", "context_classes", "pascal_part"):
        assert json.loads((root / f"json/{path}.json").read_text())
    assert json.loads((root / "json/context_classes.json").read_text())["tvmonitor"] == 427


def check_pascal_image(root, name, sample, listed):
    shape = sample["semseg"].shape
    image = np.array(Image.open(root / f"JPEGImages/{name}.jpg"))
    assert image.shape == (*shape, 3)
    assert np.abs(image.astype(int) - sample["image"]).mean() < 20
    files = [root / f"semseg/{folder}/{name}.png" for folder in ("VOC12", "pascal-context")]
    assert [path.exists() for path in files].count(True) == 1
    semseg = np.array(Image.open(next(path for path in files if path.exists())))
    known = semseg != 255
    expected = np.array([layouts.VOC_LABELS.get(k, 0) for k in CLASSES])[sample["semseg"]]
    np.testing.assert_array_equal(semseg[known], expected[known])
    labels = scipy.io.loadmat(root / f"pascal-context/trainval/{name}.mat")["LabelMap"]
    np.testing.assert_array_equal(labels, np.array([layouts.CONTEXT_LABELS[k][1] for k in CLASSES])[sample["semseg"]])
    np.testing.assert_array_equal(np.array(Image.open(root / f"sal_distill/{name}.png")), sample["sal"] * 255)
    assert np.array(Image.open(root / f"normals_distill/{name}.png")).shape == (*shape, 3)

    # PASCAL-Part: anno.objects is an array of (class, class_ind, mask, parts), parts one of (part_name, mask).
    objects = scipy.io.loadmat(root / f"human_parts/{name}.mat")["anno"][0, 0]["objects"][0]
    groups = json.loads((root / "json/pascal_part.json").read_text())["15"]
    parts = np.zeros(shape, int)
    classes = []
    for thing in objects:
        classes.append(int(thing["class_ind"][0, 0]) if thing["mask"].any() else -1)
        assert thing["mask"].shape == shape and thing["mask"].dtype == np.uint8
        if classes[-1] != 15:
            assert len(thing["parts"]) == 0
            continue
        for part in thing["parts"][0]:
            assert (thing["mask"][part["mask"] == 1] == 1).all()
            parts[part["mask"] == 1] = groups[str(part["part_name"][0])]
    assert [number for number in classes if number > 0] == listed
    np.testing.assert_array_equal(parts, sample["human_parts"])


def test_an_image_without_objects_still_has_an_annotation():
    blank = np.zeros((4, 5), np.uint8)
    content, numbers = layouts._annotation("x", {"semseg": blank, "instance": blank, "human_parts": blank})
    assert numbers == [-1]
    assert content["anno"]["objects"][0, 0]["mask"][0, 0].shape == (4, 5)


def test_the_tool_refuses_a_full_folder_and_leaves_it_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    command = [
        sys.executable,
        ROOT / "tools/write_rooms.py",
        "nyud",
        "--train=1",
        "--val=1",
        "--height=12",
        "--width=16",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    refused = subprocess.run([*command, f"--output={tmp_path}"], capture_output=True, text=True, env=environment)
    assert refused.returncode == 2
    assert str(tmp_path) in refused.stderr and "Traceback" not in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    done = subprocess.run([*command, f"--output={tmp_path}/new"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new/images/0002.png").exists()


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="positive"):
        layouts.write_pascal_context(tmp_path / "set", train=0, val=1)
    assert list(tmp_path.iterdir()) == []


def test_looks_of_a_scene_have_its_labels():
    plain, night = (Rooms("train", 2, size=(24, 32), look=look)[1] for look in ("plain", "night"))
    for name in ("semseg", "depth", "normals", "edge", "sal"):
        np.testing.assert_array_equal(night[name], plain[name])
    assert night["image"].dtype == np.uint8 and night["image"].mean() < 0.3 * plain["image"].mean()
    whole, close = Rooms("train", 2, size=(48, 64))[1], Rooms("train", 2, size=(24, 32), look="close")[1]
    for name in ("image", "semseg", "depth", "normals"):
        np.testing.assert_array_equal(close[name], whole[name][12:36, 16:48])
    np.testing.assert_array_equal(close["edge"][:-1, :-1], whole["edge"][12:35, 16:47])
    with pytest.raises(UserError, match="look 'foggy'"):
        Rooms("train", 2, look="foggy")
