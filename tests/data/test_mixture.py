import numpy as np
import pytest

from sak_jax.data import mixture, pipeline, transforms
from sak_jax.errors import UserError


class Numbers:
    """Samples that count from a number on."""

    def __init__(self, first, length):
        self.first, self.length = first, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"id": str(self.first + index), "image": np.full((8, 8, 3), self.first + index, np.uint8)}


SETS = {"photos": Numbers(0, 20), "rooms": Numbers(100, 5), "more_rooms": Numbers(150, 2), "people": Numbers(200, 3)}
GROUPS = {"photos": "generic", "rooms": "rooms", "more_rooms": "rooms", "people": "people"}


def number(sample, rng):
    """A transform that keeps the number and the group alone, and a draw of its own."""
    return {"number": np.array(int(sample["id"])), "group": sample["group"], "draw": np.array(rng.random())}


def group_of(numbers):
    return np.where(numbers >= 200, 2, np.where(numbers >= 100, 1, 0))


def take(batches, count):
    return [next(batches) for _ in range(count)]


def test_groups_have_equal_shares_of_every_batch_and_images_know_theirs():
    batches = pipeline.train_batches(mixture.sources(SETS, GROUPS), number, 6, seed=0)
    assert batches.images == 30
    batches = take(batches, 20)
    for batch in batches:
        assert batch["group"].dtype == np.int32 and np.bincount(batch["group"]).tolist() == [2, 2, 2]
        np.testing.assert_array_equal(batch["group"], group_of(batch["number"]))
    numbers = np.concatenate([batch["number"] for batch in batches])
    for first, last, length in ((0, 100, 20), (100, 200, 7), (200, 300, 3)):
        own = numbers[(numbers >= first) & (numbers < last)]
        # Within a group sets count by their sizes, and each epoch has every image once, in an order of its own.
        epochs = own[: len(own) // length * length].reshape(-1, length)
        assert all(len(set(epoch)) == length for epoch in epochs)
        assert len(epochs) == 2 or len({tuple(epoch) for epoch in epochs}) > 1
    assert len(set(np.concatenate([batch["draw"] for batch in batches]))) == 120


def test_by_size_every_image_comes_as_often():
    (source,) = mixture.sources(SETS, GROUPS, balance="size")
    batches = take(pipeline.train_batches((source,), number, 6, seed=0), 5)
    numbers = np.concatenate([batch["number"] for batch in batches])
    assert len(set(numbers)) == 30 and np.bincount(group_of(numbers)).tolist() == [20, 7, 3]


@pytest.mark.parametrize("balance", mixture.BALANCES)
def test_it_resumes_anywhere_and_processes_share_its_batches(balance):
    sources = mixture.sources(SETS, GROUPS, balance=balance)
    whole = take(pipeline.train_batches(sources, number, 6, seed=3), 8)
    parts = [pipeline.train_batches(sources, number, 6, seed=3, process_index=i, process_count=2) for i in range(2)]
    for batches in parts:
        batches.set_state({"next_batch": 5})
    for expected in whole[5:]:
        found = [next(batches) for batches in parts]
        for key, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([one[key] for one in found]), value)
    assert parts[0].get_state() == {"next_batch": 8}


def test_the_order_is_the_seeds_and_one_source_is_read_as_ever():
    sources = mixture.sources(SETS, GROUPS)
    first, other = (take(pipeline.train_batches(sources, number, 6, seed=seed), 4) for seed in (0, 1))
    assert any((a["number"] != b["number"]).any() for a, b in zip(first, other, strict=True))
    transform = transforms.distill_transform((8, 8))
    alone = take(pipeline.train_batches(SETS["photos"], transform, 4, seed=0), 3)
    shared = take(pipeline.train_batches((SETS["photos"],), transform, 4, seed=0), 3)
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_a_group_without_sets_keeps_its_number():
    kept = {name: source for name, source in SETS.items() if name != "photos"}
    batch = next(pipeline.train_batches(mixture.sources(kept, GROUPS), transforms.distill_transform((8, 8)), 4, seed=0))
    assert sorted(batch["group"]) == [1, 1, 2, 2] and batch["image"].shape == (4, 8, 8, 3)
    assert mixture.groups(GROUPS.values()) == ("generic", "rooms", "people")


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(UserError, match="no data set"):
        mixture.sources({}, GROUPS)
    with pytest.raises(UserError, match="balance.*'weight'"):
        mixture.sources(SETS, GROUPS, balance="weight")
    with pytest.raises(IndexError):
        mixture.Concatenation([Numbers(0, 3)], [0])[3]
