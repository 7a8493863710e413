import json
import threading

import numpy as np
import pytest

from sak_jax import processes
from sak_jax.data import pipeline, transforms
from sak_jax.errors import UserError

TRANSFORM = transforms.multitask_transform((24, 32), ("semseg", "depth"))


class Numbers:
    """Samples that say which they are."""

    def __init__(self, length, broken=None):
        self.length, self.broken = length, broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.broken:
            raise UserError(f"photos/{index}.png: is not a whole PNG file")
        rng = np.random.default_rng(index)
        return {
            "id": str(index),
            "image": np.full((30, 40, 3), index, np.uint8),
            "semseg": rng.integers(0, 4, (30, 40), dtype=np.uint8),
            "depth": rng.uniform(1, 5, (30, 40)).astype(np.float32),
        }


def number(sample, rng):
    """A transform that keeps the number alone."""
    return {"id": sample["id"], "number": np.array(int(sample["id"]))}


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_equal(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_samples_are_the_same_whatever_the_workers():
    expected = take(pipeline.train_batches(Numbers(10), TRANSFORM, 4, seed=3, prefetch=0), 6)
    assert set(expected[0]) == {"image", "size", "semseg", "depth"} and expected[0]["image"].shape == (4, 24, 32, 3)
    for options in ({"prefetch": 3}, {"threads": 1}, {"threads": 5, "prefetch": 1}, {"workers": 2, "prefetch": 1}):
        batches = pipeline.train_batches(Numbers(10), TRANSFORM, 4, seed=3, **options)
        assert_equal(take(batches, 6), expected)
        batches.close()


def test_epochs_are_whole_and_each_in_a_new_order():
    batches = pipeline.train_batches(Numbers(10), number, 4, seed=0)
    order = np.concatenate([batch["number"] for batch in take(batches, 10)]).reshape(4, 10)
    for epoch in order:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in order}) == 4
    other = pipeline.train_batches(Numbers(10), number, 4, seed=1)
    assert not np.array_equal(np.concatenate([batch["number"] for batch in take(other, 10)]), order.ravel())


def test_augmentation_differs_between_epochs():
    batches = pipeline.train_batches(Numbers(1), TRANSFORM, 1, seed=0)
    first, second = take(batches, 2)
    assert not np.array_equal(first["depth"], second["depth"])


def test_fewer_samples_than_a_batch():
    batch = next(pipeline.train_batches(Numbers(3), number, 8, seed=0))
    assert sorted(batch["number"][:3]) == [0, 1, 2] and batch["number"].shape == (8,)


@pytest.mark.parametrize("workers", [0, 1])
def test_state_restores_to_the_very_next_sample(workers):
    expected = take(pipeline.train_batches(Numbers(10), TRANSFORM, 4, seed=3), 9)
    batches = pipeline.train_batches(Numbers(10), TRANSFORM, 4, seed=3, workers=workers)
    take(batches, 5)
    state = json.loads(json.dumps(batches.get_state()))
    assert_equal(take(batches, 2), expected[5:7])
    batches.set_state(state)
    assert_equal(take(batches, 2), expected[5:7])
    batches.close()
    fresh = pipeline.train_batches(Numbers(10), TRANSFORM, 4, seed=3, workers=1 - workers)
    fresh.set_state(state)
    assert_equal(take(fresh, 4), expected[5:])
    fresh.close()


def test_hosts_share_every_global_batch():
    whole = take(pipeline.train_batches(Numbers(12), TRANSFORM, 4, seed=3), 6)
    hosts = [
        take(pipeline.train_batches(Numbers(12), TRANSFORM, 4, seed=3, process_index=index, process_count=2), 6)
        for index in range(2)
    ]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*hosts, strict=True)]
    assert_equal(joined, whole)


def test_two_hosts_see_each_sample_once_an_epoch():
    seen = []
    for index in range(2):
        batches = pipeline.train_batches(Numbers(12), number, 4, seed=5, process_index=index, process_count=2)
        seen += [batch["number"] for batch in take(batches, 3)]
    assert sorted(np.concatenate(seen)) == list(range(12))


def evaluate_number(sample, rng):
    assert rng is None
    return number(sample, rng)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("length", [3, 8, 9])
def test_evaluation_counts_every_sample_once(hosts, length):
    rows = []
    for index in range(hosts):
        batches = pipeline.evaluation_batches(
            Numbers(length), evaluate_number, 4, process_index=index, process_count=hosts
        )
        found = list(batches)
        assert len(found) == len(batches) == -(-length // 4)
        rows += found
    assert all(batch["mask"].shape == (4 // hosts,) and batch["mask"].dtype == bool for batch in rows)
    mask = np.concatenate([batch["mask"] for batch in rows])
    assert sorted(np.concatenate([batch["number"] for batch in rows])[mask]) == list(range(length))
    assert sorted(np.concatenate([batch["index"] for batch in rows])[mask]) == list(range(length))


def test_evaluation_batches_carry_the_size():
    batches = pipeline.evaluation_batches(Numbers(3), transforms.evaluation_transform((32, 40), ("semseg",)), 2)
    first = next(batches)
    assert first["size"].tolist() == [[30, 40]] * 2 and first["image"].shape == (2, 32, 40, 3)
    assert set(first) == {"image", "semseg", "size", "mask", "index"}


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_arrive_with_the_name_of_the_file(workers):
    batches = pipeline.train_batches(Numbers(5, broken=3), TRANSFORM, 5, seed=0, workers=workers)
    with pytest.raises(UserError, match=r"photos/3\.png"):
        next(batches)
    batches.close()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no samples"):
        pipeline.train_batches(Numbers(0), number, 4, seed=0)
    with pytest.raises(UserError, match="batch_size 3 must be a positive multiple of the 2 processes"):
        pipeline.train_batches(Numbers(5), number, 3, seed=0, process_count=2)


class Meeting(Numbers):
    """Samples that can only be read four at once."""

    def __init__(self, length):
        super().__init__(length)
        self.meeting = threading.Barrier(4, timeout=60)

    def __getitem__(self, index):
        self.meeting.wait()
        return super().__getitem__(index)


@pytest.mark.parametrize("threads", [4, 0])
def test_the_samples_of_one_batch_are_read_at_once_by_as_many_threads_as_there_are_processors(threads, monkeypatch):
    monkeypatch.setattr(processes, "cpus", lambda: 4)
    batches = pipeline.train_batches(Meeting(8), number, 4, seed=0, threads=threads, prefetch=1)
    assert len(set(next(batches)["number"])) == 4
    batches.close()


def test_batches_are_small():
    batches = pipeline.train_batches(Numbers(4), transforms.distill_transform((24, 32)), 4, seed=0)
    assert sum(value.nbytes for value in next(batches).values()) == 4 * 24 * 32 * 3
    batches.close()
