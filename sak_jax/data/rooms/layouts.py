"""Writes `rooms` as files in the layouts of NYUD-v2 and PASCAL-Context (method: section 4), to try their loaders on."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
import scipy.io
from PIL import Image
from tqdm import tqdm

from sak_jax.data.labels import normals_to_colours
from sak_jax.data.rooms.source import CLASSES, SPLITS, Rooms
from sak_jax.errors import UserError

# Of NYUD's 40 classes, 0-based; a plant is "otherprop".
NYUD_LABELS = {
    "floor": 1, "wall": 0, "ceiling": 21, "window": 8, "door": 7, "picture": 10, "bed": 3,
    "table": 6, "chair": 4, "sofa": 5, "cabinet": 2, "lamp": 34, "person": 30, "plant": 39,
}  # fmt: skip

# Of PASCAL VOC's 21 classes; all else is background.
VOC_LABELS = {"chair": 9, "table": 11, "person": 15, "plant": 16, "sofa": 18}
_VOC_NAMES = {9: "chair", 11: "table", 15: "person", 16: "pottedplant", 18: "sofa"}

# PASCAL-Context's name and number among its 459 classes.
CONTEXT_LABELS = {
    "floor": ("floor", 158), "wall": ("wall", 440), "ceiling": ("ceiling", 68), "window": ("window", 454),
    "door": ("door", 115), "picture": ("picture", 287), "bed": ("bed", 18), "table": ("table", 397),
    "chair": ("chair", 72), "sofa": ("sofa", 368), "cabinet": ("cabinet", 46), "lamp": ("light", 232),
    "person": ("person", 284), "plant": ("pottedplant", 308),
}  # fmt: skip

# Of NYU's 894 names, those that rooms can show. There is no "pottedplant": a plant has no valid normals there.
_NYU_NAMES = {
    "bed": 157, "cabinet": 3, "ceiling": 4, "chair": 5, "door": 28, "floor": 11, "light": 62, "person": 331,
    "picture": 64, "plant": 82, "sofa": 83, "table": 19, "television": 172, "unknown": 20, "wall": 21, "window": 59,
}  # fmt: skip

# Part names by label: middle of the body, or left and right.
_PART_NAMES = {1: "head", 2: "torso", 3: "uarm", 4: "larm", 5: "uleg", 6: "lleg"}


def _table(labels: dict[str, int], default: int = 0) -> np.ndarray:
    return np.array([labels.get(name, default) for name in CLASSES], np.uint16)


@contextlib.contextmanager
def _new_folder(root: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary folder beside `root` that takes its name when everything in it was written."""
    root = pathlib.Path(os.path.expanduser(root))
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(f"{root} exists and is not an empty folder; name a new one")
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f"{root.name}.tmp", dir=root.parent))
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{root}: cannot be written ({reason}); give another --output") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _samples(train: int, val: int, **kwargs) -> Iterator[tuple[str, int, dict]]:
    """(split, number over both splits, sample), with a progress bar."""
    sources = {split: Rooms(split, length, **kwargs) for split, length in zip(SPLITS, (train, val), strict=True)}
    with tqdm(total=train + val, unit="image") as progress:
        for split, source in sources.items():
            for index in range(len(source)):
                yield split, index + (0 if split == "train" else train), source[index]
                progress.update()


