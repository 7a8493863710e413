"""What a run writes down while it trains: `metrics.jsonl` and TensorBoard event files."""

import json
import math
import time

from etils import epath

from sak_jax import paths
from sak_jax.engine import mesh as sharding

_REWRITE_SECONDS = 10.0


class MetricsLog:
    """One stage's lines of `metrics.jsonl`, and the same values as TensorBoard scalars; silent but on process 0.

    A line is `{"step": .., "split": .., "values": {..}}`; the split is the stage's name for training losses, `val` for
    scores.
    """

    def __init__(self, workdir: epath.Path, stage: str, resume_at: int):
        self._stage = stage
        self._file = self._events = None
        if not sharding.is_main():
            return
        from tensorboardX import SummaryWriter  # Slow to import.

        path = workdir / "metrics.jsonl"
        _forget_after(path, stage, resume_at)
        self._file = _Rewritten(path) if paths.is_remote(path) else path.open("a")
        self._events = SummaryWriter(str(workdir / "events" / stage), purge_step=resume_at + 1, max_queue=100)

    def write(self, step: int, split: str | None, values: dict[str, float]) -> None:
        """Writes a line; `split` None is the stage itself. Values that are not finite become null."""
        if self._file is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "split": split or self._stage, "values": finite}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{split or self._stage}/{name}", value, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        if self._file is not None:
            self._file.close()
            self._events.close()


class _Rewritten:
    """A text file to append to where nothing can be appended: an object is written whole, now and then and at the end.

    A run that is killed loses the lines of its last seconds.
    """

    def __init__(self, path: epath.Path):
        self._path = path
        self._text = path.read_text() if path.exists() else ""
        self._written = time.monotonic()

    def write(self, text: str) -> None:
        self._text += text

    def flush(self) -> None:
        if time.monotonic() - self._written > _REWRITE_SECONDS:
            self.close()

    def close(self) -> None:
        paths.write_text(self._path, self._text)
        self._written = time.monotonic()


def _forget_after(path: epath.Path, stage: str, step: int) -> None:
    """Drops the lines of steps that a resumed stage will write again, and a last line that was cut short."""
    if not path.exists():
        return
    splits = (stage, "val") if stage == "multitask" else (stage,)
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["split"] not in splits or entry["step"] <= step:
            kept.append(line + "\n")
    paths.write_text(path, "".join(kept))
