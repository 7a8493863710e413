"""Flags and keys of a recipe with values that cannot be meant."""

from collections.abc import Iterator
from pathlib import Path

import trial
from faults_of_runs import TINY, main

BAD = {
    "seed": ("-1", "4294967296", "1.5", "x", "nan"),
    "image_size": ("(24,)", "(24.0,32.0)", "(0,32)", "(-24,32)", "(1000000,32)", "24", "(25,33)", "(24,32,3)"),
    "batch_size": ("0", "-8", "8.5", "x"),
    "eval_batch_size": ("0", "-1"),
    "dtype": ("float17", "", "int8"),
    "matmul_precision": ("ultra",),
    "init_from": ("/nowhere", "http://x/y.pth", "/dev/null", "/etc"),
    "log_every": ("0", "-1"),
    "checkpoint.every": ("0", "-3"),
    "checkpoint.keep": ("-1", "1.5"),
    "mesh.data": ("0", "-2", "3"),
    "mesh.fsdp": ("0", "-1", "7"),
    "boundary.max_distance": ("-1", "nan", "2", "inf"),
    "boundary.protocol": ("other",),
    "boundary.truth": ("other",),
    "boundary.workers": ("-1",),
    "model.stem": ("huge", ""),
    "model.width": ("-16", "17"),
    "model.depth": ("-4", "3"),
    "model.heads": ("-2", "3"),
    "model.patch": ("-8", "7"),
    "model.router": ("some",),
    "model.freeze": ("nothing_like_it",),
    "model.aligners": ("some",),
    "model.down_ratio": ("0", "-4"),
    "model.lora.rank": ("-1",),
    "model.lora.alpha": ("nan", "inf"),
    "teachers.dir": ("/nowhere/at/all",),
    "distill.steps": ("-1", "1.5"),
    "distill.lr": ("nan", "-1.0", "inf"),
    "distill.warmup_lr": ("nan", "-1.0"),
    "distill.warmup_steps": ("-1",),
    "distill.final_lr": ("nan", "-1.0", "inf"),
    "distill.weight_decay": ("-0.1", "nan", "inf"),
    "distill.clip": ("-1.0", "nan"),
    "distill.accumulate": ("0", "-1", "3"),
    "distill.loss": ("l7",),
    "multitask.steps": ("-1", "x"),
    "multitask.alpha": ("nan", "-1.0", "inf"),
    "multitask.lr": ("nan", "-0.001", "inf", "x"),
    "multitask.power": ("nan", "-1.0", "inf"),
    "multitask.weight_decay": ("nan", "-1.0", "inf"),
    "multitask.clip": ("-1.0", "nan"),
    "multitask.accumulate": ("0", "-1", "3"),
    "multitask.eval_every": ("-1",),
    "multitask.scale_range": ("(2.0,0.5)", "(0.0,1.0)", "(-1.0,1.0)", "(1.0,)", "()", "(nan,1.0)", "1.0", "(1.0,inf)"),
    "data.name": ("nothing", "ROOMS"),
    "data.workers": ("-1", "1.5"),
    "data.on_error": ("ignore",),
    "data.train_length": ("0", "-5", "1.5"),
    "data.val_length": ("0", "-5"),
    "data.seed": ("-1",),
    "tasks.semseg.channels": ("0", "-1", "1.5", "300"),
    "tasks.semseg.weight": ("nan", "-1.0"),
    "nothing": ("1",),
    "multitask.lerning_rate": ("1.0",),
    "multitask": ("1",),
    "multitask.lr.x": ("1",),
    "tasks.depth": ("3",),
}  # fmt: skip
"""By key. Whatever is not refused must train."""

METHOD_OF = {"distill": "sak", "teachers": "sak", "model.router": "sak", "model.lora": "sak"}

