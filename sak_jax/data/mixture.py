"""Several data sets at once, in groups: each sample knows its group, and groups have equal shares or go by size.

`sources` gives what `pipeline.train_batches` takes, so that batches are as deterministic, and as easily resumed, as
those of one data set (the sampling `teacher_balanced` of DUNE's code).
"""

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sak_jax.data import Source
from sak_jax.errors import UserError

BALANCES = ("group", "size")


class Concatenation:
    """A Grain random access data source of several, one after another; each sample has its `group`, int32.

    Args:
      sources: the data sets.
      groups: the number of each one's group.
    """

    def __init__(self, sources: Sequence[Source], groups: Sequence[int]):
        self._sources, self._groups = tuple(sources), tuple(groups)
        self._ends = list(itertools.accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sample {index} of {len(self)}")
        which = bisect.bisect_right(self._ends, index)
        sample = self._sources[which][index - (self._ends[which - 1] if which else 0)]
        return {**sample, "group": np.array(self._groups[which], np.int32)}


def groups(names: Iterable[str]) -> tuple[str, ...]:
    """The groups' names in the order in which they first appear: a group's number is its place here."""
    return tuple(dict.fromkeys(names))


def sources(sets: Mapping[str, Source], group_of: Mapping[str, str], *, balance: str = "group") -> tuple[Source, ...]:
    """What a batch is drawn from, each in an equal share: one source a group, or one of all.

    Args:
      sets: data sets by name; within a share they count by their sizes.
      group_of: each one's group. A group all of whose sets are left out of `sets` keeps its number.
      balance: `group`: each group has an equal share; `size`: each image has.

    Raises:
      UserError: no data set, or an unknown balance.
    """
    if balance not in BALANCES:
        raise UserError(f"the balance of a mixture is {balance!r}: it must be one of {', '.join(BALANCES)}")
    if not sets:
        raise UserError("the mixture has no data set: give one at least")
    numbers = {group: number for number, group in enumerate(groups(group_of.values()))}
    number = {name: numbers[group_of[name]] for name in sets}
    if balance == "size":
        return (Concatenation(list(sets.values()), [number[name] for name in sets]),)
    shares = []
    for wanted in sorted(set(number.values())):
        own = [source for name, source in sets.items() if number[name] == wanted]
        shares.append(Concatenation(own, [wanted] * len(own)))
    return tuple(shares)
