"""The tools with inputs and outputs that cannot be, and stopped in the middle."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import faults_of_data
import numpy as np
import trial
from faults_of_runs import cut, finished
from PIL import Image


def call(tool: str, *argv: object) -> trial.Done:
    """A tool's command line, in this process."""
    return trial.command(lambda arguments: importlib.import_module(tool).main(arguments), *argv)


def boundaries(work: Path, count: int = 2, size=(40, 60)) -> tuple[str, ...]:
    """Predictions and labels of the boundary score, and the flags that name them."""
    rng = np.random.default_rng(0)
    for kind in ("predictions", "labels"):
        (work / kind).mkdir()
        for number in range(count):
            edges = (rng.random(size) > 0.9) * np.uint8(255)
            Image.fromarray(edges).save(work / kind / f"{number}.png")
    return (
        f"--predictions={work / 'predictions'}", f"--labels={work / 'labels'}", "--max_distance=0.0075",
        "--protocol=sak", "--workers=1",
    )  # fmt: skip


def outputs(work: Path, ending: str) -> dict[str, Path]:
    """Places that cannot be written, or are taken."""
    (work / "file").write_text("kept")
    (work / f"taken{ending}").write_text("kept")
    (work / f"folder{ending}").mkdir()
    (work / "link").symlink_to(work / "nowhere" / "x")
    return {
        "below a file": work / "file" / f"x{ending}",
        "taken": work / f"taken{ending}",
        "a folder": work / f"folder{ending}",
        "below /proc": Path(f"/proc/x{ending}"),
        "below a dangling link": work / "link" / f"x{ending}",
        "a name of 300 letters": work / ("x" * 300 + ending),
        "a null character": Path(f"{work}/a\0b{ending}"),
    }


OUTPUTS = (
    "below a file",
    "taken",
    "a folder",
    "below /proc",
    "below a dangling link",
    "a name of 300 letters",
    "a null character",
)


def output_trials() -> Iterator:
    """Every tool that writes a file, with each of these places."""
    makers: dict[str, tuple[str, Callable[[Path], tuple]]] = {
        "evaluate_boundaries": (".json", boundaries),
        "export_pytorch": (".pth", lambda work: (f"--checkpoint={finished()}",)),
        "export": (".stablehlo", lambda work: (f"--checkpoint={finished()}",)),
        "report": (".html", lambda work: (str(finished()),)),
        "plan": (".json", lambda work: ("--config=tests/recipes/tiny.py", "--devices=1", "--stage=multitask")),
        "benchmark": (".json", lambda work: ("--config=tests/recipes/tiny.py:method=multitask", "--steps=1")),
    }
    for tool, (ending, flags) in makers.items():
        if not Path("tools", f"{tool}.py").exists():
            continue
        for name in OUTPUTS:

            def attempt(work: Path, tool=tool, ending=ending, flags=flags, name=name) -> None:
                place = outputs(work, ending)[name]
                started = time.monotonic()
                words = () if "null" in name else ("--output",)
                call(tool, *flags(work), f"--output={place}").refused(*words)
                assert time.monotonic() - started < 60
                assert (work / f"taken{ending}").read_text() == "kept", "overwritten"

            yield f"{tool} --output {name}", attempt
    folders = {
        "convert_teacher": lambda work: ("dinov2_base", f"--input={_weights(work)}"),
        "import_pytorch": lambda work: ("--config=tests/recipes/tiny.py", f"--input={_weights(work)}"),
        "prepare_data": lambda work: ("nyud", f"--source={faults_of_data.prepared() / 'nyud'}"),
        "write_rooms": lambda work: ("nyud", "--train=1", "--val=1", "--height=32", "--width=48"),
        "predict": lambda work: (f"--checkpoint={finished()}", f"--images={_image(work)}"),
    }
    for tool, flags in folders.items():
        if not Path("tools", f"{tool}.py").exists():
            continue
        for name in (
            "below a file",
            "below /proc",
            "below a dangling link",
            "a name of 300 letters",
            "a null character",
        ):

            def attempt(work: Path, tool=tool, flags=flags, name=name) -> None:
                call(tool, *flags(work), f"--output={outputs(work, '')[name]}").refused()

            yield f"{tool} --output {name}", attempt


def _weights(work: Path) -> Path:
    import safetensors.numpy

    (work / "x.safetensors").write_bytes(safetensors.numpy.save({"a.weight": np.ones((2, 2), np.float32)}))
    return work / "x.safetensors"


def _image(work: Path) -> Path:
    Image.fromarray(faults_of_data.IMAGE).save(work / "image.png")
    return work / "image.png"


