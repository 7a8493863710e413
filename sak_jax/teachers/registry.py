"""The registry of teachers, and loading one for an image size."""

import dataclasses
import difflib
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from sak_jax import paths
from sak_jax.errors import UserError
from sak_jax.teachers import entry, rooms, sam, swin, vits
from sak_jax.teachers.entry import Teacher
from sak_jax.teachers.views import View
from sak_jax.weights import files, states

TEACHERS: dict[str, Teacher] = {
    teacher.name: teacher for family in (vits, sam, swin, rooms) for teacher in family.TEACHERS
}
PUBLISHED = frozenset(TEACHERS)
"""The names of those that come with the package."""

LARGEST = 1 << 14
"""Pixels a side that a converted file may be for."""


def get(name: str) -> Teacher:
    """The registry's entry; raises UserError for an unknown name."""
    if name not in TEACHERS:
        near = difflib.get_close_matches(name, TEACHERS, n=3) or list(TEACHERS)[:3]
        raise UserError(f"no teacher is called {name!r}: did you mean {' or '.join(near)}? docs/teachers.md lists all")
    return TEACHERS[name]


def width(name: str) -> int:
    """Channels of a teacher's maps; raises UserError where the four differ, which a student can't follow."""
    widths = set(get(name).widths)
    if len(widths) > 1:
        raise UserError(
            f"the maps of {name} are {sorted(widths)} wide: only a teacher of one width can teach a student"
        )
    return widths.pop()


def default_directory(*, writable: bool = False) -> epath.Path:
    """Where converted weights lie: `$SAK_JAX_TEACHERS`, else `~/.cache/sak_jax/teachers` (`paths.cache_directory`)."""
    given = os.environ.get("SAK_JAX_TEACHERS")
    return paths.given(given) if given else paths.cache_directory("teachers", writable=writable)


def weights_path(name: str, directory: epath.PathLike = "") -> epath.Path:
    """The file a teacher's converted weights are in, or should be put in; the directory may be `gs://`."""
    if get(name).packaged:
        return entry.PACKAGED / f"{name}.safetensors"
    return (paths.given(directory) if directory else default_directory()) / f"{name}.safetensors"


Place = Callable[[tuple, np.ndarray], jax.Array]
"""(path, array) -> the array where it is to lie."""


def load(
    name: str,
    image_size: tuple[int, int],
    *,
    dtype=jnp.float32,
    directory: epath.PathLike = "",
    random: bool = False,
    normalisation: str = "imagenet",
    pad: bool = True,
    crop: bool = False,
    norm: bool = False,
    student_patch: int | None = None,
    position_offset: float | None = None,
    seed: int = 0,
    place: Place | None = None,
) -> tuple[nnx.Module, View]:
    """A frozen teacher for the student's images.

    Args:
      name: a key of the registry.
      image_size: (height, width) of the student's images; position embeddings are resized for it.
      dtype: of weights and computation.
      directory: where converted weights lie; "" is `default_directory()`.
      random: random weights instead of a file's.
      normalisation: `imagenet` feeds the student's own normalisation (as published), `native` what the weights were
        trained with.
      pad: SAM gets images resized and padded to 1024 x 1024; False: as they are, with its positions resized.
      crop: leave the padded part of SAM's maps out.
      norm: keep the final norm, which maps do not go through but tokens may (`ViT.tokens`).
      student_patch: resize the image so that the teacher's grid is that of a student with patches of this size; its
        positions are for the resized image (DUNE).
      position_offset: resize positions by DINOv2's rule, with this offset (0.1) and without antialias; None: by the
        teacher's own rule, see `ViTConfig.position_offset`.
      seed: of random weights.
      place: puts each array where it is to lie, e.g. on a mesh, straight from the file's; None: on JAX's default
        device.

    Returns:
      The module, images -> four maps `[b, h, w, width]`, and the view of the student's images that it wants.

    Raises:
      UserError: unknown name or option, or the weights are missing or not this model's; the final norm is asked for
        and the teacher, or the file, has none.
    """
    teacher = with_offset(get(name), position_offset)
    view = view_of(teacher, normalisation=normalisation, pad=pad, crop=crop, student_patch=student_patch)
    size = view.on_grid(image_size)
    options = {"dtype": dtype, "directory": directory, "random": random, "pad": pad, "norm": norm, "seed": seed}
    arrays = state(name, size, position_offset=position_offset, **options)
    module = abstract(teacher, _sized(teacher, size, pad, norm), dtype)
    place = place or (lambda path, array: jnp.asarray(array))
    nnx.update(module, states.like(arrays, {path: place(path, x) for path, x in states.flat(arrays).items()}))
    return module, view


def state(
    name: str,
    image_size: tuple[int, int],
    *,
    dtype=jnp.float32,
    directory: epath.PathLike = "",
    random: bool = False,
    pad: bool = True,
    norm: bool = False,
    position_offset: float | None = None,
    seed: int = 0,
) -> nnx.State:
    """The weights that `load` gives a teacher, as numpy arrays of `dtype` that lie on no device yet.

    It has the paths and shapes of `abstract(teacher, teacher.for_size(image_size, pad=pad, norm=norm), dtype)`.
    Arguments and errors are those of `load`; the size is that of the teacher's images.
    """
    teacher = with_offset(get(name), position_offset)
    config = _sized(teacher, image_size, pad, norm)
    if random:
        made = jax.jit(lambda: nnx.state(teacher.family.create(config, dtype, nnx.Rngs(seed))))()
        return jax.tree.map(lambda x: _cast(np.asarray(x), dtype), made)
    path = weights_path(name, directory)
    remedy = f"python tools/convert_teacher.py {name} --output={path.parent}"
    if not path.exists():
        raise UserError(f"the weights of teacher {name} are missing: {path} is wanted; make it with {remedy}")
    metadata = files.read_metadata(path)
    made_for = metadata.get("teacher", name)
    if made_for != name:
        raise UserError(f"{path} holds the weights of {made_for}, not of {name}: convert {name} again")
    weights = files.read_weights(path)
    kept = f"{teacher.family.norm}.scale" in weights
    if norm and not kept:
        raise UserError(
            f"{path} was converted without the final norm of {name}, which is asked for: convert it again with {remedy}"
            " --force"
        )
    native = teacher.with_norm(kept)
    if "image_size" in metadata:
        native = dataclasses.replace(native, image_size=_size(metadata["image_size"], path))
    module = abstract(teacher, native)
    return _fitted(teacher, states.load(module, weights, states.own(module), name=str(path)), native, config, dtype)


