"""PASCAL-Context: 4998 training and 5105 validation photographs with five tasks.

The folder as the multi-task literature passes it on (ASTMT, InvPT, SAK):

  JPEGImages/{id}.jpg                      ImageSets/Context/{train,val}.txt
  semseg/VOC12/{id}.png, else semseg/pascal-context/{id}.png      21 classes, 255 = void
  pascal-context/trainval/{id}.mat         `LabelMap`: boundaries, and where normals hold
  human_parts/{id}.mat                     `anno`: objects, their masks and parts
  ImageSets/Parts/{train,val}.txt          JSON, the object classes in each image
  sal_distill/{id}.png                     normals_distill/{id}.png, with json/{nyu,context}_classes.json

Boundaries of `train` are the method's: where the Laplacian of the label map is not zero, thinned. Those of `val` are
the truth that published scores are measured against (SEISM): pixels whose right, lower or lower-right neighbour has
another label, thinned.
"""

import json
import logging
import os
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8, UInt16

from sak_jax.boundary.maps import boundary_of_labels, thin
from sak_jax.data import files, labels, mat
from sak_jax.data.prepared import Preparation, open_source
from sak_jax.data.source import FileSource, check_files, check_samples, decode_text, find_root, read_split, times
from sak_jax.errors import UserError
from sak_jax.paths import write_text

logger = logging.getLogger(__name__)

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
"""The classes by label (PASCAL VOC)."""
PART_NAMES = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
"""Human parts by label."""
CLASSES = len(NAMES)
COUNTS = {"train": 4998, "val": 5105}
ORIGIN = "the Google Drive folder linked at github.com/innovator-zero/SAK (PASCAL-Context)"
TASKS = ("semseg", "human_parts", "sal", "normals", "edge")

PERSON = 15
PARTS = {
    1: ("hair", "head", "lear", "rear", "lebrow", "rebrow", "leye", "reye", "mouth", "nose"),
    2: ("neck", "torso"),
    3: ("luarm", "ruarm"),
    4: ("llarm", "rlarm", "lhand", "rhand"),
    5: ("luleg", "ruleg"),
    6: ("llleg", "rlleg", "lfoot", "rfoot"),
}
_PART_CLASS = {part: label for label, parts in PARTS.items() for part in parts}