def boundary_trials() -> Iterator:
    def changed(change: Callable[[Path], object], *flags: str, refused=True) -> Callable[[Path], None]:
        def attempt(work: Path) -> None:
            given = boundaries(work)
            change(work)
            done = call("evaluate_boundaries", *given, *flags)
            done.refused() if refused else done.did()

        return attempt

    prediction = lambda work: work / "predictions" / "0.png"  # noqa: E731
    small = Image.fromarray(np.zeros((9, 9), np.uint8))
    for name, change in {
        "a cut prediction": lambda work: cut(prediction(work)),
        "an empty prediction": lambda work: prediction(work).write_bytes(b""),
        "another size": lambda work: small.save(prediction(work)),
        "colours": lambda work: Image.fromarray(faults_of_data.IMAGE).save(prediction(work)),
        "16 bits": lambda work: Image.fromarray(np.ones((40, 60), np.uint16)).save(prediction(work)),
        "a missing label": lambda work: (work / "labels" / "0.png").unlink(),
        "no predictions": lambda work: shutil.rmtree(work / "predictions"),
        "labels without boundaries": lambda work: [
            Image.fromarray(np.zeros((40, 60), np.uint8)).save(path) for path in (work / "labels").iterdir()
        ],
        "labels of floats": lambda work: np.save(work / "labels" / "0.npy", np.ones((40, 60)) / 3),
        "a folder called like a prediction": lambda work: (prediction(work).unlink(), prediction(work).mkdir()),
        "labels of objects": lambda work: (
            (work / "labels" / "0.png").unlink(),
            np.save(work / "labels" / "0.npy", np.array([{}], object), allow_pickle=True),
        ),
    }.items():
        yield f"evaluate_boundaries, {name}", changed(change)
    for flags in ("--max_distance=-1", "--max_distance=nan", "--max_distance=x", "--max_distance=2", "--workers=0",
                  "--workers=-1", "--protocol=other", "--truth=other", "--colour=red", "--predictions=/nowhere",
                  "--labels=", "--predictions=~nobody_of_this_name/x"):  # fmt: skip
        yield f"evaluate_boundaries {flags}", changed(lambda work: None, flags)

    def brackets(work: Path) -> None:
        flags = boundaries(work)
        (work / "predictions").rename(work / "a [1]")
        call("evaluate_boundaries", f"--predictions={work / 'a [1]'}", *flags[1:]).did()

    def home(work: Path) -> None:
        flags = boundaries(work)
        os.environ["HOME"] = str(work)
        call("evaluate_boundaries", "--predictions=~/predictions", *flags[1:]).did()

    yield "evaluate_boundaries, a folder with brackets", brackets
    yield "evaluate_boundaries, ~", home
    yield (
        "evaluate_boundaries, capital endings",
        changed(lambda work: prediction(work).rename(work / "predictions" / "0.PNG"), refused=False),
    )


