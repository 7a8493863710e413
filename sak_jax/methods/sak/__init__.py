"""SAK, "Swiss Army Knife" (Lu, Cao and Wang, ICLR 2025): the whole method in one folder."""

from sak_jax.methods.sak.losses import distillation_loss

__all__ = ["distillation_loss"]
