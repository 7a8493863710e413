"""Optimisers and schedules that stages share."""

import optax


def warmup_cosine(peak: float, steps: int, *, warmup_steps: int, warmup_from: float, final: float) -> optax.Schedule:
    """Linear warm-up from `warmup_from` to `peak`, then a cosine to `final` at step `steps`."""
    return optax.warmup_cosine_decay_schedule(warmup_from, peak, warmup_steps, max(steps, 1), final)


def polynomial(peak: float, steps: int, *, power: float) -> optax.Schedule:
    """`peak (1 - step / steps) ** power`."""
    return optax.polynomial_schedule(peak, 0.0, power, steps)


def adamw(schedule: optax.Schedule, *, weight_decay: float, clip: float = 0.0) -> optax.GradientTransformation:
    """AdamW as PyTorch has it, after clipping by global norm where `clip` is not 0.

    The decay applies to all parameters: norms, biases and embeddings included.
    """
    transformation = optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=float(weight_decay))
    if clip:
        return optax.chain(optax.clip_by_global_norm(float(clip)), transformation)
    return transformation
