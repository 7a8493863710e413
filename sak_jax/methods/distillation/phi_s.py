"""PHI-S: teacher features rotated so that all channels vary alike, and scaled by one number (arXiv 2410.01680)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from sak_jax.errors import UserError
from sak_jax.methods.distillation.hadamard import orthogonal

Sums = tuple[Int[Array, ""], Float[Array, "c"], Float[Array, "c c"]]


def batch_moments(x: Float[Array, "*n c"]) -> Sums:
    """Number of rows, their mean, and the scatter matrix around it: what `Moments.add` takes from the devices.

    Sums are float32, over the global array and on every device; the scatter is taken around the batch's own mean, so
    that a large mean cancels nothing.
    """
    placed = x.sharding
    return _batch_moments(NamedSharding(placed.mesh, PartitionSpec()) if isinstance(placed, NamedSharding) else None)(x)


@functools.cache
def _batch_moments(placed: NamedSharding | None) -> Callable[[Array], Sums]:
    def moments(x):
        x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        mean = jnp.mean(x, axis=0)
        centred = x - mean
        scatter = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST)
        return jnp.int32(len(x)), mean, scatter

    return jax.jit(moments, out_shardings=placed)


@dataclasses.dataclass
class Moments:
    """Mean and scatter of rows seen so far, float64 on the host.

    Attributes:
      count: rows.
      mean: of each channel.
      scatter: sum of outer products of the rows' deviations from the mean.
    """

    count: int
    mean: Float[np.ndarray, "c"]
    scatter: Float[np.ndarray, "c c"]

    @classmethod
    def of(cls, x: Float[np.ndarray, "*n c"]) -> "Moments":
        """Of an array's rows, all in float64."""
        x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
        mean = x.mean(axis=0)
        return cls(len(x), mean, (x - mean).T @ (x - mean))

    @classmethod
    def empty(cls, width: int) -> "Moments":
        """Of no rows."""
        return cls(0, np.zeros(width), np.zeros((width, width)))

    def add(
        self, count: Int[Array, ""], mean: Float[Array | np.ndarray, "c"], scatter: Float[Array | np.ndarray, "c c"]
    ) -> None:
        """More rows, given by their own moments (Chan, Golub and LeVeque's pairwise update)."""
        count, mean = int(count), np.asarray(mean, np.float64)
        total = self.count + count
        if total == 0:
            return
        shift = mean - self.mean
        self.scatter = self.scatter + np.asarray(scatter, np.float64)
        self.scatter += np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def covariance(self) -> Float[np.ndarray, "c c"]:
        """Unbiased; raises UserError for fewer than two rows."""
        if self.count < 2:
            raise UserError(f"{self.count} tokens have no covariance: measure teacher features on more images")
        return self.scatter / (self.count - 1)

    @property
    def std(self) -> Float[np.ndarray, "c"]:
        """Unbiased standard deviation of each channel."""
        return np.sqrt(np.diag(self.covariance))


def projection(moments: Moments, name: str = "teacher features") -> dict[str, np.ndarray]:
    """The statistics of `standardise` kind `phi_s`: mean `[c]`, rotation `[c, c]` and scale `[]`, all float32.

    y' = rotation (y - mean) / scale, with rotation = H U^T (U: the covariance's eigenvectors by ascending eigenvalue,
    H: a Hadamard matrix) and scale = sqrt(trace(covariance) / c). Every channel of y' has variance 1, also where the
    covariance has not full rank (PHI-S, section 3.4).

    Raises:
      UserError: fewer than two rows, or the features do not vary.
    """
    covariance = moments.covariance
    values, vectors = np.linalg.eigh(covariance)
    scale = np.sqrt(np.maximum(values, 0).mean())
    if not scale > 0:
        raise UserError(f"{name} do not vary (scale {scale}): measure them on images that differ")
    rotation = orthogonal(len(covariance)) @ vectors.T
    arrays = {"mean": moments.mean, "rotation": rotation, "scale": scale}
    return {key: np.asarray(value, np.float32) for key, value in arrays.items()}
