"""A trained student, ready to predict."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Float, Float32
from ml_collections import ConfigDict

from sak_jax import methods, pictures, recipe, tasks
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError
from sak_jax.methods.sak.student import Outputs


def load(path: epath.PathLike, *, best: bool = False) -> "Predictor":
    """The student of a checkpoint; `sak_jax.load` finds those in other places too.

    Args:
      path: a workdir, or one checkpoint in it.
      best: of a workdir the checkpoint with the highest score, instead of the newest.

    Returns:
      `student(images) -> Outputs` in evaluation mode, jitted; `student.config` is the recipe.

    Raises:
      UserError: there is no checkpoint, or it holds no student of this version.
    """
    folder = checkpoints.find(epath.Path(path).expanduser(), best=best)
    saved, stage, state = checkpoints.load(folder)
    try:
        config = recipe.from_dict(saved)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    student = abstract_student(config, stage)
    try:
        nnx.update(student, jax.device_put(state))  # Once, instead of at every call.
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold the student of its own recipe ({error}); give another one") from error
    return Predictor(student, config, stage, folder)


def build(config: ConfigDict) -> nnx.Module:
    """A fresh student from a recipe: that of its last stage.

    Raises:
      UserError: the recipe's sizes do not fit.
    """
    method = methods.get(config.method)
    stage = method.stages(config)[-1].name
    graph, state = jax.jit(lambda: nnx.split(method.student(config, stage, nnx.Rngs(config.seed))))()
    return nnx.merge(graph, state)


def abstract_student(config: ConfigDict, stage: str) -> nnx.Module:
    """The student of a stage with shapes for arrays."""
    return nnx.eval_shape(lambda: methods.get(config.method).student(config, stage, nnx.Rngs(0)))


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a student says of a picture for one task.

    The decoded values are attributes, see each kind's `decode`: `classes` uint8 [h, w] and `probabilities` [h, w, c] of
    segmentation, `metres` of depth, `normals` (unit vectors) [h, w, 3], `probability` (0..1) of boundary and saliency.

    Attributes:
      task: which one.
      raw: the head's output at the picture's own size.
    """

    task: tasks.Task
    raw: Float32[np.ndarray, "h w c"]

    @functools.cached_property
    def values(self) -> dict[str, np.ndarray]:
        """All decoded values by name."""
        return tasks.kind_of(self.task).decode(self.task, self.raw)

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_") or name in ("task", "raw"):  # Where it is being copied or unpickled.
            raise AttributeError(name)
        if name in self.values:
            return self.values[name]
        raise AttributeError(f"a result of the kind {self.task.kind} has no {name!r}; it has {', '.join(self.values)}")

    def draw(self) -> pictures.Picture:
        """The result as a picture in its natural colours, uint8 [h, w, 3]."""
        return tasks.kind_of(self.task).draw_prediction(self.task, self.raw)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction(Mapping):
    """What a student says of a picture: `prediction["depth"].metres`.

    Attributes:
      results: by task.
      routing: each task's weights [levels, experts]; of tiles the mean. Empty without routers.
      aligned: each teacher's features as distillation compares them, one [h, w, C] a level, of the padded picture;
        empty unless they were asked for.
      layout: how the picture was shown to the student; `layout.inside` is its place in the padding, in pixels.
    """

    results: dict[str, Result]
    routing: dict[str, Float[np.ndarray, "levels experts"]]
    aligned: dict[str, tuple[Float[np.ndarray, "_ _ _"], ...]]
    layout: pictures.Layout

    def __getitem__(self, task: str) -> Result:
        return self.results[task]

    def __iter__(self):
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


