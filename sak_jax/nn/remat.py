"""What a training step keeps for its backward pass, and what it computes again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax.ad_checkpoint import checkpoint_name

from sak_jax.errors import UserError

NAMES = ("qkv", "attention", "log_sum_exp", "attended", "block", "preactivation", "moments")
"""What is costly to compute: queries, keys and values; attention's output and normaliser; the sum after attention; a
block's result where adapters read it; what enters an activation; a batch norm's moments. All else are norms,
activations and sums."""

POLICIES = ("none", "named", "dots", "blocks", "full")

_all_kept: ContextVar[bool] = ContextVar("all_kept", default=False)

keep = checkpoint_name
"""`keep(x, name)`: `x`, which the policy `named` keeps for the backward pass."""


@contextmanager
def keeping_all() -> Iterator[None]:
    """Within it what is traced computes nothing again, whatever the policy: to count the arithmetic that is needed."""
    token = _all_kept.set(True)
    try:
        yield
    finally:
        _all_kept.reset(token)


def policy(value: str | bool) -> str:
    """The name of a policy; True and False, as configs once had them, are `blocks` and `none`.

    Raises:
      UserError: there is no such policy.
    """
    name = {True: "blocks", False: "none"}.get(value, value) if isinstance(value, bool) else value
    if name not in POLICIES:
        raise UserError(f"remat is {value!r}: it must be one of {', '.join(POLICIES)}")
    return name


def checkpoint(function: Callable, name: str | bool, *, block: bool = True, scanned: bool = True) -> Callable:
    """`function` with its intermediate values kept or recomputed.

    Args:
      function: a part of a model, of arrays and modules.
      name: `none` keeps all; `named` keeps `NAMES`; `dots` keeps the results of matrix products; `blocks` recomputes
        each transformer block from its input; `full` recomputes taps and heads as well.
      block: whether the function is a transformer block, as opposed to a tap or a head.
      scanned: whether it is the body of a scan; elsewhere XLA must be kept from merging the second computation with
        the first.
    """
    name = policy(name)
    if name == "none" or (name == "blocks" and not block) or _all_kept.get():
        return function
    policies = jax.checkpoint_policies
    kept = {
        "named": policies.save_from_both_policies(policies.save_only_these_names(*NAMES), _cudnn_forward),
        "dots": policies.dots_saveable,
    }.get(name, policies.nothing_saveable)
    return jax.checkpoint(function, policy=kept, prevent_cse=not scanned)


def _cudnn_forward(primitive, *_, **__) -> bool:
    """cuDNN's attention cannot name what its backward pass needs."""
    return primitive.name.startswith("dot_product_attention_fwd")
