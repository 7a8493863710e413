"""The reference's two batches a task, in this project's layout, and the evaluation loop's summing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "losses_and_metrics.npz")
TOLERANCE = 1e-5  # float32 sums within a batch, against float32 or float64 in another order


def batches(data, task):
    """`[(prediction, label), (prediction, label)]`, channels last."""
    pairs = []
    for index in range(2):
        prediction, label = (
            REFERENCE[f"{data}/metric/batch{index}/{role}/{task}"].transpose(0, 2, 3, 1)
            for role in ("prediction", "label")
        )
        pairs.append((jnp.asarray(prediction), jnp.asarray(label if task == "normals" else label[..., 0])))
    return pairs


def one_batch(data, task):
    """Both batches as one."""
    return tuple(jnp.concatenate(parts) for parts in zip(*batches(data, task), strict=True))


def score(metric, pairs, masks=None):
    """The metric over batches, summed as the evaluation loop does it."""
    totals = {}
    for index, (prediction, label) in enumerate(pairs):
        mask = jnp.ones(len(prediction), bool) if masks is None else jnp.asarray(masks[index])
        for key, value in jax.jit(metric.batch)(prediction, label, mask).items():
            totals[key] = totals.get(key, 0.0) + np.asarray(value, np.float64)
    result = metric.result(totals)
    assert list(result) == [metric.name]
    return result[metric.name]


def check_streaming(metric, data, task):
    """Two batches equal one; rows that are masked out do not count; bfloat16 predictions are computed in float32."""
    pairs = batches(data, task)
    whole = one_batch(data, task)
    expected = score(metric, pairs)
    np.testing.assert_allclose(score(metric, [whole]), expected, rtol=TOLERANCE)

    prediction, label = whole
    padded = (
        jnp.concatenate([prediction, prediction[:2] * 3 + 1]),
        jnp.concatenate([label, jnp.where(label[:1] == 255, 0, label[:1]), label[1:2]]).astype(label.dtype),
    )
    masks = [np.arange(len(padded[0])) < len(prediction)]
    np.testing.assert_allclose(score(metric, [padded], masks), expected, rtol=TOLERANCE)
    assert score(metric, [padded]) != expected

    low = prediction.astype(jnp.bfloat16)
    np.testing.assert_allclose(
        score(metric, [(low, label)]), score(metric, [(low.astype(jnp.float32), label)]), rtol=TOLERANCE
    )


def nothing_valid(metric, data, task):
    """The score where every label is 255."""
    prediction, label = one_batch(data, task)
    return score(metric, [(prediction, jnp.full_like(label, 255))])
