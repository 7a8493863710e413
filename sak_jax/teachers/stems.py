"""What a student's stem starts from: augreg's vision transformers (Steiner et al., 2022), as Google publishes them."""

import contextlib
import dataclasses
import os
import shutil
import urllib.request

import numpy as np
from etils import epath
from flax import nnx

from sak_jax import paths
from sak_jax.errors import UserError
from sak_jax.nn.vit import ViT, ViTConfig
from sak_jax.teachers import vits
from sak_jax.weights import files, names_augreg, rules, states
from sak_jax.weights.names_authors import AUGREG
from sak_jax.weights.positions import square_grid

BUCKET = "https://storage.googleapis.com/vit_models/augreg"
"""Where Google publishes them."""

FILES = {
    "small": "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03-res_384.npz",
    "base": "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_384.npz",
    "large": "L_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1--imagenet2012-steps_20k-lr_0.01-res_384.npz",
}
"""By the size of the stem: those that the published students start from."""

TIMEOUT = 60
"""Seconds without an answer after which a download is given up."""


def path(size: str, *, writable: bool = False) -> epath.Path:
    """Where recipes look for the file of a stem, see `paths.cache_directory`."""
    return paths.cache_directory("stems", writable=writable) / FILES[size]


def fetch(size: str, output: epath.PathLike = "", source: epath.PathLike | None = None, *, force: bool = False):
    """Downloads the file that a stem starts from, and checks that it is whole and of this stem.

    Args:
      size: a key of `FILES`.
      output: the folder for it; "" is where recipes look.
      source: a local file, which is taken instead of downloading one.
      force: replace what is there.

    Returns:
      The path of the file.

    Raises:
      UserError: it is there already, can't be had or written, or is not this stem's.
    """
    folder = paths.given(output) if output else path(size, writable=True).parent
    file = paths.check_output(folder / FILES[size], force=force)
    # Beside the file, so that renaming it is all that is left to do once it is known to be whole.
    temporary = file.parent / f".{file.stem}.{os.getpid()}.npz"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as opened:
            _copy(source, size, opened, file)
        read(temporary, vits.config(size, 16, 384))
        temporary.replace(file)
    except UserError as error:
        raise UserError(str(error).replace(str(temporary), str(source or f"{BUCKET}/{FILES[size]}"))) from error
    except OSError as error:
        raise UserError(f"{file} can't be written ({error.strerror or error}); give another --output") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return file


def _copy(source: epath.PathLike | None, size: str, target, file: epath.Path) -> None:
    """The bytes of the file into `target`."""
    if source:
        source = paths.given(source)
        if not source.is_file():
            raise UserError(f"{source}: no such file; give the augreg .npz file of the {size} stem")
        with source.open("rb") as opened:
            shutil.copyfileobj(opened, target)
        return
    address = f"{BUCKET}/{FILES[size]}"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            shutil.copyfileobj(answer, target)
            wanted = answer.headers.get("Content-Length")
        if wanted is not None and target.tell() != int(wanted):
            raise EOFError(f"{target.tell()} of {wanted} bytes came")
    except Exception as error:  # The network fails in many ways: by name, by answer, by time, in between.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{address} can't be downloaded ({reason}): fetch it and give it with --input=FILE, or put it at {file}"
        ) from error


def read(path: epath.PathLike, config: ViTConfig) -> tuple[dict[tuple, np.ndarray], tuple[int, int]]:
    """The stem in an augreg `.npz` file, with the positions it was trained with.

    Args:
      path: the file.
      config: of the stem to fill; its image size and low-rank updates do not matter.

    Returns:
      Arrays by their path in `ViT`, and the grid of the position embedding.

    Raises:
      UserError: the file can't be read, or is not this stem's.
    """
    weights = files.read_weights(path)
    if names_augreg.POSITIONS not in weights:
        raise UserError(
            f"{path}: key {names_augreg.POSITIONS} is missing; give an augreg .npz file of a plain vision transformer"
        )
    grid = square_grid(weights[names_augreg.POSITIONS], f"{path}: {names_augreg.POSITIONS}")
    size = grid[0] * config.patch, grid[1] * config.patch
    config = dataclasses.replace(config, lora=None, norm=False, image_size=size)
    stem = nnx.eval_shape(lambda: ViT(config, rngs=nnx.Rngs(0)))
    table, drop = AUGREG.for_config(config)
    return rules.load(states.flat(stem), weights, table, drop=drop, name=str(path)), grid
