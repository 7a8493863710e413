"""Batches that are on the devices before they are asked for."""

import threading
import time

import numpy as np
import pytest

from sak_jax.engine import mesh as meshes
from sak_jax.engine.ahead import AHEAD, Ahead
from sak_jax.errors import UserError


class Counted:
    """Batches that hold their numbers; the one of `broken` cannot be made."""

    images = 1

    def __init__(self, broken=None):
        self.taken, self.broken, self.threads = 0, broken, set()

    def __next__(self):
        self.threads.add(threading.current_thread())
        if self.taken == self.broken:
            raise UserError(f"photos/{self.taken}.png is damaged")
        self.taken += 1
        return {"number": np.array([self.taken - 1])}

    def get_state(self):
        return {"next_batch": self.taken}


def test_batches_come_in_order_with_their_state_and_two_more_are_made_by_another_thread():
    batches = Counted()
    ahead = Ahead(batches, meshes.make_mesh(-1, 1))
    assert ahead.get_state() == {"next_batch": 0}
    for number in range(4):
        assert int(next(ahead)["number"][0]) == number
        assert ahead.get_state() == {"next_batch": number + 1}  # Not that of those made ahead.
    deadline = time.monotonic() + 60
    while batches.taken < 4 + AHEAD and time.monotonic() < deadline:
        time.sleep(0.01)
    assert batches.taken == 4 + AHEAD
    ahead.close()
    assert batches.taken == 4 + AHEAD and threading.main_thread() not in batches.threads


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for():
    ahead = Ahead(Counted(broken=2), meshes.make_mesh(-1, 1))
    assert [int(next(ahead)["number"][0]) for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match=r"photos/2\.png"):
        next(ahead)
    ahead.close()


def test_one_of_several_processes_that_has_no_batch_goes_on_until_all_have_asked(monkeypatch):
    ahead = Ahead(Counted(broken=2), meshes.make_mesh(-1, 1))
    next(ahead)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert [int(next(ahead)["number"][0]) for _ in range(3)] == [1, 1, 1]
    assert ahead.get_state() == {"next_batch": 2}
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"photos/2\.png"):
        ahead.check()
    ahead.close()
