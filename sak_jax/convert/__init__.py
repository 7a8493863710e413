"""Checkpoints to and from other frameworks: one engine, one mapping table a foreign format."""

from sak_jax.convert.augreg import load_augreg
from sak_jax.convert.student import load_pytorch_state, pytorch_state

__all__ = ["load_augreg", "load_pytorch_state", "pytorch_state"]
