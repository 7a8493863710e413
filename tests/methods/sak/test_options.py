"""Recomputation and low-rank updates, from the command line to the log and the checkpoints."""

import logging
import shutil

import numpy as np
import pytest

from sak_jax import main
from sak_jax import run as runner
from sak_jax.nn import remat
from tests import runs


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Runs the command line in this process; gives the workdir."""
    loggers = [logging.getLogger(name) for name in ("sak_jax", "absl")]
    levels = [logger.level for logger in loggers]

    def run(*options, workdir=None):
        workdir = workdir or tmp_path_factory.mktemp("run")
        assert main.main((f"--config={runs.SMALLEST}", f"--workdir={workdir}", *options)) == 0
        return workdir

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "start_jax", lambda config: None)  # JAX has started already.
        yield run
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


SECOND = "--config.distill.steps=0"
"""Stage 2 alone, whose loss has stage 1's in it."""


@pytest.fixture(scope="module")
def kept(train):
    """A run that recomputes nothing."""
    return train("--config.model.remat=none", SECOND)


@pytest.mark.parametrize("policy", [name for name in remat.POLICIES if name != "none"])
def test_what_is_recomputed_changes_no_loss(policy, kept, train):
    workdir = train(f"--config.model.remat={policy}", SECOND)
    lines, expected = runs.lines(workdir), runs.lines(kept)
    assert [line["split"] for line in lines] == ["multitask"] * 3 + ["val"]
    for mine, theirs in zip(lines, expected, strict=True):
        assert (mine["step"], mine["split"]) == (theirs["step"], theirs["split"])
        # Adam turns rounding of a gradient that is zero but for it into steps as large as the learning rate.
        assert mine["values"] == pytest.approx(theirs["values"], rel=1e-3), mine["split"]
        if mine["step"] == 1:
            assert mine["values"] == pytest.approx(theirs["values"], rel=2e-5), mine["split"]


LORA = ("--config.model.lora.rank=2", "--config.checkpoint.every=1", "--config.checkpoint.keep=9")


def changed(workdir, stage):
    """The parameters that moved between a stage's first and last checkpoint."""
    first, last = (runs.parameters(workdir / "checkpoints" / stage / step) for step in ("1", "3"))
    return {name for name, value in first.items() if not np.array_equal(value, last[name])}, set(first)


def test_low_rank_updates_alone_of_the_stem_learn_in_stage_1_and_all_in_stage_2(train, tmp_path):
    workdir = train(*LORA)
    moved, known = changed(workdir, "distill")
    stem = {name for name in known if name.startswith("stem/")}
    updates = {name for name in stem if name.rsplit("/", 1)[-1] in ("lora_a", "lora_b")}
    assert len(updates) == 4  # Two of `qkv`, two of `proj`.
    assert moved & stem == updates
    assert {name.split("/")[0] for name in moved} == {name.split("/")[0] for name in known}

    moved, known = changed(workdir, "multitask")
    assert updates <= moved and {name for name in known if name.startswith("stem/")} <= moved
    # Stage 2 starts from what stage 1 made of the stem.
    made = runs.parameters(workdir / "checkpoints/distill/3")
    taken = runs.parameters(workdir / "checkpoints/multitask/1")
    for name in updates:
        np.testing.assert_allclose(taken[name], made[name], atol=2e-3)  # A step of Adam's further.
        assert np.any(made[name])

    # Cut off after stage 1's second step, it ends where it ended.
    again = shutil.copytree(workdir, tmp_path / "again")
    shutil.rmtree(again / "checkpoints/multitask")
    shutil.rmtree(again / "checkpoints/distill/3")
    train(*LORA, workdir=again)
    for stage in ("distill/3", "multitask/3"):
        expected, found = (runs.parameters(folder / "checkpoints" / stage) for folder in (workdir, again))
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert runs.lines(again) == runs.lines(workdir)
