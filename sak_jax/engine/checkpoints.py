"""Checkpoints as folders: finding, reading, and writing a model alone. This and `saving` are what knows Orbax.

A checkpoint is a folder `checkpoints/{stage}/{step}` in the workdir with the items `model` (the model's state, all that
inference needs), `progress` (step and optimiser), `iterator` (the position in the data), `run` (seconds so far, and
numbers by which the others are checked, see `digest`) and `config`. `checkpoints/{stage}/scores.json` holds the
score of each evaluated step.
"""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx

from sak_jax import paths
from sak_jax.engine import digest
from sak_jax.errors import UserError

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
SCORES = "scores.json"
STAGES = ("multitask", "distill")
"""Of two stages the later first: what a workdir's newest checkpoint is."""


def whole(folder: epath.Path) -> bool:
    """Whether a checkpoint's folder has its parts; what is in them is not looked at."""
    return (folder / "model").is_dir() and (folder / "config").is_dir()


def read_scores(folder: epath.Path) -> dict[int, float]:
    """The scores of a stage's evaluated steps; none where the file is missing or damaged."""
    try:
        return {int(step): float(score) for step, score in json.loads((folder / SCORES).read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def item(folder: epath.Path) -> str:
    """The text of a checkpoint's JSON item."""
    return (folder / "metadata").read_text()


def read_config(path: epath.PathLike, *, best: bool = False) -> dict[str, Any]:
    """The recipe of a checkpoint, as plain data; see `find`.

    Raises:
      UserError: there is no checkpoint, or its recipe can't be read.
    """
    folder = find(path, best=best)
    try:
        config = json.loads(item(folder / "config"))
        if not isinstance(config, dict):
            raise ValueError("it is no section of keys")
        return config
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder} can't be read as a checkpoint (its config: {error}); give another one") from error


def write_model(workdir: epath.Path, stage: str, step: int, config: Mapping[str, Any], model: nnx.State) -> None:
    """A checkpoint that holds a model and its recipe alone, as if its stage had just ended; whole or not at all.

    Args:
      workdir: the folder that `load` is given.
      stage: of the recipe.
      step: the stage's last.
      config: the recipe as plain data.
      model: all of the model's parameters and statistics.

    Raises:
      UserError: it cannot be written; of what was begun nothing is left.
    """
    arrays = nnx.to_pure_dict(model)
    items = ocp.args.Composite(
        model=ocp.args.StandardSave(arrays),
        run=ocp.args.JsonSave({"digests": {"model": digest.of_arrays(arrays)}}),
        config=ocp.args.JsonSave(dict(config)),
    )
    folder = workdir / FOLDER / stage
    begun = [each for each in (workdir, folder.parent, folder) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(paths.without_patterns(folder) / str(step), args=items)
    except BaseException as error:
        why = paths.reason(error, folder)
        if begun and begun[0].exists():
            begun[0].rmtree()
        if isinstance(error, (OSError, ValueError, RuntimeError)):
            raise UserError(f"{folder} cannot be written ({why})") from error
        raise


def find(path: epath.PathLike, *, best: bool = False) -> epath.Path:
    """The checkpoint folder that `path` means: a workdir's newest (of the later stage), or the checkpoint itself.

    Args:
      path: a workdir or a checkpoint.
      best: of a workdir the one with the highest score instead.

    Returns:
      Its path from the root, whose last parts are stage and step wherever `path` is relative to.

    Raises:
      UserError: there is none, or none has a score.
    """
    paths.check_remote(path)
    # Not `resolve`d: of a link the stage is where the link lies.
    path = epath.Path(path if paths.is_remote(path) else os.path.abspath(path))
    if whole(path) and not best:
        return path
    for stage in stages(path):
        found = steps(path / FOLDER / stage)
        if found and best:
            scores = {step: score for step, score in read_scores(path / FOLDER / stage).items() if step in found}
            if not scores:
                raise UserError(f"{path} has no checkpoint with a score: set multitask.eval_every, or take the newest")
            return path / FOLDER / stage / str(max(scores, key=scores.get))
        if found:
            return path / FOLDER / stage / str(max(found))
    raise UserError(f"{path} holds no checkpoint: give a workdir with {FOLDER}/ in it, or one checkpoint's folder")


def stages(workdir: epath.Path) -> list[str]:
    """The stages that have a folder in a workdir, the later first; those not in `STAGES` first of all."""
    folder = workdir / FOLDER
    names = [child.name for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
    return sorted(names, key=lambda name: (STAGES.index(name) if name in STAGES else -1, name))


def steps(folder: epath.Path) -> list[int]:
    """The finished checkpoints in a stage's folder; one being written has another name, or on `gs://` lacks a mark."""
    children = [child for child in folder.iterdir() if child.name.isdigit()] if folder.is_dir() else []
    return [int(child.name) for child in children if not ocp.utils.is_tmp_checkpoint(child) and whole(child)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it a damaged checkpoint, or a full disk, is an exception alone.

    TensorStore's threads print a traceback each when Orbax has met either and no longer waits for them; since they may
    do so later, they are kept from it for good once that has happened.
    """
    before = sys.unraisablehook

    def hook(unraisable) -> None:
        if not (unraisable.exc_type is RuntimeError and "Event loop is closed" in str(unraisable.exc_value)):
            before(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before


def load(path: epath.PathLike, *, best: bool = False) -> tuple[dict[str, Any], str, dict]:
    """A checkpoint's recipe as plain data, its stage, and the model's state as nested dicts of arrays on the host.

    Args:
      path: see `find`.
      best: see `find`.

    Raises:
      UserError: there is no checkpoint, or it can't be read.
    """
    folder = find(path, best=best)
    try:
        config = read_config(folder)
        with quiet(), ocp.PyTreeCheckpointer() as checkpointer:
            place = paths.without_patterns(folder) / "model"
            saved = checkpointer.metadata(place).item_metadata.tree
            # As numpy arrays, wherever they lay when they were saved: on another number of devices, say.
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            model = checkpointer.restore(place, restore_args=arguments)
        kept = json.loads(item(folder / "run")) if (folder / "run").exists() else {}
        if kept.get("digests", {}).get("model") not in (None, digest.of_arrays(model)):
            raise ValueError("its model is not what was saved")
        return config, folder.parent.name, model
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - Orbax raises whatever the damage makes it stumble over
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} can't be read as a checkpoint ({reason}); give another one") from error
