"""The training loop, in this process."""

import pytest
from etils import epath

from sak_jax.engine import checkpoints
from sak_jax.engine import loop as train
from sak_jax.engine.evaluate import Evaluator
from sak_jax.errors import UserError
from tests.recipes import tiny


def test_data_of_the_second_stage_are_missed_before_the_first_begins(tmp_path):
    config = tiny.get_config()
    config.distill.data = {"name": "rooms", "train_length": 16}
    config.data.name, config.data.root = "nyud", str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere"):
        train.train(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_evaluation_that_fails_does_not_cost_the_training(tmp_path, monkeypatch):
    config = tiny.get_config("method=multitask")
    config.multitask.steps, config.checkpoint.every = 2, 100

    def fail(self, model):
        raise UserError("damaged")

    monkeypatch.setattr(Evaluator, "__call__", fail)
    with pytest.raises(UserError, match="damaged"):
        train.train(config, epath.Path(tmp_path))
    assert checkpoints.find(tmp_path).name == "2"
