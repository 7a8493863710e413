"""Damaged checkpoints, damaged side files, workdirs that cannot be: the same command is given again."""

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import trial

STEPS = 3
TINY = (
    "--config=tests/recipes/tiny.py:method=multitask", f"--config.multitask.steps={STEPS}",
    "--config.checkpoint.every=1", "--config.multitask.eval_every=0",
)  # fmt: skip


def main(argv):
    """`sak_jax.main`."""
    from sak_jax import main

    return main.main(argv)


def finished() -> Path:
    """The workdir of a run that has ended; made once."""
    if not _FINISHED:
        folder = Path(tempfile.mkdtemp(prefix="campaign_run_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        problem = trial.run(lambda _: trial.command(main, *TINY, f"--workdir={folder / 'run'}").did())
        assert not problem, problem
        _FINISHED.append(folder / "run")
    return _FINISHED[0]


_FINISHED: list[Path] = []


def metrics(workdir: Path) -> dict:
    """The scores of a run."""
    return json.loads((workdir / "results.json").read_text())["metrics"]


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def turned(file: Path) -> None:
    """Turns a byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def other_kind(path: Path) -> None:
    """A folder in the place of a file, a file in the place of a folder."""
    was_folder = path.is_dir()
    gone(path)
    path.write_text("") if was_folder else path.mkdir()


def content(text: bytes) -> Callable[[Path], None]:
    """Writes another content."""

    def write(file: Path) -> None:
        file.write_bytes(text)

    write.__name__ = f"content {text[:20]!r}"
    return write


def newest_checkpoint() -> Iterator:
    """Every file and folder of the newest checkpoint, damaged in every way; it must end as the undisturbed run."""
    base = finished()
    newest = Path("checkpoints/multitask") / str(STEPS)
    inside = sorted(path.relative_to(base / newest) for path in (base / newest).rglob("*"))
    files = [path for path in inside if (base / newest / path).is_file()]
    shown = [path for path in files if "ocdbt.process_0" not in str(path)]
    data = [path for path in files if path not in shown and (base / newest / path).stat().st_size > 500]
    kinds = [(path, damage) for path in shown for damage in (empty, cut, turned)]
    kinds += [(path, gone) for path in shown]
    kinds += [(path, damage) for path in data[:3] for damage in (empty, cut, gone, turned)]
    kinds += [(path, damage) for path in inside if path.parent == Path(".") for damage in (gone, other_kind)]

    def attempt(work: Path, path: Path | None, damage) -> None:
        shutil.copytree(base, work / "run")
        if path is None:
            gone(work / "run" / newest)
            (work / "run" / newest).mkdir()
        else:
            damage(work / "run" / newest / path)
        done = trial.command(main, *TINY, f"--workdir={work / 'run'}")
        if done.status == 0:
            done.did()
            assert metrics(work / "run") == metrics(base), "it ends with other scores"
        else:
            done.refused(f"multitask/{STEPS}")

    yield "an empty folder", lambda work: attempt(work, None, None)
    for path, damage in kinds:
        yield f"{path} {damage.__name__}", lambda work, path=path, damage=damage: attempt(work, path, damage)


def side_files() -> Iterator:
    """Files beside the checkpoints, damaged; they must not stop a whole run."""
    base = finished()
    names = ["config.json", "results.json", "metrics.jsonl", "timing.jsonl", ".lock", "report"]
    names += ["checkpoints/multitask/scores.json", "report/report.json", "report/index.html"]
    damages = [empty, cut, gone, other_kind, content(b"[]"), content(b"\xff\xfe\0\x80"), content(b'{"step": 1}\n7\n')]
    for name in names:
        if not (base / name).exists():
            continue
        for damage in [gone, other_kind] if (base / name).is_dir() else damages:

            def attempt(work: Path, name=name, damage=damage) -> None:
                shutil.copytree(base, work / "run")
                damage(work / "run" / name)
                done = trial.command(main, *TINY, f"--workdir={work / 'run'}")
                if damage is other_kind and done.status:
                    done.refused(name.split("/")[0])
                    return
                done.did()
                assert metrics(work / "run") == metrics(base), "it ends with other scores"

            yield f"{name} {damage.__name__}", attempt

    def another_config(work: Path) -> None:
        shutil.copytree(base, work / "run")
        (work / "run" / "config.json").unlink()
        trial.command(main, *TINY, f"--workdir={work / 'run'}", "--config.multitask.lr=0.5").refused("multitask.lr")

    yield "config.json gone and another config", another_config


def workdirs() -> Iterator:
    """Workdirs that cannot be written, for training and for an evaluation."""

    def refused(where: Callable[[Path], object], *extra: str) -> Callable[[Path], None]:
        return lambda work: trial.command(main, *TINY, f"--workdir={where(work)}", *extra).refused()

    def file(work: Path) -> Path:
        (work / "file").write_text("")
        return work / "file"

    def dangling(work: Path) -> Path:
        (work / "link").symlink_to(work / "nowhere" / "else")
        return work / "link"

    def loop(work: Path) -> Path:
        (work / "loop").symlink_to(work / "loop")
        return work / "loop"

    places = {
        "a file": file,
        "below a file": lambda work: file(work) / "run",
        "a dangling link": lambda work: dangling(work) / "run",
        "a link to itself": lambda work: loop(work) / "run",
        "below /proc": lambda work: "/proc/run",
        "below /sys": lambda work: "/sys/run",
        "/dev/null": lambda work: "/dev/null",
        "a name of 300 letters": lambda work: work / ("x" * 300),
        "a path of 5000 letters": lambda work: work.joinpath(*["x" * 200] * 25),
        "http": lambda work: "http://example.org/run",
        "s3": lambda work: "s3://bucket/run",
        "empty": lambda work: "",
        "a null character": lambda work: f"{work}/a\0b",
        "of another's home": lambda work: "~nobody_of_this_name/run",
    }
    for name, where in places.items():
        yield name, refused(where)
    for name in ("a file", "http", "empty", "a link to itself", "below /proc", "a null character"):
        yield f"{name}, evaluated", refused(places[name], "--mode=evaluate")
    yield "nothing there, evaluated", refused(lambda work: work / "none", "--mode=evaluate")
    yield "no checkpoint, evaluated", refused(lambda work: work, "--mode=evaluate")

    def read_only(work: Path, *extra: str) -> trial.Done:
        shutil.copytree(finished(), work / "run")
        mount(work / "run")
        return trial.command(main, *TINY, f"--workdir={work / 'run'}", *extra)

    def evaluated(work: Path) -> None:
        done = read_only(work, "--mode=evaluate")
        assert "semseg/mIoU" in done.out, f"the scores are not printed: {done.err[-500:]}"
        done.did_or_refused()

    def odd(work: Path, name: str) -> None:
        def apart(*flags: str) -> None:
            flags = (*TINY, f"--workdir={work / name}", *flags)
            problem = trial.run(lambda _: trial.command(main, *flags).did())
            assert not problem, problem

        apart()
        apart("--mode=evaluate")
        (work / name / "results.json").unlink()
        apart()
        assert metrics(work / name) == metrics(finished()), "it ends with other scores"

    for name in (
        "run [1]",
        "a*b",
        "what?",
        " spaces ",
        "{x}",
        "%d%s",
        "e\u0301\u00e9",
        "new\nline",
        "$HOME",
        "a:b,c",
        "#",
    ):
        yield f"called {name!r}", lambda work, name=name: odd(work, name)
    if may_mount():
        yield "read-only, trained", lambda work: read_only(work).refused()
        yield "read-only, evaluated", evaluated


def mount(folder: Path, *options: str) -> None:
    """Makes a folder read-only, or mounts something on it, for this process alone."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    if options:
        subprocess.run(["mount", *options, str(folder)], check=True)
    else:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)


def may_mount() -> bool:
    """Whether this user may mount."""
    tried = shutil.which("unshare") and subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True
    )
    return bool(tried) and tried.returncode == 0 and os.geteuid() == 0


CLASSES = {
    "damaged newest checkpoint": newest_checkpoint,
    "side files": side_files,
    "unusable workdirs": workdirs,
}
