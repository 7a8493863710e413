import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from skimage import morphology

from sak_jax.boundary import score
from sak_jax.boundary.maps import boundary_of_labels, suppress_non_maxima, thin
from sak_jax.boundary.matching import Matcher, maximum_matching
from sak_jax.errors import UserError

ROOT = Path(__file__).parents[2]
REFERENCE = np.load(ROOT / "tests" / "reference" / "boundary.npz")
IMAGES = range(3)


def counts_of(image, protocol, max_distance):
    return score.evaluate_image(
        REFERENCE[f"{image}/prediction"], REFERENCE[f"{image}/boundary"], max_distance, protocol
    )


# --- maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", score.PROTOCOLS)
@pytest.mark.parametrize("image", IMAGES)
def test_suppression_equals_the_reference(image, protocol):
    suppressed = suppress_non_maxima(REFERENCE[f"{image}/prediction"], protocol)
    difference = np.abs(suppressed.astype(int) - REFERENCE[f"{image}/{protocol}/nms"])
    assert suppressed.dtype == np.uint8
    # One grey level: rounding of exact halves. In fact all are equal where this was written.
    assert np.mean(difference <= 1) >= 0.999
    assert np.mean(difference == 0) >= 0.99


@pytest.mark.parametrize("image", IMAGES)
def test_truth_equals_the_reference(image):
    np.testing.assert_array_equal(boundary_of_labels(REFERENCE[f"{image}/label_map"]), REFERENCE[f"{image}/boundary"])


@pytest.mark.parametrize("density", [0.05, 0.4, 0.7, 0.95, 1.0])
def test_thinning_is_that_of_guo_and_hall(density):
    noise = np.random.default_rng(3).random((61, 47)) < density
    np.testing.assert_array_equal(thin(noise), morphology.thin(noise))


def test_boundary_of_labels_compares_right_below_and_diagonally():
    labels = np.zeros((5, 6), np.int32)
    labels[3:, 4:] = 7
    expected = np.zeros((5, 6), bool)
    expected[2, 4:] = expected[3:, 3] = True  # along the upper left of the region; thinning took the corner (2, 3)
    np.testing.assert_array_equal(boundary_of_labels(labels), expected)


def test_binary_truth_is_outlined_or_only_thinned():
    line = np.zeros((20, 20), bool)
    line[4:16, 10] = True
    np.testing.assert_array_equal(score.truth_of_boundary(line, "boundary"), line)
    np.testing.assert_array_equal(score.truth_of_boundary(line, "label_map"), boundary_of_labels(line.astype(int)))
    with pytest.raises(UserError, match="outline.*label_map, boundary"):
        score.truth_of_boundary(line, "outline")


# --- matching ---------------------------------------------------------------------------------------------------------


def test_matching_is_maximum_on_random_graphs():
    rng = np.random.default_rng(0)
    short_of_maximum = 0
    for _ in range(150):
        rows, columns = map(int, rng.integers(1, 40, 2))
        graph = rng.random((rows, columns)) < rng.choice([0.02, 0.06, 0.15, 0.5])
        left, right = np.nonzero(graph)
        order = rng.permutation(len(left))
        left, right = left[order], right[order]
        expected = np.count_nonzero(csgraph.maximum_bipartite_matching(sparse.csr_matrix(graph)) >= 0)
        start = np.full(columns, -1, np.int32)
        free_rows, free_columns, greedy = np.ones(rows, bool), np.ones(columns, bool), 0
        for i, j in zip(left, right, strict=True):
            if free_rows[i] and free_columns[j]:
                free_rows[i], free_columns[j], greedy = False, False, greedy + 1
                start[j] = i if rng.random() < 0.5 else -1
        short_of_maximum += greedy < expected
        for beginning in (np.full(columns, -1, np.int32), start):
            partner = maximum_matching(left, right, rows, beginning)
            matched = np.flatnonzero(partner >= 0)
            assert len(matched) == len(np.unique(partner[matched])) == expected
            assert graph[partner[matched], matched].all()
    assert short_of_maximum > 30  # so that the augmenting paths were needed


def test_matching_of_pixels_equals_a_minimal_cost_assignment():
    rng = np.random.default_rng(1)
    height, width, radius = 24, 31, 3.3
    for _ in range(25):
        truth = np.flatnonzero(rng.random(height * width) < 0.08)
        candidates = np.flatnonzero(rng.random(height * width) < 0.2)
        matcher = Matcher(truth, candidates, height, width, radius)
        matcher(candidates[rng.random(len(candidates)) < 0.5])  # leaves pairs to start from
        pixels = candidates[rng.random(len(candidates)) < 0.6]
        count = matcher(pixels)
        distance = np.hypot(
            *(np.subtract.outer(a, b) for a, b in zip(np.divmod(pixels, width), np.divmod(truth, width), strict=True))
        )
        # Each pixel may also go to a dummy of its own at a prohibitive cost, as in the original benchmark.
        costs = sparse.hstack(
            [sparse.csr_matrix(np.where(distance <= radius, distance + 1, 0)), 1e4 * sparse.eye(len(pixels))]
        )
        _, assigned = csgraph.min_weight_full_bipartite_matching(costs.tocsr())
        assert count == np.count_nonzero(assigned < len(truth))