class PASCALContext(FileSource):
    """A Grain random access data source of PASCAL-Context.

    With `human_parts` as the only task just the images that show people are taken. The files of human parts are read
    only of images that show people, by the list in `ImageSets/Parts`; all of them where it is not whole.

    Args:
      root: the folder described above.
      split: "train" or "val".
      tasks: labels wanted, of `TASKS`.
      on_error: "raise", or "skip" damaged samples.

    Raises:
      UserError: no folder, an unknown task, missing files, sizes that differ, unknown labels: all that was found.
    """

    def __init__(
        self,
        root: os.PathLike | str,
        split: str,
        tasks: Sequence[str] = TASKS,
        on_error: str = "raise",
    ):
        unknown = [task for task in tasks if task not in TASKS]
        if unknown:
            raise UserError(f"PASCAL-Context has no labels for {unknown[0]!r}; it has {', '.join(TASKS)}")
        self._root = find_root(root, "PASCAL-Context", ORIGIN, "pascal_context")
        split_file = self._root / "ImageSets" / "Context" / f"{split}.txt"
        super().__init__(f"PASCAL-Context {split}", read_split(split_file), tasks, on_error)
        if len(self) != COUNTS.get(split, len(self)):
            logger.warning("%s lists %d images; PASCAL-Context has %d.", split_file, len(self), COUNTS[split])
        self._boundaries = benchmark_boundaries if split == "val" else boundaries
        self._normals_valid = self._read_classes() if "normals" in tasks else None
        self.drop(check_samples(self.ids, self._check))
        self._nobody = frozenset()
        if "human_parts" in self.tasks:
            objects = self._listed_objects(self._root / "ImageSets" / "Parts" / f"{split}.txt")
            self._nobody = frozenset(sample_id for sample_id, kinds in objects.items() if PERSON not in kinds)
        if self.tasks == ("human_parts",):
            self.ids = [sample_id for sample_id in self.ids if sample_id not in self._nobody]
            if not self.ids:
                raise UserError(f"{split_file}: lists no image that shows people, and human_parts is the only task")

    def paths(self, sample_id: str) -> dict[str, epath.Path]:
        """The files of a sample, by image and label."""
        root, paths = self._root, {"image": self._root / "JPEGImages" / f"{sample_id}.jpg"}
        if "semseg" in self.tasks:
            voc, context = (root / "semseg" / folder / f"{sample_id}.png" for folder in ("VOC12", "pascal-context"))
            paths["semseg"] = voc if voc.is_file() else context
        if "human_parts" in self.tasks:
            paths["human_parts"] = root / "human_parts" / f"{sample_id}.mat"
        if "sal" in self.tasks:
            paths["sal"] = root / "sal_distill" / f"{sample_id}.png"
        if "normals" in self.tasks:
            paths["normals"] = root / "normals_distill" / f"{sample_id}.png"
        if "normals" in self.tasks or "edge" in self.tasks:
            paths["context"] = root / "pascal-context" / "trainval" / f"{sample_id}.mat"
        return paths

    def _check(self, sample_id: str) -> str | None:
        paths = self.paths(sample_id)
        problem = check_files(paths)
        if problem is None and "semseg" in paths:
            self._read_semseg(files.read_bytes(paths["semseg"]), str(paths["semseg"]))
        return problem

    def _load(self, index: int) -> dict[str, np.ndarray]:
        path = self._root / "JPEGImages" / f"{self.ids[index]}.jpg"
        image = files.decode_image(files.read_bytes(path), str(path))
        return {"image": image} | self._load_labels(index, self.tasks, image.shape[:2])

    def inspect(self, index: int) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
        """As `FileSource.inspect`; without boundaries, which follow from the labels and take long."""
        size = files.image_size(self._root / "JPEGImages" / f"{self.ids[index]}.jpg")
        return size, self._load_labels(index, tuple(task for task in self.tasks if task != "edge"), size)

    def _load_labels(self, index: int, tasks: Sequence[str], size: tuple[int, int]) -> dict[str, np.ndarray]:
        sample_id = self.ids[index]
        paths = self.paths(sample_id)
        del paths["image"]
        if sample_id in self._nobody:
            del paths["human_parts"]
        contents = {key: (files.read_bytes(path), str(path)) for key, path in paths.items()}
        context = None
        if "context" in contents:
            context = _label_map(*contents["context"])
            self._same_size(context, size, paths["context"])
        found = {}
        for task in tasks:
            if task == "semseg":
                found[task] = self._read_semseg(*contents[task])
            elif task == "human_parts":
                found[task] = human_parts(*contents[task], size) if task in contents else np.zeros(size, np.uint8)
            elif task == "sal":
                found[task] = (labels.decode("levels", *contents[task]) > 127).astype(np.uint8)
            elif task == "normals":
                normals = labels.decode("all_normals", *contents[task])
                self._same_size(normals, size, paths[task])
                normals[~self._normals_valid.take(context, mode="clip")] = 0
                found[task] = normals
            else:
                found[task] = self._boundaries(context)
        return found

    def image_bytes(self, index: int) -> bytes:
        """The image's file as it is."""
        return files.read_bytes(self._root / "JPEGImages" / f"{self.ids[index]}.jpg")

    @staticmethod
    def _same_size(label: np.ndarray, size: tuple[int, int], path: epath.Path) -> None:
        if label.shape[:2] != size:
            raise UserError(f"{path}: is {times(label.shape[:2])}, its image {times(size)}")

    @staticmethod
    def _read_semseg(content: bytes, name: str) -> UInt8[np.ndarray, "h w"]:
        return labels.check_range(labels.decode("index", content, name), CLASSES, name)

    def _read_classes(self) -> np.ndarray:
        """By context class, whether normals (of a network trained on NYUD) hold; the last is for all beyond."""
        nyud, context = (_read_json(self._root / "json" / f"{name}_classes.json") for name in ("nyu", "context"))
        for name, numbers in (("nyu", nyud), ("context", context)):
            if not all(isinstance(number, int) and 0 <= number < 2**16 for number in numbers.values()):
                raise UserError(f"{self._root / 'json' / f'{name}_classes.json'}: must give each class a number")
        if "tvmonitor" not in context:
            raise UserError(f"{self._root / 'json' / 'context_classes.json'}: has no class 'tvmonitor'")
        shared = [context[name] for name in nyud if name in context and name != "unknown"] + [context["tvmonitor"]]
        valid = np.zeros(max(max(context.values()), *shared) + 2, bool)
        valid[shared] = True
        return valid

    def _listed_objects(self, path: epath.Path) -> dict[str, list[int]]:
        """The object classes in each image by the list that lies with the data; nothing if it is not whole.

        If human parts are the only task a list that is not whole is made, and kept.
        """
        found = _read_json(path) if path.is_file() else {}
        found = {sample_id: kinds for sample_id, kinds in found.items() if isinstance(kinds, list)}
        if set(self.ids) <= set(found):
            return {sample_id: found[sample_id] for sample_id in self.ids}
        if self.tasks != ("human_parts",):
            return {}
        logger.info("Listing the objects of %d images, once.", len(self))
        found = {sample_id: self._object_classes(sample_id) for sample_id in self.ids}
        try:
            write_text(path, json.dumps(found))
        except OSError as error:
            logger.warning("%s: could not be written (%s); the list will be made again.", path, error)
        return found

    def shows_people(self, index: int) -> bool:
        """Whether any object in the image is a person, with parts annotated or without."""
        sample_id = self.ids[index]
        return sample_id not in self._nobody and PERSON in self._object_classes(sample_id)

    def _object_classes(self, sample_id: str) -> list[int]:
        path = self._root / "human_parts" / f"{sample_id}.mat"
        return [kind if mask.any() else -1 for kind, mask, _ in _objects(files.read_bytes(path), str(path))]