def mistaken() -> Iterator:
    """Arguments of the other tools."""
    tiny, run = "--config=tests/recipes/tiny.py", "{run}"
    commands = (
        ("compare", tiny, "--seeds=0"), ("compare", tiny, "--seeds=-1"), ("compare", tiny, "--jobs=0"),
        ("compare", tiny, "--seeds=x"), ("compare", tiny, "--output=/proc/x", "--seeds=1"),
        ("compare", tiny, "--output={file}/x", "--seeds=1"), ("compare", tiny, "--output={file}", "--seeds=1"),
        ("compare", "--config={broken}", "--seeds=1", "--output={work}/c"),
        ("compare", tiny, "--seeds=1", "--output={work}/c", "--config.multitask.lr=-1.0"),
        ("compare", tiny, "--seeds=1", "--output={work}/c", "--config.data.name=nyud", "--config.data.root=/nowhere"),
        ("list_teachers", "--image_size=99999999999,5"), ("list_teachers", "--image_size=0,0"),
        ("list_teachers", "--image_size=-1,5"), ("list_teachers", "--image_size=x"), ("list_teachers", "x"),
        ("write_rooms", "nyud", "--output={work}/r", "--seed=-1"),
        ("write_rooms", "nyud", "--output={work}/r", "--train=-1"),
        ("write_rooms", "nyud", "--output={work}/r", "--height=0"), ("write_rooms", "other", "--output={work}/r"),
        ("write_rooms", "nyud", "--output={work}", "--train=1"),
        ("write_rooms", "nyud", "--output={work}/r", "--width=-3"),
        ("prepare_data", "nyud", "--source=/nowhere", "--output={work}/p"),
        ("prepare_data", "nyud", "--source={nyud}", "--output={work}/p", "--samples_per_shard=-1"),
        ("prepare_data", "nyud", "--source={nyud}", "--output={work}/p", "--splits=other"),
        ("prepare_data", "nyud", "--source={nyud}", "--output={work}/p", "--splits=,"),
        ("prepare_data", "pascal_context", "--source={nyud}", "--output={work}/p"),
        ("prepare_data", "imagenet", "--source={nyud}", "--output={work}/p"),
        ("prepare_data", "other", "--source={nyud}", "--output={work}/p"),
        ("convert_teacher", "no_such_teacher", "--output={work}/t"), ("convert_teacher", "", "--output={work}/t"),
        ("convert_teacher", "dinov2_base", "--input=/nowhere", "--output={work}/t"),
        ("convert_teacher", "dinov2_base", "--input={file}", "--output={work}/t"),
        ("convert_teacher", "dinov2_base", "--input={weights}", "--output={work}/t"),
        ("convert_teacher", "rooms_scene", "--input={weights}", "--output={work}/t"),
        ("convert_teacher", "../x", "--output={work}/t", "--input={weights}"),
        ("import_pytorch", tiny, "--input=/nowhere", "--output={work}/i"),
        ("import_pytorch", tiny, "--input={file}", "--output={work}/i"),
        ("import_pytorch", tiny, "--input={weights}", "--output={work}/i"),
        ("import_pytorch", tiny, "--input={weights}", "--output={run}"),
        ("import_pytorch", "--input={weights}", "--output={work}/i"), ("import_pytorch", tiny, "--output={work}/i"),
        ("export_pytorch", "--checkpoint=/nowhere", "--output={work}/x.pth"),
        ("export_pytorch", "--checkpoint={work}", "--output={work}/x.pth"),
        ("export_pytorch", "--checkpoint={run}", "--output={work}/x.txt"),
        ("export_pytorch", "--checkpoint={run}/checkpoints", "--output={work}/x.pth"),
        ("export_pytorch", "--checkpoint={cutrun}", "--output={work}/x.pth"),
        ("export", "--checkpoint=/nowhere", "--output={work}/x.stablehlo"),
        ("export", "--checkpoint={run}", "--output={work}/x.txt"), ("export", "--checkpoint={run}", "--output="),
        ("report", "/nowhere", "--output={work}/x.html"), ("report", "{work}", "--output={work}/x.html"),
        ("report", "{run}", "--output={work}/x.txt"), ("report", "{file}", "--output={work}/x.html"),
        ("plan", tiny), ("plan", tiny, "--devices=0"), ("plan", tiny, "--devices=-1"), ("plan", tiny, "--topology=x"),
        ("plan", tiny, "--devices=1", "--stage=x"), ("plan", tiny, "--devices=1", "--batch_per_device=0"),
        ("benchmark", tiny, "--steps=0"), ("benchmark", tiny, "--steps=-1"), ("benchmark", "--config=/nowhere"),
        ("benchmark_data", "--samples=0"), ("benchmark_data", "--samples=-1"), ("benchmark_data", "--root={work}"),
        ("benchmark_data", "--data=nyud", "--root=/nowhere"), ("benchmark_data", "--data=other"),
        ("benchmark_data", "--data=imagenet", "--root={nyud}"),
        ("predict", "--checkpoint=/nowhere", "--images", "{image}", "--output={work}/o"),
        ("predict", "--checkpoint={run}", "--images", "/nowhere", "--output={work}/o"),
        ("predict", "--checkpoint={run}", "--images", "{image}", "--output={work}/o", "--batch=0"),
        ("predict", "--checkpoint={run}", "--images", "{image}", "--output={work}/o", "--resize=0,5"),
        ("predict", "--checkpoint={run}", "--images", "{image}", "--output={work}/o", "--resize=-1"),
        ("predict", "--checkpoint={run}", "--images", "{image}", "--output={work}/o", "--tile=0"),
        ("predict", "--checkpoint={run}", "--images", "{image}", "--output={image}"),
        ("predict", "--checkpoint={cutrun}", "--images", "{image}", "--output={work}/o"),
        ("push_to_hub", "--checkpoint={run}"), ("push_to_hub", "--checkpoint=/nowhere", "--output={work}/h"),
        ("push_to_hub", "--checkpoint={run}", "--output={file}"),
        ("push_to_hub", "--checkpoint={run}", "--output={file}/x"),
    )  # fmt: skip

    def attempt(command: tuple[str, ...], work: Path) -> None:
        (work / "file").write_text("text")
        (work / "broken.py").write_text("def get_config(text):\n    return 1 / 0\n")
        places = {
            "work": work, "run": finished(), "file": work / "file", "broken": work / "broken.py",
            "weights": _weights(work), "image": _image(work), "nyud": faults_of_data.prepared() / "nyud",
            "cutrun": work / "cutrun",
        }  # fmt: skip
        if "{cutrun}" in " ".join(command):
            shutil.copytree(finished(), work / "cutrun")
            for file in (work / "cutrun" / "checkpoints").rglob("*"):
                if file.is_file():
                    file.write_bytes(b"")
        call(command[0], *(text.format(**places) for text in command[1:])).refused()

    finished(), faults_of_data.prepared()
    for command in commands:
        if Path("tools", f"{command[0]}.py").exists():
            yield " ".join(command), lambda work, command=command: attempt(command, work)

    def truncated(work: Path) -> None:
        for name in ("sak-0", "multitask-0", "no-router-0", "single-semseg-0"):
            (work / "c" / name).mkdir(parents=True)
            (work / "c" / name / "results.json").write_text('{"metrics": {"semseg/mI')
        call(
            "compare",
            tiny,
            "--seeds=1",
            f"--output={work / 'c'}",
            "--config.tasks.depth={}",
            "--config.multitask.lr=-1.0",
        ).refused()

    yield "compare, truncated results", truncated
    del run


