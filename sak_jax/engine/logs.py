"""What a run writes down while it trains: `metrics.jsonl`, and what else is asked for (`loggers`)."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from sak_jax import paths
from sak_jax.engine import loggers
from sak_jax.engine import mesh as meshes
from sak_jax.errors import EndedEarly

_REWRITE_SECONDS = 10.0


class Log:
    """One stage's lines of `metrics.jsonl`, and the same values for every writer; silent but on process 0.

    A line is `{"step": .., "split": .., "values": {..}}`; the split is the stage's name for training losses, `val` for
    scores. How fast the stage trains goes into `timing.jsonl`: it differs from run to run, which the rest does not.
    """

    def __init__(
        self,
        workdir: epath.Path,
        stage: str,
        resume_at: int,
        *,
        scored: bool,
        writers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        """Goes on after step `resume_at`.

        Args:
          workdir: of the run.
          stage: the stage's name.
          resume_at: the last step that is kept.
          scored: lines of the split `val` are this stage's.
          writers: names of `loggers.WRITERS`.
          config: the recipe as plain data, for those that keep it.
        """
        self._stage = stage
        self._writers: list[loggers.Writer] = []
        self._steps_with_scores: set[int] = set()
        self._file = self._timing = None
        self._workdir = workdir
        path = workdir / "metrics.jsonl"
        if scored:
            self._steps_with_scores = {line["step"] for line in read(path) if line["split"] == "val"}
        if not meshes.is_main():
            return
        _forget_after(path, (stage, "val") if scored else (stage,), resume_at)
        self._file = _opened(path)
        _forget_after(workdir / "timing.jsonl", (stage,), resume_at)
        self._timing = _opened(workdir / "timing.jsonl")
        self._writers += [loggers.WRITERS[name](workdir, stage, resume_at, config or {}) for name in writers]

    def has_scores(self, step: int) -> bool:
        """Whether the scores of a step were written before."""
        return step in self._steps_with_scores

    def write(self, step: int, split: str | None, values: dict[str, float]) -> None:
        """Writes a line; `split` None is the stage itself. Values that are not finite become null."""
        if self._file is None:
            return
        split = split or self._stage
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._write(self._file, {"step": step, "split": split, "values": finite})
        for writer in self._writers:
            writer.write(step, split, values)

    def write_timing(self, step: int, values: dict[str, float]) -> None:
        """Writes a line of `timing.jsonl`."""
        if self._file is None:
            return
        self._write(self._timing, {"step": step, "split": self._stage, "values": values})
        for writer in self._writers:
            writer.write(step, "time", values)

    def _write(self, file, entry: dict) -> None:
        """Raises EndedEarly where a line cannot be written; one that was cut short is left out when it is read."""
        try:
            file.write(json.dumps(entry) + "\n")
            file.flush()
        except OSError as error:
            raise EndedEarly(
                f"{self._workdir / 'metrics.jsonl'} cannot be written ({paths.reason(error, self._workdir)}); the "
                "checkpoints are whole: mend it and run the same command to go on"
            ) from error

    def close(self) -> None:
        """Writes out what is buffered."""
        for file in (self._file, self._timing):
            if file is not None:
                with contextlib.suppress(OSError):  # Its line was refused when it was written.
                    file.close()
        for writer in self._writers:
            writer.close()


def _opened(path: epath.Path):
    """A text file to append to."""
    return _Rewritten(path) if paths.is_remote(path) else path.open("a", encoding="utf-8")


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


def read(path: epath.Path) -> list[dict]:
    """The lines of a `metrics.jsonl`; what is no such line (cut short, foreign, not text) is left out."""
    return [entry for _, entry in _lines(path)]


def _lines(path: epath.Path) -> list[tuple[str, dict]]:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, IsADirectoryError):
        return []
    found = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and isinstance(entry.get("split"), str):
            found.append((line, entry))
    return found


def _forget_after(path: epath.Path, splits: tuple[str, ...], step: int) -> None:
    """Drops the lines of steps that a resumed stage will write again, and a last line that was cut short."""
    if not path.exists():
        return
    kept = [line for line, entry in _lines(path) if entry["split"] not in splits or entry["step"] <= step]
    paths.write_text(path, "".join(f"{line}\n" for line in kept))
