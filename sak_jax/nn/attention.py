"""Softmax attention: one function, computed by what is fastest on the platform that is compiled for.

`jax.nn.dot_product_attention` is the plain form (`xla`); the others equal it up to rounding.
"""

import logging
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sak_jax.errors import UserError
from sak_jax.nn import placement, remat

logger = logging.getLogger(__name__)

Shaped = Array | jax.ShapeDtypeStruct
"""What has a shape and a dtype."""

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "pallas", "looped")

LANES = 128
"""A TPU kernel's blocks are multiples of this."""

LONG = 512
"""From this many keys on, a TPU's time for the plain form is that of reading and writing the logits."""


def attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b m h e"],
    value: Float[Array, "b m h f"],
    *,
    scale: float | None = None,
    implementation: str = "auto",
) -> Float[Array, "b n h f"]:
    """softmax(scale * query key^T) value for each head; the softmax in float32.

    Args:
      query, key, value: of one dtype.
      scale: of the logits; None is 1 / sqrt(e).
      implementation: `xla`: the plain form; `looped`: one head after another, which keeps no logits for the backward
        pass (CPU); `cudnn`: flash attention on NVIDIA GPUs in half precision; `pallas`: splash attention on TPUs;
        `auto`: the best that works on the platform, see `choose`.

    Raises:
      UserError: the implementation is unknown, or does not work here.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if implementation == "auto":
        implementation = choose(query, key, value)
    elif implementation not in IMPLEMENTATIONS:
        raise UserError(f"attention is {implementation!r}: it must be one of {', '.join(IMPLEMENTATIONS)}")
    elif reason := refusal(implementation, query, key, value):
        raise UserError(f"attention {implementation} does not work here: {reason}; set it to auto or xla")
    if implementation == "looped":
        return _looped(query, key, value, scale)
    if implementation == "pallas":
        return _splash(query, key, value, scale)
    # The library wants one width for all; zeros change neither logits nor output.
    widest, width = max(query.shape[-1], value.shape[-1]), value.shape[-1]
    query, key, value = (jnp.pad(x, ((0, 0),) * 3 + ((0, widest - x.shape[-1]),)) for x in (query, key, value))
    if implementation == "cudnn":
        return _cudnn(query, key, value, scale)[..., :width]
    out = jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="xla")
    return remat.keep(out[..., :width], "attention")


def choose(query: Shaped, key: Shaped, value: Shaped) -> str:
    """What `auto` takes: `looped` on a CPU; `cudnn` on a GPU and `pallas` on a TPU where they work; else `xla`.

    On a TPU few keys (below `LONG`) are left to the plain form. Why an accelerator's kernel is not taken is logged.
    """
    wanted = {"cpu": "looped", "gpu": "cudnn", "tpu": "pallas"}.get(placement.platform(), "xla")
    reason = refusal(wanted, query, key, value)
    if wanted == "pallas" and not reason and key.shape[1] < LONG:
        reason = f"{key.shape[1]} keys are few"
    if reason:
        _tell(wanted, reason)
        return "xla"
    return wanted


@lru_cache  # Once a process, although every layer asks.
def _tell(wanted: str, reason: str) -> None:
    logger.info("attention: xla instead of %s (%s)", wanted, reason)


def refusal(implementation: str, query: Shaped, key: Shaped, value: Shaped) -> str | None:
    """Why an implementation does not work for these arrays on the platform that is compiled for; None if it does."""
    platform, dtype = placement.platform(), query.dtype
    if implementation == "cudnn":
        if platform != "gpu":
            return f"cuDNN is for NVIDIA GPUs, this is a {platform}"
        if dtype not in (jnp.bfloat16, jnp.float16):
            return f"cuDNN has it in half precision alone, not in {dtype}"
        width = max(query.shape[-1], value.shape[-1])
        return _cudnn_refusal((*query.shape[:3], width), (*key.shape[:3], width), str(dtype))
    if implementation == "pallas" and platform != "tpu":
        return f"the Pallas kernel is for TPUs, this is a {platform}"
    return None


@lru_cache
def _cudnn_refusal(query: tuple[int, ...], key: tuple[int, ...], dtype: str) -> str | None:
    """Tries the kernel and its gradient on these shapes: what a version supports is known to itself alone."""

    def total(query, key, value):
        return jnp.sum(_cudnn(query, key, value, query.shape[-1] ** -0.5).astype(jnp.float32))

    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (query, key, key)]
    try:
        traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*shapes)
        if jax.default_backend() == "gpu":
            traced.lower().compile()
    except Exception as error:  # Of a version's many ways to refuse none is documented.
        return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return None


# NVIDIA


def _cudnn(query, key, value, scale):
    """The library's flash attention on even lengths: with odd ones its backward pass is refused. What is added is
    declared as padding, which no token attends to."""
    lengths = query.shape[1], key.shape[1]
    attend = partial(jax.nn.dot_product_attention, scale=scale, implementation="cudnn")
    if not any(length % 2 for length in lengths):
        return attend(query, key, value)
    query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    whole = [jnp.full(len(query), length, jnp.int32) for length in lengths]
    out = attend(query, key, value, query_seq_lengths=whole[0], key_value_seq_lengths=whole[1])
    return out[:, : lengths[0]]


# One head after another


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _looped(query, key, value, scale):
    """Heads one after another with the batch inside, so that a head's logits stay in the cache and a batch that is
    sharded over devices stays where it is."""
    return _looped_forward(query, key, value, scale)[0]


def _looped_forward(query, key, value, scale):
    def head(parts):
        query, key, value = parts
        logits = jnp.einsum("bqe,bke->bqk", query * scale, key, preferred_element_type=jnp.float32)
        peak = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - peak)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        out = jnp.einsum("bqk,bkf->bqf", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        return (out / total).astype(value.dtype), (peak + jnp.log(total))[..., 0]

    out, log_sum_exp = jax.lax.map(head, _by_head(query, key, value))
    out = remat.keep(jnp.moveaxis(out, 0, 2), "attention")
    log_sum_exp = remat.keep(log_sum_exp, "log_sum_exp")
    return out, (query, key, value, out, log_sum_exp)


def _looped_backward(scale, residuals, gradient):
    query, key, value, out, log_sum_exp = residuals

    def head(parts):
        query, key, value, out, gradient, log_sum_exp = parts
        scaled = query * scale
        logits = jnp.einsum("bqe,bke->bqk", scaled, key, preferred_element_type=jnp.float32)
        weights = jnp.exp(logits - log_sum_exp[..., None])
        # The softmax's backward pass needs sum(weights * slope) over keys, which is out . gradient.
        mean = jnp.sum(out.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1, keepdims=True)
        slope = jnp.einsum("bqf,bkf->bqk", gradient, value, preferred_element_type=jnp.float32)
        slope = (weights * (slope - mean)).astype(query.dtype)
        return (
            jnp.einsum("bqk,bke->bqe", slope, key) * jnp.asarray(scale, query.dtype),
            jnp.einsum("bqk,bqe->bke", slope, scaled),
            jnp.einsum("bqk,bqf->bkf", weights.astype(gradient.dtype), gradient),
        )

    gradients = jax.lax.map(head, (*_by_head(query, key, value, out, gradient), log_sum_exp))
    return tuple(jnp.moveaxis(x, 0, 2) for x in gradients)


_looped.defvjp(_looped_forward, _looped_backward)


def _by_head(*arrays: Array) -> tuple[Array, ...]:
    return tuple(jnp.moveaxis(x, 2, 0) for x in arrays)


# TPU


def _splash(query, key, value, scale):
    """The library's splash attention on padded lengths; padding is a segment of its own, so no token attends to it."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    lengths = query.shape[1], key.shape[1]
    padded = tuple(-(-n // LANES) * LANES for n in lengths)
    # The largest block, up to 512, that divides the length.
    rows, columns = (LANES * max(k for k in (1, 2, 3, 4) if n // LANES % k == 0) for n in padded)
    blocks = kernel.BlockSizes(
        block_q=rows, block_kv=columns, block_kv_compute=columns, block_q_dkv=rows, block_kv_dkv=columns,
        block_kv_dkv_compute=columns, use_fused_bwd_kernel=True,
    )  # fmt: skip
    mask = masks.MultiHeadMask([masks.FullMask(padded)] * query.shape[2])
    attend = kernel.make_splash_mha(
        mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, residual_checkpoint_name="attention"
    )
    segments = kernel.SegmentIds(*(jnp.arange(p) >= n for n, p in zip(lengths, padded, strict=True)))
    segments = jax.tree.map(lambda x: x.astype(jnp.int32), segments)
    query, key, value = (
        jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, -x.shape[1] % LANES), (0, 0)))
        for x in (query * jnp.asarray(scale, query.dtype), key, value)
    )
    image = lambda query, key, value: attend(query, key, value, segment_ids=segments)  # noqa: E731
    out = placement.on_each_device(jax.vmap(image), query, key, value)
    return out.swapaxes(1, 2)[:, : lengths[0]]