def _size(text: str, path: epath.Path) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.split(","))
    except ValueError:
        height = width = 0
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise UserError(f"{path}: the image size in it is {text!r}; convert the teacher again")
    return height, width


def fresh(
    name: str,
    image_size: tuple[int, int],
    *,
    dtype=jnp.float32,
    rngs: nnx.Rngs,
    pad: bool = True,
    attention: str = "auto",
    remat: str = "named",
    **options,
) -> tuple[nnx.Module, View]:
    """A model of the registry with new float32 parameters, to be trained, and its view of the student's images.

    Args:
      name, image_size, pad, options: those of `load`.
      dtype: of the computation.
      rngs: a `params` stream.
      attention, remat: how it is computed, where the model has a choice (see `ViTConfig`).
    """
    teacher = get(name)
    config = _sized(teacher, image_size, pad)
    if hasattr(config, "attention"):
        config = dataclasses.replace(config, attention=attention, remat=remat)
    module = teacher.family.create(config, dtype, rngs)
    return module, view_of(teacher, pad=pad, **options)


def _sized(teacher: Teacher, image_size: tuple[int, int], pad: bool, norm: bool = False) -> object:
    if norm and not teacher.has_norm:
        raise UserError(f"{teacher.name} has no final norm: only its maps can be had")
    if min(image_size) < teacher.config.patch:
        raise UserError(
            f"image_size {tuple(image_size)} is below one patch of teacher {teacher.name} ({teacher.config.patch})"
        )
    return teacher.for_size(image_size, pad=pad, norm=norm)


def with_offset(teacher: Teacher, offset: float | None) -> Teacher:
    """The entry with the rule by which positions are resized, see `load`; None leaves its own."""
    if offset is None:
        return teacher
    if not hasattr(teacher.config, "position_offset"):
        raise UserError(f"teachers.{teacher.name}.position_offset: only a plain vision transformer has that rule")
    return dataclasses.replace(teacher, config=dataclasses.replace(teacher.config, position_offset=offset))


def view_of(
    teacher: Teacher,
    *,
    normalisation: str = "imagenet",
    pad: bool = True,
    crop: bool = False,
    student_patch: int | None = None,
) -> View:
    """The view of the student's images that a teacher wants; the options are `load`'s."""
    if normalisation not in ("imagenet", "native"):
        raise UserError(f"a teacher's normalisation is {normalisation!r}: it must be imagenet or native")
    mean, std = teacher.normalisation if normalisation == "native" else entry.IMAGENET
    pad_to = teacher.pad_to if pad else None
    if student_patch is not None and pad_to is not None:
        raise UserError(f"teacher {teacher.name} pads its image: student_patch needs pad=False beside it")
    patches = (teacher.config.patch, student_patch) if student_patch and student_patch != teacher.config.patch else None
    return View(mean, std, patches=patches, pad_to=pad_to, crop=crop)


def abstract(teacher: Teacher, config: object, dtype=jnp.float32) -> nnx.Module:
    """The teacher's module with shapes for arrays, of `dtype` as `load` gives them."""
    module = nnx.eval_shape(lambda: teacher.family.create(config, dtype, nnx.Rngs(0)))
    nnx.update(module, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _dtype(x, dtype)), nnx.state(module)))
    return module


def fitted(teacher: Teacher, state: nnx.State, config: object, dtype=jnp.float32) -> nnx.Module:
    """The module for `config` (see `Teacher.for_size`) from weights of the teacher's own size.

    Their final norm is left out where `config` has none.
    """
    module = abstract(teacher, config, dtype)
    nnx.update(module, jax.tree.map(jnp.asarray, _fitted(teacher, state, teacher.config, config, dtype)))
    return module


def _fitted(teacher: Teacher, state: nnx.State, native: object, config: object, dtype) -> nnx.State:
    """The state for `config` from one for `native`, numpy arrays both."""
    if not getattr(config, "norm", False):
        flat = nnx.to_flat_state(state)  # A part by itself would be a state within a state, another kind of tree.
        state = nnx.from_flat_state({path: leaf for path, leaf in flat if path[0] != teacher.family.norm})
    return jax.tree.map(lambda x: _cast(np.asarray(x), dtype), teacher.family.fit(state, native, config))


def _cast(array: np.ndarray, dtype) -> np.ndarray:
    return array.astype(_dtype(array, dtype), copy=False)


def _dtype(array, dtype):
    """`dtype` for floating arrays, their own for others."""
    return jnp.dtype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype


def register(teacher: Teacher) -> None:
    """Adds a teacher, from a recipe file say; one of its name that was registered before is replaced.

    Raises:
      UserError: the name belongs to a teacher of the package.
    """
    if teacher.name in PUBLISHED:
        raise UserError(f"the teacher {teacher.name!r} comes with the package: give yours another name")
    TEACHERS[teacher.name] = teacher
