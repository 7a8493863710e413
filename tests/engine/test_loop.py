"""The training loop, in this process."""

import pytest
from etils import epath

from sak_jax import recipe, run
from sak_jax.engine import checkpoints
from sak_jax.engine.evaluate import Evaluator
from sak_jax.engine.stop import Stop
from sak_jax.errors import UserError
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
