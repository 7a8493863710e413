"""Maximum one-to-one matching of predicted and true boundary pixels within a distance."""

import numpy as np
from jaxtyping import Integer
from scipy import sparse
from scipy.sparse import csgraph


class Matcher:
    """Matches subsets of one image's candidate pixels to its true boundary pixels.

    Two pixels may be paired if their distance is at most `radius`; no pixel is in two pairs. The number of pairs is
    the largest possible, hence does not depend on the order of anything. The pairs within reach are listed once for
    all candidates, nearest first, and each call works on its subset of that list.

    Args:
      truth: true boundary pixels, row * width + column.
      candidates: every pixel that a call may name, ascending.
      height, width: of the image, in pixels.
      radius: the largest distance between the pixels of a pair, in pixels.
    """

    def __init__(
        self,
        truth: Integer[np.ndarray, "t"],
        candidates: Integer[np.ndarray, "c"],
        height: int,
        width: int,
        radius: float,
    ):
        reach = int(radius)
        stride = width + 2 * reach
        rank = np.full((height + 2 * reach) * stride, -1, np.int32)  # position in `truth`, padded by the reach
        row, column = np.divmod(truth, width)
        rank[(row + reach) * stride + column + reach] = np.arange(len(truth))
        row, column = np.divmod(candidates, width)
        centre = (row + reach) * stride + column + reach

        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
        squared = y * y + x * x
        nearest_first = np.argsort(squared, kind="stable")
        nearest_first = nearest_first[squared[nearest_first] <= radius * radius]
        predicted, true = [], []
        for offset in y[nearest_first] * stride + x[nearest_first]:
            at = rank[centre + offset]
            found = np.flatnonzero(at >= 0)
            predicted.append(found)
            true.append(at[found])
        self._predicted = np.concatenate(predicted).astype(np.int32)
        self._true = np.concatenate(true)
        self._candidates = candidates
        self._partner = np.full(len(truth), -1, np.int32)  # candidate that each true pixel had in the last call

    def __call__(self, pixels: Integer[np.ndarray, "n"]) -> int:
        """The largest number of pairs between `pixels`, a subset of the candidates, and the truth.

        Starts from the pairs of the last call that are still there: between neighbouring thresholds, that is most.
        """
        chosen = np.searchsorted(self._candidates, pixels)
        position = np.full(len(self._candidates) + 1, -1, np.int32)  # the last one serves those without a partner
        position[chosen] = np.arange(len(pixels))
        predicted = position[self._predicted]
        within = predicted >= 0
        partner = maximum_matching(predicted[within], self._true[within], len(pixels), position[self._partner])
        matched = partner >= 0
        self._partner = np.where(matched, chosen[partner] if len(chosen) else -1, -1)
        return int(np.count_nonzero(matched))


def maximum_matching(
    left: Integer[np.ndarray, "e"], right: Integer[np.ndarray, "e"], left_count: int, start: Integer[np.ndarray, "r"]
) -> Integer[np.ndarray, "r"]:
    """A maximum matching of a bipartite graph.

    Args:
      left, right: the ends of the edges, as positions below `left_count` and `len(start)`; no edge twice. Edges that
        ought to be tried first come first.
      left_count: number of left vertices.
      start: a matching to start from: the left partner of each right vertex, -1 for none.

    Returns:
      The left partner of each right vertex, -1 for none.

    A greedy matching in the order of the edges, made maximum by augmenting paths: those are a maximum flow in the
    graph that the greedy matching leaves, which takes far less than matching from nothing.
    """
    right_partner = start.copy()
    left_partner = np.full(left_count, -1, np.int32)
    paired = np.flatnonzero(start >= 0)
    left_partner[start[paired]] = paired
    _pair_greedily(left, right, left_partner, right_partner)
    _augment(left, right, left_partner, right_partner)
    return right_partner


def _pair_greedily(left, right, left_partner, right_partner):
    """Pairs the ends of the first edge with both ends free, then of the next such edge, and so on, in place.

    In rounds: an edge that is the first of both its ends can be taken at once.
    """
    first_left = np.empty(len(left_partner), np.int32)
    first_right = np.empty(len(right_partner), np.int32)
    while True:
        free = (left_partner[left] < 0) & (right_partner[right] < 0)
        left, right = left[free], right[free]
        if not len(left):
            return
        order = np.arange(len(left), dtype=np.int32)
        first_left[left[::-1]] = order[::-1]  # the last one written, that is the smallest, stays
        first_right[right[::-1]] = order[::-1]
        take = first_left[left] == first_right[right]
        left_partner[left[take]] = right[take]
        right_partner[right[take]] = left[take]


def _augment(left, right, left_partner, right_partner):
    """Makes `right_partner` maximum, in place, by a maximum flow from the free left to the free right vertices.

    An edge outside the matching can be walked from left to right, one inside it from right to left, each once.
    """
    free_left = np.flatnonzero(left_partner < 0)
    free_right = np.flatnonzero(right_partner < 0)
    if not len(free_left) or not len(free_right):
        return
    left_count = len(left_partner)
    source = left_count + len(right_partner)
    sink = source + 1
    inside = left_partner[left] == right
    right = right + left_count
    from_source, to_sink = np.full(len(free_left), source), np.full(len(free_right), sink)
    tails = np.concatenate([np.where(inside, right, left), from_source, free_right + left_count])
    heads = np.concatenate([np.where(inside, left, right), free_left, to_sink])
    graph = sparse.csr_matrix((np.ones(len(tails), np.int32), (tails, heads)), (sink + 1, sink + 1))
    flow = csgraph.maximum_flow(graph, source, sink, method="dinic").flow.tocoo()
    new = (flow.data > 0) & (flow.row < left_count)  # all pairs that a path drops have their right end in one of these
    right_partner[flow.col[new] - left_count] = flow.row[new]
