"""The baseline of the method: one foundation model, frozen or fine-tuned, with the student's decode heads."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.methods.sak.student import LEVELS, Outputs
from sak_jax.nn.heads import DecodeHeads


class FoundationStudent(nnx.Module):
    """A foundation model as encoder: its maps, at its own resolution, go to every task's head.

    It is called, trained, evaluated and saved as `Student` is. Matches the published code's baselines, which give such
    encoders the same heads.

    Args:
      encoder: images -> `levels` maps `[b, h, w, width]`.
      view: how the encoder sees the student's images: `view(images)` gives the encoder's, and
        `view.select(maps, (height, width))` the part of its maps that shows the image.
      width: channels of the maps.
      tasks: (name, channels) of each task.
      levels: how many maps there are.
      patch: what the sides of images are multiples of; None where the encoder is made for one size.
      dtype: of the heads' computation; parameters are float32.
      policy: what training keeps of the heads, see `remat.checkpoint`.
    """

    def __init__(
        self,
        encoder: nnx.Module,
        view: Callable,
        width: int,
        tasks: tuple[tuple[str, int], ...],
        *,
        levels: int = LEVELS,
        patch: int | None = None,
        dtype=jnp.float32,
        policy: str = "named",
        rngs: nnx.Rngs,
    ):
        self.encoder = encoder
        self.view = view
        self.patch = patch
        self.heads = DecodeHeads(width, levels, dict(tasks), dtype=dtype, policy=policy, rngs=rngs)

    def __call__(
        self, images: Float[Array, "b H W 3"], *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> Outputs:
        """Predictions; there are neither aligned features nor routing weights.

        Args:
          images: ImageNet-normalised.
          train: batch statistics from the batch (and updated in place).
          rngs: not used.
        """
        del rngs
        size = images.shape[1:3]
        maps = self.view.select(self.encoder(self.view(images)), size)
        features = dict.fromkeys(self.heads.tasks, maps)
        return Outputs(predictions=self.heads(features, size, train), aligned={}, routing={})
