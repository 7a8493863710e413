"""SAK, "Swiss Army Knife" (Lu, Cao and Wang, ICLR 2025): the whole method in one folder."""

__all__ = ["distillation_loss"]


def __getattr__(name: str):
    if name == "distillation_loss":  # When it is asked for: reading a recipe does without JAX.
        from sak_jax.methods.sak.losses import distillation_loss

        return distillation_loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