FLAGS = (
    ("--workdir=",), ("--mode=",), ("--mode=test",), ("--wrokdir=/tmp/x",), ("positional",), ("--config.",),
    ("--config.=3",), ("--config..lr=3",), ("--config.multitask.=3",), ("--config.seed",), ("--config.seed=",),
    ("--best",), ("--workdir",), ("--config.seed=0x",), ("--config.multitask.lr=1,5",), ("--noconfig.seed",),
    ("-x",), ("--",  "x"), ("--config.tasks={}",), ("--config.data={}",), ("--config.seed=1", "--config.seed=-1"),
)  # fmt: skip

RECIPES = {
    "that is not there": ("--config=configs/nothing.py",),
    "of another ending": ("--config=README.md",),
    "a folder": ("--config=configs",),
    "empty": ("--config=",),
    "with an unknown argument": ("--config=configs/rooms.py:colour=red",),
    "with half an argument": ("--config=configs/rooms.py:method",),
    "with an unknown method": ("--config=configs/rooms.py:method=other",),
    "with an unknown task": ("--config=configs/rooms.py:method=single-smell",),
    "with an unknown foundation": ("--config=configs/rooms.py:method=frozen-nothing",),
    "without data": ("--config=configs/nyud.py", "--config.data.root=/nowhere"),
    "without data, of folders": (
        "--config=configs/folder.py:method=multitask",
        "--config.data.root=/nowhere",
        "--config.init_from=",
    ),
    "without a start": ("--config=configs/folder.py:method=multitask", "--config.init_from=/nowhere"),
}

TEXTS = {
    "a syntax error": "def get_config(:\n",
    "no get_config": "x = 1\n",
    "an error": "def get_config(text):\n    return 1 / 0\n",
    "an error without words": "def get_config(text):\n    raise KeyError('y')\n",
    "a dict": "def get_config(text):\n    return {}\n",
    "nothing": "",
    "None": "def get_config(text):\n    return None\n",
    "exit": "def get_config(text):\n    raise SystemExit(3)\n",
    "exit at the import": "import sys\nsys.exit('gone')\n",
    "an unknown import": "import no_such_module\n",
    "a null character": "x = 1\0\n",
    "bytes": b"\xff\xfe\x00",
    "a function for a value": "import tests.recipes.tiny as tiny\n"
    "def get_config(text):\n    config = tiny.get_config()\n    config.seed = len\n    return config\n",
    "no arguments taken": "def get_config():\n    return 1\n",
    "itself": "def get_config(text):\n    return get_config(text)\n",
}


def config_and_flags() -> Iterator:
    def key(name: str, value: str, work: Path) -> None:
        method = next((method for start, method in METHOD_OF.items() if name.startswith(start)), "multitask")
        steps = ("--config.distill.steps=1",) if method == "sak" and name != "distill.steps" else ()
        base = (f"--config=tests/recipes/tiny.py:method={method}", *steps)
        if name != "multitask.steps":
            base += ("--config.multitask.steps=1",)
        done = trial.command(main, *base, f"--workdir={work / 'run'}", f"--config.{name}={value}")
        assert not done.did_or_refused(), "taken in silence"

    for name, values in BAD.items():
        for value in values:
            yield f"{name}={value}", lambda work, name=name, value=value: key(name, value, work)
    for flags in FLAGS:
        yield (
            f"flags {flags}",
            lambda work, flags=flags: trial.command(main, *TINY, f"--workdir={work / 'run'}", *flags).refused(),
        )
    for name, flags in RECIPES.items():
        yield (
            f"a recipe {name}",
            lambda work, flags=flags: trial.command(main, f"--workdir={work / 'run'}", *flags).refused(),
        )

    def recipe(text: str | bytes, work: Path) -> None:
        (work / "mine.py").write_bytes(text if isinstance(text, bytes) else text.encode())
        trial.command(main, f"--config={work / 'mine.py'}", f"--workdir={work / 'run'}").refused("mine.py")

    for name, text in TEXTS.items():
        yield f"a recipe file with {name}", lambda work, text=text: recipe(text, work)


CLASSES = {"targeted config and flags": config_and_flags}
