"""Saving and restoring. The only module that knows Orbax.

A checkpoint is a folder `checkpoints/{stage}/{step}` in the workdir with the items `model` (the student's state, all
that inference needs), `progress` (step and optimiser), `iterator` (the position in the data) and `config`.
"""

import json
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from sak_jax import paths
from sak_jax import recipe as config_lib
from sak_jax.engine import mesh as sharding
from sak_jax.engine.step import TrainState
from sak_jax.errors import UserError

FOLDER = "checkpoints"
STAGES = ("multitask", "distill")
"""Later stage first: what a workdir's newest checkpoint is."""


class Checkpoints:
    """One stage's checkpoints: the newest few and the best, written in the background, whole or not at all."""

    def __init__(self, workdir: epath.Path, stage: str, config: ConfigDict):
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(max(config.checkpoint.keep, 1)),
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics["score"], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self._config = json.loads(config.to_json())
        folder = paths.absolute(workdir / FOLDER / stage)  # Orbax wants it absolute.
        if folder.exists() and sharding.is_main():
            # What a killed run was writing. Orbax would remove it in a thread of its own, which must not outlive a run
            # that ends at once with an error.
            for child in folder.iterdir():
                if ocp.utils.is_tmp_checkpoint(child):
                    child.rmtree()
        self._manager = ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(preservation_policy=policy))

    @staticmethod
    def exist(workdir: epath.Path, stage: str) -> bool:
        """Whether a stage has left any checkpoint."""
        return bool(steps(workdir / FOLDER / stage))

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, iterator: dict[str, Any], score: float | None = None) -> None:
        """Starts writing a checkpoint of `state`; a step that is there already is left as it is.

        Args:
          state: safe to donate as soon as this returns.
          iterator: the data iterator's state before its next batch.
          score: greater is better; decides which checkpoint is the best.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(nnx.to_pure_dict(state.model)),
                progress=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
                iterator=ocp.args.JsonSave(iterator),
                config=ocp.args.JsonSave(self._config),
            ),
            metrics=None if score is None else {"score": score},
        )

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint, with the shapes and shardings of `state`, and the data iterator's state.

        Raises:
          UserError: it holds a student alone (see `write_model`).
        """
        folder = self._manager.directory / str(self.newest)
        if not (folder / "progress").exists():
            raise UserError(f"{folder} holds a student, not a run to resume: start from it with --config.init_from")
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        restored = self._manager.restore(
            self.newest,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(nnx.to_pure_dict(target.model)),
                progress=ocp.args.StandardRestore({"step": target.step, "opt_state": target.opt_state}),
                iterator=ocp.args.JsonRestore(),
            ),
        )
        model = target.model
        nnx.replace_by_pure_dict(model, restored["model"])
        flat = dict(nnx.to_flat_state(model))
        pick = lambda part: nnx.from_flat_state({path: flat[path] for path, _ in nnx.to_flat_state(part)})  # noqa: E731
        state = TrainState(
            step=restored["progress"]["step"],
            seed=state.seed,
            params=pick(state.params),
            frozen=pick(state.frozen),
            stats=pick(state.stats),
            opt_state=restored["progress"]["opt_state"],
        )
        return state, restored["iterator"]

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def write_model(workdir: epath.Path, stage: str, config: ConfigDict, model: nnx.State) -> None:
    """A checkpoint that holds a student and its recipe alone, as if its stage had just ended; whole or not at all.

    Args:
      workdir: the folder that `load` is given.
      stage: `distill` or `multitask`.
      config: the recipe.
      model: all of the student's parameters and statistics.
    """
    folder = workdir / FOLDER / stage / str(config[stage].steps)
    items = ocp.args.Composite(
        model=ocp.args.StandardSave(nnx.to_pure_dict(model)), config=ocp.args.JsonSave(json.loads(config.to_json()))
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(paths.absolute(folder), args=items)


def find(path: epath.PathLike) -> epath.Path:
    """The checkpoint folder that `path` means: a workdir's newest (of the later stage), or the checkpoint itself.

    Raises:
      UserError: there is none.
    """
    paths.check_remote(path)
    path = epath.Path(path)
    if (path / "model").exists():
        return path
    for stage in STAGES:
        found = steps(path / FOLDER / stage)
        if found:
            return path / FOLDER / stage / str(max(found))
    raise UserError(f"{path} holds no checkpoint: give a workdir with {FOLDER}/ in it, or one checkpoint's folder")


def steps(folder: epath.Path) -> list[int]:
    """The finished checkpoints in a stage's folder; one being written has another name, or on `gs://` lacks a mark."""
    children = [child for child in folder.iterdir() if child.name.isdigit()] if folder.exists() else []
    return [int(child.name) for child in children if not ocp.utils.is_tmp_checkpoint(child)]


def load(path: epath.PathLike) -> tuple[ConfigDict, str, dict]:
    """A checkpoint's recipe, its stage and the student's state as nested dicts of arrays on the host.

    Raises:
      UserError: there is no checkpoint, or it can't be read.
    """
    folder = find(path)
    try:
        config = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(paths.absolute(folder / "config"))
        with ocp.PyTreeCheckpointer() as checkpointer:
            saved = checkpointer.metadata(paths.absolute(folder / "model")).item_metadata.tree
            # As numpy arrays, wherever they lay when they were saved: on another number of devices, say.
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            model = checkpointer.restore(paths.absolute(folder / "model"), restore_args=arguments)
        return config_lib.from_dict(config), folder.parent.name, model
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} can't be read as a checkpoint ({error}); give another one") from error