def tools() -> Iterator:
    """All of the above."""
    for trials in (output_trials, boundary_trials, mistaken):
        yield from trials()


def interrupted() -> Iterator:
    """Signals in the middle: one line, nobody left behind, nothing half-written."""

    def stopped(
        number: int,
        start: Callable[[Path], list],
        ready: Callable[[Path], bool],
        whole: Path | None = None,
        group=False,
    ):
        def attempt(work: Path) -> None:
            process = subprocess.Popen(
                [sys.executable, *map(str, start(work))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
            end = time.monotonic() + 90
            while not ready(work) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            assert process.poll() is None, f"over too soon: {process.communicate()[1][-500:]}"
            time.sleep(0.2)
            os.killpg(process.pid, number) if group else process.send_signal(number)
            out, err = process.communicate(timeout=40)
            assert process.returncode in (1, -number), f"status {process.returncode}: {err[-500:]}"
            assert "Traceback" not in err, err[-800:]
            if number != signal.SIGKILL:
                assert sum(line.startswith("error: ") for line in err.splitlines()) == 1, err[-500:]
            end = time.monotonic() + 15
            while (left := _of_session(process.pid)) and time.monotonic() < end:
                time.sleep(0.1)
            assert not left, f"{len(left)} processes are left"
            assert whole is None or not (work / whole).exists(), f"{whole} is there, half-written"

        return attempt

    def score(work: Path) -> list:
        flags = boundaries(work, 60, size=(400, 600))
        return ["tools/evaluate_boundaries.py", *flags[:-1], "--workers=2", f"--output={work / 'x.json'}"]

    def prepare(work: Path) -> list:
        return [
            "tools/prepare_data.py",
            "nyud",
            f"--source={_many(work)}",
            f"--output={work / 'out'}",
            "--samples_per_shard=50",
        ]

    def busy(work: Path) -> bool:
        return any(len(_of_session(int(pid))) > 2 for pid in _children())

    def begun(work: Path) -> bool:
        return any((work / "out").glob(".unfinished*/*record*"))

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        yield f"evaluate_boundaries, {number.name}", stopped(number, score, busy, Path("x.json"))
    yield "evaluate_boundaries, Ctrl-C to all", stopped(signal.SIGINT, score, busy, Path("x.json"), group=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        yield f"prepare_data, {number.name}", stopped(number, prepare, begun, Path("out/nyud/1.0.0"))


def _many(work: Path) -> Path:
    """Original files of NYUD-v2's layout with one image under 3000 names."""
    root = shutil.copytree(faults_of_data.prepared() / "nyud", work / "many")
    names = (root / "gt_sets" / "train.txt").read_text().split()
    copies = [f"9{number:04d}" for number in range(3000)]
    for file in [path for path in root.rglob("*") if path.stem == names[0]]:
        for name in copies:
            os.link(file, file.with_stem(name))
    (root / "gt_sets" / "train.txt").write_text("\n".join(names + copies) + "\n")
    return root


def _children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


def _of_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


CLASSES = {"tools": tools, "interrupted tools": interrupted}