def _png(path: pathlib.Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _write_lists(folder: pathlib.Path, ids: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in ids.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def write_nyud(
    root: str | os.PathLike, train: int, val: int, size: tuple[int, int] = (425, 560), seed: int = 0
) -> None:
    """Writes `Rooms(split, ..., size, seed)` in NYUD-v2's layout; ids count from 0001, `val` after `train`.

    As in the original there are gaps: boundaries between objects have no class (0), windows no depth (0).

    Raises:
      UserError: `root` exists and is not an empty folder, or `train`, `val` or `size` is not positive.
    """
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    classes = _table(NYUD_LABELS) + 1
    with _new_folder(root) as folder:
        for split, number, sample in _samples(train, val, size=size, seed=seed):
            name = f"{number + 1:04d}"
            ids[split].append(name)
            boundary = sample["edge"] > 0
            _png(folder / "images" / f"{name}.png", sample["image"])
            semseg = np.where(boundary, 0, classes[sample["semseg"]]).astype(np.uint8)
            _png(folder / "segmentation" / f"{name}.png", semseg)
            _png(folder / "normals" / f"{name}.png", normals_to_colours(sample["normals"]))
            _png(folder / "edge" / f"{name}.png", boundary.astype(np.uint8) * 255)
            (folder / "depth").mkdir(exist_ok=True)
            depth = np.where(sample["semseg"] == CLASSES.index("window"), np.float32(0), sample["depth"])
            np.save(folder / "depth" / f"{name}.npy", depth)
        _write_lists(folder / "gt_sets", ids)


def _parts(parts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The `parts` struct array [1, n] of one person; limbs are left or right of the body's middle column."""
    middle = np.nonzero(mask)[1].mean()
    right_half = np.broadcast_to(np.arange(mask.shape[1]) >= middle, mask.shape)
    found = []
    for label, name in _PART_NAMES.items():
        whole = mask & (parts == label)
        # A person who faces the camera has the left arm on the image's right.
        sides = (
            ((name, whole),) if label <= 2 else ((f"l{name}", whole & right_half), (f"r{name}", whole & ~right_half))
        )
        found += [(part_name, part.astype(np.uint8)) for part_name, part in sides if part.any()]
    struct = np.empty((1, len(found)), [("part_name", object), ("mask", object)])
    struct[0, :] = found
    return struct


def _annotation(name: str, sample: dict) -> tuple[dict, list[int]]:
    """PASCAL-Part's `anno` of an image, and the VOC class of each object (-1 for one without a pixel)."""
    voc = _table(VOC_LABELS)[sample["semseg"]]
    objects = []
    for instance in np.unique(sample["instance"][voc > 0]):
        mask = sample["instance"] == instance
        number = int(voc[mask][0])
        parts = _parts(sample["human_parts"], mask) if number == VOC_LABELS["person"] else np.zeros((0, 0))
        objects.append((_VOC_NAMES[number], number, mask.astype(np.uint8), parts))
    numbers = [entry[1] for entry in objects]
    if not objects:  # the original never has an image without objects, and its readers count on that
        objects.append(("table", VOC_LABELS["table"], np.zeros(voc.shape, np.uint8), np.zeros((0, 0))))
        numbers = [-1]
    struct = np.empty((1, len(objects)), [(field, object) for field in ("class", "class_ind", "mask", "parts")])
    struct[0, :] = objects
    anno = np.empty((1, 1), [("imname", object), ("objects", object)])
    anno[0, 0] = (name, struct)
    return {"anno": anno}, numbers


def _mat(path: pathlib.Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content, do_compression=True)


def write_pascal_context(
    root: str | os.PathLike, train: int, val: int, size: tuple[int, int] = (375, 500), seed: int = 0
) -> None:
    """Writes `Rooms(split, ..., size, seed)` in PASCAL-Context's layout; ids count from 2008_000001, `val` last.

    Every other image has its classes under `semseg/VOC12`, with boundaries of objects left out (255) as VOC does; the
    rest have theirs under `semseg/pascal-context`.

    Raises:
      UserError: `root` exists and is not an empty folder, or `train`, `val` or `size` is not positive.
    """
    tasks = ("semseg", "human_parts", "sal", "normals", "edge")
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    people: dict[str, dict[str, list[int]]] = {split: {} for split in SPLITS}
    voc = _table(VOC_LABELS).astype(np.uint8)
    context = _table({name: number for name, (_, number) in CONTEXT_LABELS.items()})
    with _new_folder(root) as folder:
        for split, number, sample in _samples(train, val, size=size, seed=seed, tasks=tasks, extras=("instance",)):
            name = f"2008_{number + 1:06d}"
            ids[split].append(name)
            (folder / "JPEGImages").mkdir(exist_ok=True)
            Image.fromarray(sample["image"]).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            semseg = voc[sample["semseg"]]
            if number % 2:
                _png(folder / "semseg/pascal-context" / f"{name}.png", semseg)
            else:
                border = (sample["edge"] > 0) & (semseg > 0)
                _png(folder / "semseg/VOC12" / f"{name}.png", np.where(border, np.uint8(255), semseg))
            _mat(folder / "pascal-context/trainval" / f"{name}.mat", {"LabelMap": context[sample["semseg"]]})
            annotation, people[split][name] = _annotation(name, sample)
            _mat(folder / "human_parts" / f"{name}.mat", annotation)
            _png(folder / "sal_distill" / f"{name}.png", sample["sal"] * np.uint8(255))
            _png(folder / "normals_distill" / f"{name}.png", normals_to_colours(sample["normals"]))
        _write_lists(folder / "ImageSets/Context", ids)
        (folder / "ImageSets/Parts").mkdir()
        (folder / "json").mkdir()
        names = dict(CONTEXT_LABELS.values()) | {"tvmonitor": 427, "unknown": 431}
        parts = {prefix + name: k for k, name in _PART_NAMES.items() for prefix in (("",) if k <= 2 else ("l", "r"))}
        for path, content in (
            ("ImageSets/Parts/train.txt", people["train"]),
            ("ImageSets/Parts/val.txt", people["val"]),
            ("json/nyu_classes.json", _NYU_NAMES),
            ("json/context_classes.json", names),
            ("json/pascal_part.json", {str(VOC_LABELS["person"]): parts}),
        ):
            (folder / path).write_text(json.dumps(content))
