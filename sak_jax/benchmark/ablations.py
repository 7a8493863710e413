"""Single optimisations switched off, for the rest of the process: what each of them gains."""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from sak_jax.methods.sak import routers
from sak_jax.nn import activations, heads, layers, resize


def _attention(config) -> None:
    config.model.attention = "xla"


def _remat(config) -> None:
    config.model.remat = "none"


def _precision(config) -> None:
    config.dtype = "float32"
    if "dtype" in config.get("teachers", {}):
        config.teachers.dtype = "float32"


def _gelu(config) -> None:
    plain = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    ours = activations.exact_gelu
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("sak_jax.") and getattr(module, "exact_gelu", None) is ours:
            module.exact_gelu = plain
    activations.ACTIVATIONS["gelu"] = plain


def _mixing(config) -> None:
    def mix(weights, experts):
        mixed = jnp.sum(weights[..., None] * jnp.stack(experts, axis=-2).astype(jnp.float32), axis=-2)
        return mixed.astype(experts[0].dtype)

    routers.mix = mix


def _heads(config) -> None:
    def upsampled(self, x, size, factor=1.0):
        x = resize.resize_bilinear(x.astype(self.dtype), size)
        kernel, layout = (self.kernel[...] * factor).astype(self.dtype), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    heads.FusedUpsampleConv.__call__ = upsampled


def _flat_tokens(config) -> None:
    layers.Linear.__call__ = nnx.Linear.__call__


def _resizing(config) -> None:
    def bilinear(x, size):
        return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)

    resize.resize_bilinear = bilinear


ABLATIONS: dict[str, Callable] = {
    "attention": _attention,  # the plain form, which stores every logit
    "remat": _remat,  # nothing is computed again: all is kept
    "precision": _precision,  # float32 everywhere
    "gelu": _gelu,  # by erfc
    "mixing": _mixing,  # of the experts, as one sum over a broadcast product
    "heads": _heads,  # upsampled first, then convolved
    "flat_tokens": _flat_tokens,  # linear maps on [b, n, d] as it lies
    "resizing": _resizing,  # by `jax.image.resize`, which asks for the highest precision
}
"""By name what is switched off: a function that changes the recipe, or the code of this process."""
