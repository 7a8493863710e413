"""The training loop, in this process."""

import pytest
from etils import epath

from sak_jax import checkpoints, train
from sak_jax.errors import UserError
from sak_jax.evaluate import Evaluator
from tests.recipes import tiny


def test_an_evaluation_that_fails_does_not_cost_the_training(tmp_path, monkeypatch):
    config = tiny.get_config("method=multitask")
    config.multitask.steps, config.checkpoint.every = 2, 100

    def fail(self, model):
        raise UserError("damaged")

    monkeypatch.setattr(Evaluator, "__call__", fail)
    with pytest.raises(UserError, match="damaged"):
        train.train(config, epath.Path(tmp_path))
    assert checkpoints.find(tmp_path).name == "2"
