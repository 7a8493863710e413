"""Optimisers and schedules of the two stages, and what is trained."""

from collections.abc import Callable

import optax
from flax import nnx
from ml_collections import ConfigDict


def schedule(stage: str, settings: ConfigDict) -> optax.Schedule:
    """The learning rate by step (SAK's recipes).

    Stage 1 (`distill`): linear warm-up, then a cosine to `final_lr`. Stage 2 (`multitask`): polynomial decay to zero.
    """
    if stage == "distill":
        return optax.warmup_cosine_decay_schedule(
            settings.warmup_lr, settings.lr, settings.warmup_steps, max(settings.steps, 1), settings.final_lr
        )
    return optax.polynomial_schedule(settings.lr, 0.0, settings.power, settings.steps)


def optimizer(stage: str, settings: ConfigDict) -> optax.GradientTransformation:
    """AdamW as PyTorch has it, after clipping by global norm where the stage clips.

    The decay applies to all parameters: norms, biases and embeddings included.
    """
    adamw = optax.adamw(
        schedule(stage, settings), b1=0.9, b2=0.999, eps=1e-8, weight_decay=float(settings.weight_decay)
    )
    if settings.clip:
        return optax.chain(optax.clip_by_global_norm(float(settings.clip)), adamw)
    return adamw


def trainable(freeze: str, lora_only: bool) -> Callable:
    """The NNX filter of what is trained.

    Args:
      freeze: `none`, `stem` (or the foundation model in its place), or `all_but_routers` (the backbone but its
        routers; the heads learn).
      lora_only: of the stem's parameters only the low-rank updates learn (stage 1 with LoRA).
    """

    def is_trained(path, value) -> bool:
        if not isinstance(value, nnx.Param):
            return False
        if freeze == "all_but_routers":
            return path[0] in ("routers", "heads")
        if path[0] in ("stem", "encoder"):
            return freeze != "stem" and (not lora_only or isinstance(value, nnx.LoRAParam))
        return True

    return is_trained
