"""The training loop, in this process."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from sak_jax import recipe, run
from sak_jax.engine import checkpoints, loop, optim
from sak_jax.engine import mesh as meshes
from sak_jax.engine.evaluate import Evaluator
from sak_jax.engine.stage import Evaluation, Stage, Start
from sak_jax.engine.stop import Stop
from sak_jax.errors import Stopped, UserError
from tests import runs


def train(config, workdir):
    run.run(config, epath.Path(workdir), run.Options(), Stop(), 0.0)


def test_data_of_the_second_stage_are_missed_before_the_first_begins(tmp_path):
    config = recipe.load(runs.TINY)
    config.distill.data = {"name": "rooms", "train_length": 16}
    config.data = {"name": "nyud", "root": str(tmp_path / "nowhere"), "workers": 0, "on_error": "raise"}
    with pytest.raises(UserError, match="nowhere"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_evaluation_that_fails_does_not_cost_the_training(tmp_path, monkeypatch):
    config = recipe.load(f"{runs.TINY}:method=multitask")
    config.multitask.steps, config.checkpoint.every = 2, 100
    evaluate = Evaluator.__call__

    def fail(self, model, stop=None):
        raise UserError("damaged")

    monkeypatch.setattr(Evaluator, "__call__", fail)
    with pytest.raises(UserError, match="damaged"):
        train(config, tmp_path)
    assert checkpoints.find(tmp_path).name == "2" and not runs.lines(tmp_path, "val")
    # Going on, what was owed is made up for: the scores of that step are in the log.
    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    train(config, tmp_path)
    assert [line["step"] for line in runs.lines(tmp_path, "val")] == [2]
    assert checkpoints.find(tmp_path, best=True).name == "2"


class Numbers:
    """Endless batches of one column, and the step at which a signal comes while it is fetched."""

    images = 4

    def __init__(self, stop, signal_at=0):
        self.stop, self.signal_at, self.taken = stop, signal_at, 0

    def __len__(self):
        return 3

    def __iter__(self):
        return self

    def __next__(self):
        self.taken += 1
        if self.taken == self.signal_at:
            self.stop._handle(15, None)
        return {"image": np.full((4, 1), self.taken, np.float32), "mask": np.ones(4, bool)}

    def get_state(self):
        return {"taken": self.taken}

    def set_state(self, state):
        self.taken = state["taken"]

    def close(self):
        pass


class Count:
    """A metric: how many rows were looked at."""

    name, on_host, closed = "rows", False, 0

    def batch(self, prediction, label, mask, *size):
        return {"rows": jnp.sum(mask)}

    def result(self, totals):
        return {"rows": float(totals["rows"])}

    def close(self):
        self.closed += 1


def line(name, stop, *, evaluation=None):
    """A stage that fits a line: it compiles at once."""
    schedule = optim.polynomial(0.1, 4, power=1.0)

    def loss(model, features, part):
        return jnp.mean((model(part.batch["image"]) - 1) ** 2), {}

    return Stage(
        name=name,
        steps=3,
        create=lambda rngs: nnx.Linear(1, 1, rngs=rngs),
        trainable=lambda path, value: isinstance(value, nnx.Param),
        loss=loss,
        optimizer=optim.adamw(schedule, weight_decay=0.0),
        schedule=schedule,
        batches=lambda: Numbers(stop),
        inputs={"image": jax.ShapeDtypeStruct((4, 1), jnp.float32), "mask": jax.ShapeDtypeStruct((4,), jnp.bool_)},
        start=lambda previous: Start(),
        evaluation=evaluation,
    )


def scored(stop, signal_at=0, metric=None):
    """An evaluation in three batches."""
    return lambda: Evaluation(
        batches=lambda: Numbers(stop, signal_at),
        images=12,
        skipped=0,
        metrics={"image": metric or Count()},
        predict=lambda model, images: {"image": images},
        score=lambda scores: scores["image/rows"],
        sample=lambda index: {},
    )


def loop_of(stages, stop, workdir):
    settings = loop.Settings(
        workdir=epath.Path(workdir),
        mesh=meshes.make_mesh(-1, 1),
        seed=0,
        config={},
        compatible=lambda theirs: None,
        stop=stop,
        loggers=(),
    )
    return loop.train(stages, settings)


def saved(workdir):
    return {stage: sorted(checkpoints.steps(workdir / "checkpoints" / stage)) for stage in checkpoints.stages(workdir)}


def signalled(stop):
    """Batches with which a signal comes as the third is given to the loop: they are made earlier, in a thread."""
    steps = iter(range(1, 7))

    class Signalled(loop.Ahead):
        def __next__(self):
            batch = super().__next__()
            if next(steps) == 3:
                stop._handle(15, None)
            return batch

    return Signalled


def test_a_signal_in_the_last_step_of_a_stage_that_is_not_the_last(tmp_path, monkeypatch):
    stop = Stop()
    with monkeypatch.context() as patched, pytest.raises(Stopped, match="stopped at step 3 of distill"):
        patched.setattr(loop, "Ahead", signalled(stop))
        loop_of([line("distill", stop), line("multitask", stop)], stop, tmp_path)
    assert saved(tmp_path)["distill"] == [3] and not saved(tmp_path).get("multitask")
    stop = Stop()
    trained = loop_of([line("distill", stop), line("multitask", stop)], stop, tmp_path)
    assert trained.step == 3 and [entry["split"] for entry in runs.lines(tmp_path)].count("distill") == 1


def test_a_signal_during_an_evaluation_ends_it_at_the_next_batch_and_it_is_made_up_for(tmp_path):
    stop = Stop()
    with pytest.raises(Stopped, match="stopped"):
        loop_of([line("multitask", stop, evaluation=scored(stop, signal_at=2))], stop, tmp_path)
    assert saved(tmp_path) == {"multitask": [3]} and not runs.lines(tmp_path, "val")
    stop = Stop()
    trained = loop_of([line("multitask", stop, evaluation=scored(stop))], stop, tmp_path)
    assert trained.scores == {"image/rows": 12.0}
    assert [entry["step"] for entry in runs.lines(tmp_path, "val")] == [3]


def test_processes_of_an_evaluation_end_with_the_stage_however_that_ends(tmp_path, monkeypatch):
    stop, metric = Stop(), Count()
    stage = dataclasses.replace(line("multitask", stop, evaluation=scored(stop, metric=metric)), steps=4, eval_every=2)
    with monkeypatch.context() as patched, pytest.raises(Stopped, match="stopped at step 3"):
        patched.setattr(loop, "Ahead", signalled(stop))
        loop_of([stage], stop, tmp_path)
    assert [entry["step"] for entry in runs.lines(tmp_path, "val")] == [2] and metric.closed == 1
    loop_of([dataclasses.replace(stage, batches=lambda: Numbers(Stop()))], Stop(), tmp_path)
    assert metric.closed == 2


def test_a_stage_lets_go_of_the_one_before_and_going_on_makes_no_state_first(tmp_path, monkeypatch):
    stop, given, train_stage = Stop(), [], loop._train_stage

    def spy(stage, batches, evaluation, settings, previous):
        given.append(previous)
        return train_stage(stage, batches, evaluation, settings, previous)

    monkeypatch.setattr(loop, "_train_stage", spy)
    trained = loop_of([line("distill", stop), line("multitask", stop)], stop, tmp_path)
    assert given[0] is None and given[1].model is None and trained.model is not None
    # Restored straight into the planned shapes: no state is initialised beside it.
    monkeypatch.setattr(loop.states, "fresh", lambda *_: pytest.fail("a state was made"))
    again = loop_of([line("distill", stop), line("multitask", stop)], stop, tmp_path)
    for mine, theirs in zip(jax.tree.leaves(again.model), jax.tree.leaves(trained.model), strict=True):
        np.testing.assert_array_equal(mine, theirs)
