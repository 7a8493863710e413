import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax.errors import UserError
from sak_jax.methods.distillation import hadamard, phi_s, statistics
from tests.methods.dune.cases import reference

CASES = ("width_8", "few_rows_width_8", "width_40", "few_rows_width_40")


@pytest.mark.parametrize("size", [8, 12, 20, 36])
def test_hadamard_matrices_equal_the_published_ones(size):
    np.testing.assert_array_equal(hadamard.hadamard(size), reference("phi_s")[f"hadamard/{size}"])


def test_the_hadamard_matrix_of_a_vit_base():
    bits = np.packbits(hadamard.hadamard(768) > 0, axis=1)
    np.testing.assert_array_equal(bits, reference("phi_s")["hadamard/768/bits"])


@pytest.mark.parametrize("size", [1, 2, 24, 28, 40, 192, 384, 1024, 1152, 1280, 1408])
def test_hadamard_matrices_have_orthogonal_rows_of_signs(size):
    matrix = hadamard.hadamard(size)
    assert set(np.unique(matrix)) <= {-1, 1}
    np.testing.assert_array_equal(matrix.astype(np.int64) @ matrix.T.astype(np.int64), size * np.eye(size))


def test_sizes_without_a_hadamard_matrix_get_an_orthogonal_one():
    assert hadamard.hadamard(100) is None
    matrix = hadamard.orthogonal(100)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(100), atol=1e-12)
    np.testing.assert_array_equal(matrix, hadamard.orthogonal(100))


@pytest.mark.parametrize("case", CASES)
def test_scale_and_covariance_of_the_rotated_features(case):
    values = {key: reference("phi_s")[f"{case}/{key}"] for key in ("x", "mean", "phi", "variance", "covariance")}
    own = statistics.measured("phi_s", phi_s.Moments.of(values["x"]))
    np.testing.assert_allclose(own["scale"], values["phi"], rtol=2e-7)
    np.testing.assert_allclose(own["mean"], values["mean"], rtol=1e-6, atol=1e-7)
    targets, _ = statistics.standardise("phi_s", jnp.asarray(values["x"]), own)
    covariance = np.cov(np.asarray(targets, np.float64), rowvar=False)
    np.testing.assert_allclose(covariance, values["covariance"], atol=3e-6)
    np.testing.assert_allclose(np.diag(covariance), values["variance"], atol=3e-6)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=3e-6)


def test_moments_of_batches_from_the_device_add_up_to_those_of_all_rows():
    # A mean a thousand deviations from zero: sums of squares in float32 would leave nothing of the covariance.
    x = np.random.default_rng(0).standard_normal((90, 8)).astype(np.float32) + np.float32(1000)
    moments = phi_s.Moments.empty(8)
    for part in np.split(x, [20, 55]):
        moments.add(*phi_s.batch_moments(jnp.asarray(part)))
    whole = phi_s.Moments.of(x)
    assert moments.count == 90 and moments.mean.dtype == np.float64
    np.testing.assert_allclose(moments.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(moments.covariance, np.cov(x.astype(np.float64), rowvar=False), atol=1e-3)


def test_features_without_statistics_are_refused():
    with pytest.raises(UserError, match="1 tokens have no covariance"):
        phi_s.projection(phi_s.Moments.of(np.ones((1, 8))))
    with pytest.raises(UserError, match="clip do not vary"):
        phi_s.projection(phi_s.Moments.of(np.ones((5, 8))), "clip")