def boundaries(context: UInt16[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Thinned places where the Laplacian of the label map is not zero."""
    return thin(cv2.Laplacian(context, cv2.CV_32F) != 0).astype(np.float32)  # Exact: all sums are below 2 ** 24.


def benchmark_boundaries(context: UInt16[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """The truth that published scores are measured against, as `boundary_of_labels`."""
    return boundary_of_labels(context).astype(np.float32)


def _label_map(content: bytes, name: str) -> UInt16[np.ndarray, "h w"]:
    context = mat.decode(content, name, "LabelMap")
    numbers = context.ndim == 2 and context.size > 0 and context.dtype.kind in "uif"
    if not numbers or not (np.min(context) >= 0 and np.max(context) < 2**16):
        raise UserError(f"{name}: `LabelMap` must hold labels of 0..65535")
    return np.ascontiguousarray(context, np.uint16)  # MATLAB's arrays lie column by column.


def human_parts(content: bytes, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Part classes 0..6 of the people in an `anno` file; `size` is the image's, `name` is for the error."""
    target = np.zeros(size, np.uint8, order="F")  # As the masks lie: three times as fast.
    people = [(mask, parts) for kind, mask, parts in _objects(content, name) if kind == PERSON]
    if not any(mask.any() for mask, _ in people):
        return np.ascontiguousarray(target)
    for _, parts in people:
        for part, mask in parts:
            if part not in _PART_CLASS:
                raise UserError(f"{name}: part {part!r} of a person is unknown")
            if mask.shape != size:
                raise UserError(f"{name}: is {times(mask.shape)}, its image {times(size)}")
            target[mask.astype(bool)] = _PART_CLASS[part]
    return np.ascontiguousarray(target)


def _objects(content: bytes, name: str) -> list[tuple[int, np.ndarray, list[tuple[str, np.ndarray]]]]:
    """Class, mask and parts (name, mask) of each object, by the order of the fields."""
    annotation = mat.decode(content, name, "anno")
    try:
        objects = []
        for entry in annotation[0][0][1][0]:
            _, kind, mask, parts = entry
            found = [(str(part[0][0]), part[1]) for part in parts[0]] if len(parts) else []
            objects.append((int(kind[0][0]), mask, found))
        return objects
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{name}: `anno` is not laid out as PASCAL-Part's ({error})") from error


def _read_json(path: epath.Path) -> dict:
    try:
        found = json.loads(decode_text(files.read_bytes(path), str(path)))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: must hold names and values, not {type(found).__name__}")
    return found


PREPARATION = Preparation(
    name="pascal_context",
    dataset=PASCALContext,
    tasks=TASKS,
    image_format="jpeg",
    version="2.0.0",
    splits=("train", "val"),
    samples_per_shard=250,
    oldest=(2, 0, 0),
    release_notes={"2.0.0": "Boundaries of val are the benchmark's truth; in 1.0.0 they were made as those of train."},
)
KEYS = {}


def create(split: str, tasks: Sequence[str], image_size: tuple[int, int], *, root: str, **values) -> FileSource:
    """The data source of a recipe; see `sak_jax.data.Dataset`."""
    return open_source(PREPARATION, root, split, tasks, **values)