class Predictor:
    """A student in evaluation mode.

    Attributes:
      student: the module, for those who want its parts.
      config: the recipe it came from.
      stage: the stage that it was trained in.
      source: the folder that it was read from, or None.
    """

    def __init__(self, student: nnx.Module, config: ConfigDict, stage: str, source: epath.Path | None = None):
        self.student = student
        self.config = config
        self.stage = stage
        self.source = source
        self._forward = jax.jit(lambda student, images: student(images))
        self._without_aligned = jax.jit(lambda student, images: dataclasses.replace(student(images), aligned={}))

    def __repr__(self) -> str:
        height, width = self.config.image_size
        tasks = ", ".join(task.name for task in self.tasks) or "-"
        size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.student, nnx.Param)))
        return (
            f"<student of {self.config.method}, stage {self.stage}: tasks {tasks}; "
            f"experts {', '.join(self.experts)}; trained at {height} x {width}; {size / 1e6:.1f} M parameters; "
            f"from {self.source or 'memory'}>"
        )

    def __call__(self, images) -> Outputs:
        """Predictions, aligned features and routing.

        Args:
          images: float32 [b, H, W, 3], ImageNet-normalised; the sides are multiples of the patch.

        Raises:
          UserError: images of another type or size.
        """
        images = check_images(images, self.patch or 1)
        return self._forward(self.student, images)

    def computes(self, *, aligned: bool):
        """The jitted `(student, images) -> Outputs`; aligned features that are not wanted are not computed."""
        return self._forward if aligned else self._without_aligned

    @functools.cached_property
    def tasks(self) -> tuple[tasks.Task, ...]:
        """The tasks that the student predicts; none after a distillation."""
        predicted = getattr(self._shapes, "predictions", {})
        return tuple(task for task in tasks.select(recipe.ordered(self.config.tasks)) if task.name in predicted)

    @property
    def experts(self) -> tuple[str, ...]:
        """What a router chooses from, in its order: the stem, then each teacher's path."""
        teachers = recipe.teachers(self.config).items()
        return ("stem", *(name for name, settings in teachers if isinstance(settings, dict)))

    @functools.cached_property
    def _shapes(self) -> Any:
        """What the student gives for an image, as shapes."""
        image = jax.ShapeDtypeStruct((1, *self.config.image_size, 3), jnp.float32)
        return jax.eval_shape(self._forward, self.student, image)

    @property
    def sizes(self) -> pictures.Sizes:
        """The sizes of images that the student takes."""
        return pictures.Sizes(self.patch or 1, tuple(self.config.image_size), fixed=self.patch is None)

    @property
    def patch(self) -> int | None:
        """What the sides of images are multiples of; None where the student says nothing of it: it has one size."""
        return getattr(self.student, "patch", None)

    def predict(
        self,
        picture: pictures.Given | Sequence[pictures.Given],
        *,
        resize: tuple[int, int] | None = None,
        tile: int | tuple[int, int] | None = None,
        batch: int = 8,
        aligned: bool = False,
    ) -> Prediction | list[Prediction]:
        """Named, decoded results of raw pictures of any size, at their own size; rules: `sak_jax.pictures`.

        Metres hold where the camera of the picture, as it is shown to the student, is like that of the training data.

        Args:
          picture: uint8 [h, w, 3], a path, or a list of these.
          resize: scale pictures to fit into (height, width) before they are shown; results are scaled back.
          tile: cut larger pictures into tiles of this side, or (height, width); None: only very large ones, into tiles
            of the trained size.
          batch: windows that are computed together, at most.
          aligned: also give the teachers' aligned features, which are not computed otherwise.

        Returns:
          A `Prediction`, or for a list a list of them.

        Raises:
          UserError: a picture can't be read or is none, an argument is out of its range, the student has no tasks, or
            aligned features of a picture in tiles are asked for.
        """
        resize, tile = _sides(resize, "resize"), _sides((tile, tile) if isinstance(tile, int) else tile, "tile")
        if batch < 1:
            raise UserError(f"batch is {batch}: it must be positive")
        if not self.tasks and not (aligned and isinstance(self._shapes, Outputs)):
            raise UserError("this student has no tasks, as after a distillation: give one that was trained on tasks")
        several = isinstance(picture, list | tuple)
        originals = [pictures.read(one) for one in (picture if several else [picture])]
        shown = [pictures.scaled(one, resize) for one in originals]
        layouts = [self.sizes.layout(one.shape[:2], tile) for one in shown]
        if aligned and any(len(layout.places) > 1 for layout in layouts):
            raise UserError("aligned features are those of one pass: give resize, or a tile as large as the picture")
        parts = [_Parts({task.name: pictures.Blend(layout) for task in self.tasks}) for layout in layouts]
        self._compute(shown, layouts, parts, batch, self.computes(aligned=aligned))
        found = [self._prediction(*each) for each in zip(parts, layouts, originals, strict=True)]
        return found if several else found[0]

    def _compute(self, shown, layouts, parts: list["_Parts"], batch: int, forward) -> None:
        """Runs the student on every picture's windows and adds what it gives to the pictures' parts."""
        by_shape: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, layout in enumerate(layouts):
            by_shape.setdefault(layout.window, []).extend((number, index) for index in range(len(layout.places)))
        for places in by_shape.values():
            for start in range(0, len(places), batch):
                chunk = places[start : start + batch]
                images = [pictures.window(shown[number], layouts[number], index) for number, index in chunk]
                # Filled up to a power of two, or the batch: few numbers of images, so that few programs compile.
                count = min(batch, 1 << (len(chunk) - 1).bit_length())
                images += [np.zeros_like(images[0])] * (count - len(chunk))
                computed = jax.device_get(forward(self.student, np.stack(images)))
                for row, (number, index) in enumerate(chunk):
                    parts[number].add(index, jax.tree.map(lambda x, row=row: x[row].copy(), computed))

    def _prediction(self, parts: "_Parts", layout: pictures.Layout, original: pictures.Picture) -> Prediction:
        results = {
            task.name: Result(task, pictures.at_size(parts.blends[task.name].result(), original.shape[:2]))
            for task in self.tasks
        }
        routing = {task: total / len(layout.places) for task, total in parts.routing.items()}
        return Prediction(results, routing, parts.aligned, layout)


@dataclasses.dataclass
class _Parts:
    """What is known of a picture so far, while its windows are computed."""

    blends: dict[str, pictures.Blend]
    routing: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    aligned: dict[str, tuple[np.ndarray, ...]] = dataclasses.field(default_factory=dict)

    def add(self, index: int, outputs: Outputs) -> None:
        for task, blend in self.blends.items():
            blend.add(index, outputs.predictions[task])
        for task, weights in outputs.routing.items():
            self.routing[task] = self.routing.get(task, 0) + weights
        self.aligned = outputs.aligned


def _sides(given: Any, name: str) -> tuple[int, int] | None:
    """Height and width as given; raises UserError where they are no two positive integers."""
    if given is None:
        return None
    sides = tuple(given) if isinstance(given, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{name} is {given!r}: it must be (height, width), both positive")
    return sides


def check_images(images, patch: int) -> jax.Array:
    """Normalised images as the student takes them.

    Raises:
      UserError: they are not floating point, not [b, H, W, 3], or a side is no multiple of the patch.
    """
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4 or shape[3] != 3:
        raise UserError(f"a student takes images [b, H, W, 3], not {type(images).__name__} of the shape {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"a student takes ImageNet-normalised float32 images, not {dtype}: give raw pictures to student.predict, "
            "or normalise them, (image / 255 - mean) / std"
        )
    if any(side % patch or not side for side in shape[1:3]):
        raise UserError(
            f"images are {shape[1]} x {shape[2]}, and their sides must be multiples of the patch {patch}: pad or crop "
            "them, or give raw pictures to student.predict, which does"
        )
    return jnp.asarray(images, jnp.float32)
