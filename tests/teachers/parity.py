"""Compare a teacher with its PyTorch reference at full size, on random weights."""

import jax
import numpy as np
import torch
from flax import nnx

from sak_jax.teachers import conversion, registry
from sak_jax.teachers.entry import Teacher
from sak_jax.weights import states

TOLERANCE = 1e-5
"""Relative, of whole models in float32: a dozen blocks accumulate rounding of some 1e-7 each."""

EMBEDDINGS = ("pos", "token", "class_embedding")


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Gives a reference weights of which each matters, and returns them: gains near 1, biases and embeddings not 0."""
    rng = np.random.default_rng(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        x = rng.standard_normal(tuple(value.shape), np.float32)
        gain = "norm" in name or "ln_" in name or any(word in name for word in ("gamma", "lambda", "patch_embed.norm"))
        if any(word in name for word in EMBEDDINGS):
            x *= 0.2
        elif value.ndim > 1:
            x /= np.sqrt(np.float32(np.prod(value.shape[1:])))
        elif gain and not name.endswith("bias"):
            x = 1 + 0.1 * x
        else:
            x *= 0.05
        value.copy_(torch.from_numpy(x))
    return weights_of(model)


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def image(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A normalised image, NHWC."""
    return np.random.default_rng([seed, *size]).standard_normal((1, *size, 3), np.float32)


def convert(teacher: Teacher, weights: dict[str, np.ndarray]) -> nnx.State:
    """Our teacher's state from foreign weights."""
    converted = conversion.read(teacher, weights, teacher.name)
    return states.like(registry.abstract(teacher, converted.config), converted.arrays)


def maps(teacher: Teacher, state: nnx.State, size: tuple[int, int], *, pad: bool = True) -> list[np.ndarray]:
    """Our maps of the test image of an image size."""
    module = registry.fitted(teacher, state, teacher.for_size(size, pad=pad))
    view = registry.view_of(teacher, pad=pad)
    return [np.asarray(x) for x in jax.jit(lambda module, x: module(view(x)))(module, image(size))]


def tokens(teacher: Teacher, state: nnx.State, size: tuple[int, int]) -> np.ndarray:
    """All our tokens of the test image after the last block and the final norm."""
    module = registry.fitted(teacher, state, teacher.for_size(size, norm=True))
    return np.asarray(jax.jit(lambda module, x: module.tokens(x, norm=True)[-1])(module, image(size)))


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference against the largest value."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def check(found: list[np.ndarray], wanted: list[np.ndarray]):
    """All four maps agree, are alive, and differ from each other."""
    assert len(found) == len(wanted) == 4
    errors = [error(f, w) for f, w in zip(found, wanted, strict=True)]
    print("relative errors", " ".join(f"{e:.1e}" for e in errors))
    assert max(errors) < TOLERANCE
    for earlier, later in zip(wanted, wanted[1:], strict=False):
        assert np.std(later) > 0.01
        assert earlier.shape != later.shape or error(earlier, later) > 0.01


@torch.no_grad()
def timm_maps(reference: torch.nn.Module, size: tuple[int, int], taps) -> list[np.ndarray]:
    """The maps of a timm model at another size, resized by timm's own rule; the model is as before afterwards."""
    before = reference.state_dict().get("pos_embed")
    native = reference.patch_embed.img_size
    if size != native:
        reference.set_input_size(img_size=size)
    found = reference.forward_intermediates(
        nchw(image(size)), indices=list(taps), norm=False, intermediates_only=True, stop_early=True
    )
    if size != native:
        reference.set_input_size(img_size=native)
        if before is not None:
            reference.pos_embed = torch.nn.Parameter(before)
    return [m.permute(0, 2, 3, 1).numpy() for m in found]
