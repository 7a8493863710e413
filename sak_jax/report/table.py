"""Scores beside baselines and published ones: the rows that the text table and the page share, and the text."""

import math
from collections.abc import Mapping


def table(
    scores: Mapping[str, float],
    baselines: Mapping[str, float],
    delta: float | None,
    published: Mapping[str, float] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
) -> str:
    """The scores beside the single-task baselines and the published ones, as text.

    Args:
      scores: `{"semseg/mIoU": ..}`; NaN is shown as a dash.
      baselines: single-task scores under the same keys; `change` is the relative change against them, positive where
        the student is better.
      delta: Delta_m in percent.
      published: scores in print under the same keys, and `delta_m`.
      higher_is_better: whether the greater value is the better one, by key; a key that is missing shows no change.
    """
    published, better = published or {}, higher_is_better or {}
    rows = [("metric", "student", "single-task", "change", "published")]
    for key, value in scores.items():
        baseline = baselines.get(key)
        percent = change(value, baseline, better.get(key))
        shown = "" if percent is None else f"{percent:+z.1f} %"
        rows.append((key, number(value), number(baseline), shown, number(published.get(key))))
    if delta is not None:
        printed = published.get("delta_m")
        rows.append(("Delta_m", "", "", f"{delta:+z.2f} %", "" if printed is None else f"{printed:+z.2f} %"))
    used = [column for column in range(5) if column < 2 or any(row[column] for row in rows[1:])]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(row[column].ljust(widths[column]) for column in used).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * widths[column] for column in used))
    if delta is None:
        lines.append("Delta_m needs a score and a single-task baseline (config.baselines) for every task")
    return "\n".join(lines)


def change(value: float | None, baseline: float | None, higher_is_better: bool | None) -> float | None:
    """The relative change against a baseline in percent, positive where the value is better.

    None where a value is missing, not finite or zero (the baseline), or where the direction is not known.
    """
    if not baseline or value is None or higher_is_better is None:
        return None
    percent = 100 * (value - baseline) / baseline
    if not math.isfinite(percent):
        return None
    return percent if higher_is_better else -percent


def number(value: float | None) -> str:
    """Four digits; a dash for what is not finite, nothing for what is not there."""
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else "-"
