"""How much better a multi-task model is than single-task models."""

from collections.abc import Mapping

from sak_jax.errors import UserError
from sak_jax.metrics import higher_is_better


def delta_m(metrics: Mapping[str, float], baselines: Mapping[str, float]) -> float:
    """Mean over tasks of the relative change against single-task baselines, in percent; more is better.

    A change counts negative where the metric gets worse (Maninis et al. 2019; SAK, section 4.1).

    Args:
      metrics: `{"semseg/mIoU": 59.9, ..}`; those without a baseline are left out.
      baselines: the single-task models' scores under the same keys.

    Raises:
      UserError: no baseline at all, one whose metric is unknown or was not measured, or one that is zero.
    """
    if not baselines:
        raise UserError("delta_m needs a baseline for each task: give them as {'semseg/mIoU': 51.15, ..}")
    changes = []
    for key, baseline in baselines.items():
        if key not in metrics:
            raise UserError(f"the baseline {key!r} has no metric to compare; measured are {', '.join(sorted(metrics))}")
        if baseline == 0:
            raise UserError(f"the baseline {key!r} is 0, so that no relative change exists; give the measured value")
        change = (metrics[key] - baseline) / baseline
        changes.append(change if higher_is_better(key.rpartition("/")[-1]) else -change)
    return 100 * sum(changes) / len(changes)
