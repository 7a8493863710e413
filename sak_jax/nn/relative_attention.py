"""Attention over maps with decomposed relative positions (SAM; MViTv2): a bias by row and one by column distance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from sak_jax.errors import UserError
from sak_jax.nn.attention import IMPLEMENTATIONS, LONG, attention, choose, refusal

AT_ONCE = 2**20
"""Logits of one image and head that are computed at a time, so that they stay in a CPU's cache (4 MB)."""

QUERY_ROWS = 8
"""The plain form takes this many rows of queries at a time: 4096 tokens would need 0.8 GB of logits an image."""

Map = Float[Array, "b h w n e"]


def relative_attention(
    query: Map,
    key: Map,
    value: Map,
    by_row: Float[Array, "h h e"],
    by_column: Float[Array, "w w e"],
    *,
    implementation: str = "auto",
) -> Map:
    """softmax(query key^T / sqrt(e) + query by_row^T + query by_column^T) value, for each head; softmax in float32.

    Args:
      query, key, value: maps of one dtype.
      by_row, by_column: the position vectors for each pair (query's row or column, key's).
      implementation: those of `attention.attention`. The kernels (`cudnn`, `pallas`) get both positions as further
        channels of queries and keys, so that no bias is ever stored. So does XLA under `auto` where keys are few: of
        logits [b h w n x y] a TPU stores tiles of 8 x 128 over the last two, for windows of 14 x 14 ten times as much.

    Raises:
      UserError: the implementation is unknown, or does not work here.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UserError(f"attention is {implementation!r}: it must be one of {', '.join(IMPLEMENTATIONS)}")
    widened = lambda: _widened(query, key, value, by_row, by_column)  # noqa: E731
    few = implementation == "auto" and key.shape[1] * key.shape[2] < LONG
    if implementation == "auto":
        implementation = choose(*jax.eval_shape(widened))
    elif reason := refusal(implementation, *jax.eval_shape(widened)):
        raise UserError(f"attention {implementation} does not work here: {reason}; set it to auto or xla")
    if implementation == "looped":
        return _looped(query, key, value, by_row, by_column)
    if implementation == "xla" and not few:
        return _plain(query, key, value, by_row, by_column)
    return attention(*widened(), scale=1.0, implementation=implementation).reshape(query.shape)


def _widened(query, key, value, by_row, by_column):
    """Queries [q / sqrt(e), q by_row^T, q by_column^T] and keys [k, one-hot row, one-hot column], as token rows."""
    batch, h, w, heads, width = query.shape
    rows = jnp.einsum("bhwne,hxe->bhwnx", query, by_row)
    columns = jnp.einsum("bhwne,wye->bhwny", query, by_column)
    queries = jnp.concatenate([query * jnp.asarray(width**-0.5, query.dtype), rows, columns], axis=-1)
    row, column = np.divmod(np.arange(h * w), w)
    places = np.concatenate([np.eye(h)[row], np.eye(w)[column]], axis=1).reshape(h, w, 1, h + w)
    places = jnp.broadcast_to(jnp.asarray(places, key.dtype), (batch, h, w, heads, h + w))
    keys = jnp.concatenate([key, places], axis=-1)
    spare = -queries.shape[-1] % 8  # cuDNN's widths are multiples of 8.
    queries, keys = (jnp.pad(x, ((0, 0),) * 4 + ((0, spare),)) for x in (queries, keys))
    return tuple(rearrange(x, "b h w n e -> b (h w) n e") for x in (queries, keys, value))


def _looped(query, key, value, by_row, by_column):
    """One head after another, images (or windows) inside, and within it some rows of queries at a time."""
    batch, h, w, _, width = query.shape
    step = max(rows for rows in range(1, h + 1) if h % rows == 0 and (rows * w * h * w <= AT_ONCE or rows == 1))

    def head(parts):
        query, key, value = parts
        rows = jnp.einsum("bhwe,hxe->bhwx", query, by_row, preferred_element_type=jnp.float32)
        columns = jnp.einsum("bhwe,wye->bhwy", query, by_column, preferred_element_type=jnp.float32)
        key, value = (x.reshape(batch, h * w, width) for x in (key, value))

        @partial(jax.checkpoint, prevent_cse=False)  # The backward pass computes logits again, some rows at a time.
        def attend(parts):
            query, rows, columns = parts
            query = query.reshape(batch, step * w, width) * width**-0.5
            logits = jnp.einsum("bqe,bke->bqk", query, key, preferred_element_type=jnp.float32)
            logits = logits.reshape(batch, step, w, h, w) + rows[..., None] + columns[..., None, :]
            logits = logits.reshape(batch, step * w, h * w)
            weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
            total = jnp.sum(weights, axis=-1, keepdims=True)
            out = jnp.einsum("bqk,bke->bqe", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
            return (out / total).astype(value.dtype).reshape(batch, step, w, width)

        return _by_rows(attend, step, query, rows, columns)

    out = jax.lax.map(head, tuple(jnp.moveaxis(x, 3, 0) for x in (query, key, value)))
    return jnp.moveaxis(out, 0, 3)


def _plain(query, key, value, by_row, by_column):
    """As the equation says, for all heads at once."""
    h, width = query.shape[1], query.shape[-1]
    einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
    rows = einsum("bhwne,hxe->bhwnx", query, by_row)

    def attend(parts):
        query, rows = parts
        logits = einsum("bhwne,bxyne->bhwnxy", query, key) * width**-0.5
        logits = logits + rows[..., None] + einsum("bhwne,wye->bhwny", query, by_column)[..., None, :]
        weights = jax.nn.softmax(logits, axis=(-2, -1)).astype(value.dtype)
        return jnp.einsum("bhwnxy,bxyne->bhwne", weights, value)

    return _by_rows(attend, QUERY_ROWS if h % QUERY_ROWS == 0 else h, query, rows)


def _by_rows(function, step: int, *maps: Float[Array, "b h ..."]) -> Float[Array, "b h ..."]:
    """`function` of `step` rows of the maps at a time."""
    if step == maps[0].shape[1]:
        return function(maps)
    parts = tuple(jnp.moveaxis(x.reshape(x.shape[0], -1, step, *x.shape[2:]), 1, 0) for x in maps)
    out = jnp.moveaxis(jax.lax.map(function, parts), 0, 1)
    return out.reshape(out.shape[0], -1, *out.shape[3:])
