"""Saving and restoring a stage: the newest checkpoints and the best, whole or not at all."""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from orbax.checkpoint import checkpoint_managers

from sak_jax import paths
from sak_jax.engine import checkpoints, digest
from sak_jax.engine import mesh as meshes
from sak_jax.engine.step import TrainState
from sak_jax.errors import EndedEarly, NonFiniteLossError, UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds of a run.

    Attributes:
      state: with the shapes and places asked for.
      iterator: the data iterator's state.
      seconds: that the run had taken.
    """

    state: TrainState
    iterator: dict[str, Any]
    seconds: float


class Checkpoints:
    """One stage's checkpoints: the newest few and the best, written in the background, whole or not at all.

    What TensorStore's threads print of a disk that is full is kept away by `checkpoints.quiet`.

    Args:
      workdir: of the run.
      stage: the stage's name.
      config: the recipe as plain data; saved with every checkpoint.
      compatible: raises UserError for the recipe of a checkpoint that this run may not go on from.
      keep: how many of the newest are kept.
    """

    def __init__(
        self,
        workdir: epath.Path,
        stage: str,
        config: Mapping[str, Any],
        compatible: Callable[[Mapping[str, Any]], None] = lambda config: None,
        keep: int = 2,
    ):
        self._folder = paths.absolute(workdir / checkpoints.FOLDER / stage)  # Orbax wants it absolute.
        self._config, self._compatible = dict(config), compatible
        self._scores = checkpoints.read_scores(self._folder)
        if self._folder.exists() and meshes.is_main():
            # What a killed run was writing. Orbax would remove it in a thread of its own, which must not outlive a run
            # that ends at once with an error.
            for child in self._folder.iterdir():
                if ocp.utils.is_tmp_checkpoint(child):
                    child.rmtree()
                elif child.name.isdigit() and not checkpoints.whole(child):
                    _set_aside(child, "is not whole")
        newest = checkpoint_managers.LatestN(max(keep, 1))
        policy = checkpoint_managers.AnyPreservationPolicy([newest, _Best(self._scores)])
        self._options = ocp.CheckpointManagerOptions(preservation_policy=policy)
        if not paths.is_remote(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)  # A link to nothing would be in the way.
        self._place = paths.without_patterns(self._folder)
        self._manager = ocp.CheckpointManager(self._place, options=self._options)

    @staticmethod
    def exist(workdir: epath.Path, stage: str) -> bool:
        """Whether a stage has left any checkpoint."""
        return bool(checkpoints.steps(workdir / checkpoints.FOLDER / stage))

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, iterator: dict[str, Any], seconds: float = 0.0) -> None:
        """Starts writing a checkpoint of `state`; a step that is there already is left as it is.

        Args:
          state: safe to donate as soon as this returns.
          iterator: the data iterator's state before its next batch.
          seconds: that the run has taken.

        Raises:
          NonFiniteLossError: the state holds NaN or infinity; nothing is written.
          EndedEarly: the checkpoint cannot be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if not _finite((state.params, state.stats, state.opt_state)):
            raise NonFiniteLossError(
                f"at step {step} parameters or optimiser are not finite; the checkpoint before it is kept: go on from "
                "there with a lower learning rate"
            )
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(nnx.to_pure_dict(state.model)),
            progress=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
            iterator=ocp.args.JsonSave(iterator),
            run=ocp.args.JsonSave({"seconds": seconds, "digests": _digests(state, iterator)}),
            config=ocp.args.JsonSave(self._config),
        )
        self._writing(lambda: self._manager.save(step, args=items))

    def wait(self) -> None:
        """Waits until all is written."""
        self._writing(self._manager.wait_until_finished)

    def scored(self, step: int, score: float | None) -> None:
        """Notes how good a step's model is; the best one is kept. None where there is no score."""
        if score is None:
            return
        self._scores[step] = score
        if meshes.is_main():
            text = json.dumps({str(step): value for step, value in sorted(self._scores.items())}) + "\n"
            self._writing(lambda: paths.write_text(self._folder / checkpoints.SCORES, text))

    def restore(self, target: TrainState, seed: jax.Array) -> Restored | None:
        """The newest checkpoint that can be read, each array straight to its place; None where there is none.

        Those that cannot be read are set aside: their folders get another name.

        Args:
          target: shapes that say where they lie.
          seed: of the noise, which no checkpoint holds.

        Raises:
          UserError: the checkpoint is of another recipe, or holds a student alone (see `write_model`).
        """
        while (step := self.newest) is not None:
            folder = self._folder / str(step)
            if not (folder / "progress").exists():
                raise UserError(f"{folder} holds a student, not a run to resume: start from it with --config.init_from")
            try:
                config = json.loads(checkpoints.item(folder / "config"))
                restored = self._restore(step, target, seed)
            except Exception as error:  # noqa: BLE001 - Orbax raises whatever the damage makes it stumble over
                reason = " ".join(str(error).split())[:200]
                if jax.process_count() > 1:
                    remedy = "move it away to go on from the one before it"
                    raise UserError(f"{folder} cannot be read ({reason}): {remedy}") from error
                _set_aside(folder, f"cannot be read ({reason})")
                self._manager.close()
                self._manager = ocp.CheckpointManager(self._place, options=self._options)
                continue
            self._compatible(config)
            return restored
        return None

    def _restore(self, step: int, target: TrainState, seed: jax.Array) -> Restored:
        restored = self._manager.restore(
            step,
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
        run = self._folder / str(step) / "run"
        state = TrainState(
            step=restored["progress"]["step"],
            seed=seed,
            params=pick(target.params),
            frozen=pick(target.frozen),
            stats=pick(target.stats),
            opt_state=restored["progress"]["opt_state"],
        )
        kept = json.loads(checkpoints.item(run)) if run.exists() else {}
        for part, number in _digests(state, restored["iterator"]).items():
            if kept.get("digests", {}).get(part, number) != number:
                raise ValueError(f"its {part} is not what was saved")
        return Restored(state, restored["iterator"], float(kept.get("seconds", 0.0)))

    def close(self) -> None:
        """Waits until all is written."""
        self.wait()
        self._manager.close()

    def _writing(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, ValueError, RuntimeError) as error:
            raise EndedEarly(
                f"{self._folder} cannot be written ({paths.reason(error, self._folder)}); the checkpoints before are "
                "whole: mend it and run the same command to go on"
            ) from error


def _digests(state: TrainState, iterator: dict[str, Any]) -> dict[str, int]:
    progress = jax.tree.leaves({"step": state.step, "opt_state": state.opt_state})
    return {
        "model": digest.of_arrays(nnx.to_pure_dict(state.model)),
        "progress": digest.of_arrays(progress),
        "iterator": digest.of_plain(iterator),
    }


class _Best:
    """Keeps the checkpoint with the highest score."""

    def __init__(self, scores: Mapping[int, float]):
        self._scores = scores

    def should_preserve(self, infos: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether each one is the best."""
        scores = {info.step: self._scores[info.step] for info in infos if info.step in self._scores}
        best = max(scores, key=scores.get) if scores else None
        return [info.step == best for info in infos]


def _finite(tree) -> bool:
    arrays = [digest.local(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    if any(isinstance(x, jax.Array) for x in arrays):
        return bool(_finite_on_devices(arrays))
    return all(np.isfinite(x).all() for x in arrays)


@jax.jit
def _finite_on_devices(arrays: list[jax.Array]) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in arrays]))


def _set_aside(folder: epath.Path, why: str) -> None:
    number = 1
    while (aside := folder.parent / f"{folder.name}.damaged{number}").exists():
        number += 1
    folder.rename(aside)
    logger.warning("the checkpoint %s %s: it is set aside as %s", folder, why, aside.name)