def test_matcher_takes_the_radius_itself_and_stays_on_the_row():
    pixels = np.array([5 * 10 + 9])  # last column
    assert Matcher(np.array([2 * 10 + 5]), pixels, 10, 10, 5.0)(pixels) == 1  # 3, 4, 5
    assert Matcher(np.array([2 * 10 + 5]), pixels, 10, 10, 4.99)(pixels) == 0
    assert Matcher(np.array([6 * 10]), pixels, 10, 10, 5.0)(pixels) == 0  # next in memory, nine columns away
    assert Matcher(np.array([], int), pixels, 10, 10, 5.0)(pixels) == 0


# --- images and scores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_distance", [0.0075, 0.011])
@pytest.mark.parametrize("protocol", score.PROTOCOLS)
def test_counts_and_score_meet_the_original_matcher(protocol, max_distance):
    total, best = np.zeros((99, 4), np.int64), np.zeros(4, np.int64)
    for image in IMAGES:
        counts = counts_of(image, protocol, max_distance)
        reference = REFERENCE[f"{image}/{protocol}/{max_distance}/counts"]
        assert counts.dtype == np.int64
        np.testing.assert_allclose(counts, reference, rtol=0.01)  # the original loses pairs at random
        assert np.min(counts - reference) >= -2
        np.testing.assert_array_equal(counts[:, [1, 3]], reference[:, [1, 3]])
        total, best = total + counts, best + score.best_counts(counts)
    scores = score.scores(total, best)
    assert scores["odsF"] == pytest.approx(float(REFERENCE[f"{protocol}/{max_distance}/odsF"]), abs=0.002)
    assert scores["oisF"] >= scores["odsF"] and 0 < scores["AP"] < 1


def test_scores_by_hand():
    counts = np.zeros((99, 4), np.int64)
    counts[:, 1] = 100
    counts[:40] = 80, 100, 80, 160  # recall 0.8, precision 0.5
    counts[40:60] = 60, 100, 60, 75  # recall 0.6, precision 0.8: F = 0.96 / 1.4
    scores = score.scores(counts, np.array([70, 100, 70, 80]))
    assert scores["odsF"] == pytest.approx(0.96 / 1.4)
    assert scores["threshold"] == pytest.approx(0.41)
    assert scores["oisF"] == pytest.approx(2 * 0.7 * 0.875 / (0.7 + 0.875))
    # Linear from precision 0 at recall 0 over 0.8 at 0.6 to 0.5 at 0.8; nothing beyond.
    rising = sum(0.8 * i / 60 for i in range(61))
    falling = sum(0.8 - 0.3 * i / 20 for i in range(1, 21))
    assert scores["AP"] == pytest.approx((rising + falling) / 100)


def test_blank_prediction_and_blank_truth_count_as_nothing_matched():
    shape = REFERENCE["0/boundary"].shape
    blank = score.evaluate_image(np.zeros(shape, np.uint8), REFERENCE["0/boundary"], 0.011, "sak")
    assert blank[:, 1].min() > 0 and not blank[:, [0, 2, 3]].any()
    assert score.scores(blank, score.best_counts(blank))["odsF"] == 0
    no_truth = score.evaluate_image(REFERENCE["0/prediction"], np.zeros(shape, bool), 0.011, "sak")
    assert no_truth[0, 3] > 0 and not no_truth[:, :3].any()
    assert np.isnan(score.scores(no_truth, score.best_counts(no_truth))["odsF"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "bsds"}, "'bsds'.*sak, invpt"),
        ({"max_distance": 11.0}, "max_distance.*11.0"),
        ({"prediction": np.zeros((9, 9), np.float32)}, "float32"),
        ({"prediction": np.zeros((9, 8), np.uint8)}, r"\(9, 8\).*\(9, 9\)"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {
        "prediction": np.zeros((9, 9), np.uint8),
        "boundary": np.zeros((9, 9), bool),
        "max_distance": 0.011,
        "protocol": "sak",
    }
    with pytest.raises(UserError, match=message):
        score.evaluate_image(**(arguments | change))


def photograph_sized(seed=0, height=425, width=560, regions=70):
    """A region map and a soft prediction of its boundary: displaced, fading in places, with spurious texture."""
    rng = np.random.default_rng(seed)

    def noise(scale):
        return ndimage.gaussian_filter(rng.standard_normal((height, width)), scale) * scale

    rows, columns = np.mgrid[:height, :width]
    seeds = rng.random((regions, 2)) * (height, width)
    at = np.stack([rows + 12 * noise(12), columns + 12 * noise(12)], -1)
    labels = np.argmin(((at[:, :, None] - seeds) ** 2).sum(-1), -1)
    soft = 5 * ndimage.gaussian_filter(boundary_of_labels(labels).astype(float), 2)
    soft = ndimage.map_coordinates(soft, [rows + 1.5 * noise(20), columns + 1.5 * noise(20)], order=1)
    soft *= np.clip(0.7 + noise(15), 0, 1.2)
    texture = np.exp(-((noise(3) / 0.05) ** 2)) * np.clip(noise(25), 0, 1)
    logits = 6 * soft + 3.6 * texture - 3.2 + 0.3 * noise(1.2)
    return labels, np.rint(255 / (1 + np.exp(-logits))).astype(np.uint8)


def test_a_photograph_takes_at_most_four_seconds():
    labels, prediction = photograph_sized()
    truth = boundary_of_labels(labels)
    start = time.process_time()
    counts = score.evaluate_image(prediction, truth, 0.011, "sak")
    assert time.process_time() - start < 4
    assert truth.sum() > 5000 and counts[20, 3] > 5000  # as much work as a real image
    assert 0.5 < score.scores(counts, score.best_counts(counts))["odsF"] < 1
