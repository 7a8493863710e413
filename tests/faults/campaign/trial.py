"""One input in a process of its own, and command lines within it."""

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 150


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command line did."""

    status: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Makes sure that it ended with one line and status 2."""
        self.ended(2, *words)

    def ended(self, status: int, *words: str) -> None:
        """Makes sure of its status, and that it said why in one line."""
        assert self.status == status, f"status {self.status} instead of {status}: {self.err[-600:]}"
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in self.err, self.err[-600:]
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"

    def did(self) -> None:
        """Makes sure that it did what it was asked for, and says nothing of an error."""
        assert self.status == 0, f"status {self.status}: {self.err[-600:]}"
        assert "Traceback" not in self.err, self.err[-600:]

    def did_or_refused(self) -> bool:
        """Makes sure that it did either of the two; whether it was the former."""
        self.did() if self.status == 0 else self.refused()
        return self.status == 0


def run(attempt: Callable[[Path], None]) -> str:
    """What went wrong with an attempt, which is given a folder of its own; nothing if it passed."""
    folder = Path(tempfile.mkdtemp(prefix="campaign_"))
    told = folder / "told"
    process = os.fork()
    if not process:
        os.setsid()
        _attempt(attempt, folder, told)
    try:
        end = time.monotonic() + SECONDS
        while (found := os.waitpid(process, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return f"it hangs: not over within {SECONDS} s"
            time.sleep(0.005)
        if told.exists():
            return told.read_text() or "?"
        return "" if found[1] == 0 else f"killed by signal {os.WTERMSIG(found[1])}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _attempt(attempt: Callable[[Path], None], folder: Path, told: Path) -> None:
    status = 1
    try:
        (folder / "work").mkdir()
        with captured():
            attempt(folder / "work")
        status = 0
    except AssertionError as error:
        told.write_text(str(error) or traceback.format_exc())
    except BaseException as error:
        told.write_text(f"traceback of {type(error).__name__}: {error}\n{traceback.format_exc()[-800:]}")
    finally:
        os._exit(status)


@contextlib.contextmanager
def captured() -> Iterator[tuple[Path, Path]]:
    """Within it stdout and stderr go to files."""
    folder = Path(tempfile.mkdtemp(prefix="captured_"))
    kept = [os.dup(1), os.dup(2)]
    try:
        for number, name in ((1, "out"), (2, "err")):
            opened = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(opened, number)
            os.close(opened)
        yield folder / "out", folder / "err"
    finally:
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        shutil.rmtree(folder)


def command(main: Callable, *argv: object) -> Done:
    """Calls a command line; an exception that it lets through fails the attempt."""
    with captured() as (out, err):
        try:
            status = main([str(argument) for argument in argv])
        except SystemExit as end:
            status = end.code
        return Done(status or 0, out.read_text("utf-8", "replace"), err.read_text("utf-8", "replace"))
