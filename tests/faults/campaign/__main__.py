"""Inputs that break training programs, tried class by class: how many were tried, and how many failed.

python tests/faults/campaign [--checkout=DIR] [--only=CLASS ..] [--fuzzed=1278] [--output=FILE.json]

`--checkout` is the repository whose package is tried, another version say. An input passes if what it asks for is done
rightly, or refused in one line of exit status 2 (1 where a run ends early); a traceback, a wrong value in silence, a
lost step, a process that hangs, is killed or leaves others behind has failed. Each input has a process of its own.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Prints the table, and before it what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=HERE.parents[2])
    parser.add_argument("--only", nargs="*", default=[], help="classes, by the beginning of their names")
    parser.add_argument("--named", default="", help="inputs with this in their names alone")
    parser.add_argument("--fuzzed", type=int, default=1278, help="damaged files")
    parser.add_argument("--output", type=Path, help="where the failures are put")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job would ignore it.
    os.chdir(options.checkout)
    sys.path[:1] = [str(options.checkout.resolve()), str(options.checkout.resolve() / "tools"), str(HERE)]
    os.environ |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(options.checkout.resolve())}
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "sak_jax_test_xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    # Nor may the package be found where another version is installed from.
    sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    import faults_of_config
    import faults_of_data
    import faults_of_runs
    import faults_of_tools
    import faults_of_weights
    import fuzzed
    import trial

    load()
    classes = faults_of_runs.CLASSES | faults_of_data.CLASSES | faults_of_weights.CLASSES
    classes |= {"fuzzed files": lambda: fuzzed.trials(options.fuzzed)} | faults_of_config.CLASSES
    classes |= faults_of_tools.CLASSES
    rows, failures = [], {}
    for name, trials in classes.items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        started, failed, tried = time.monotonic(), {}, 0
        for title, attempt in trials():
            if options.named not in title:
                continue
            problem = trial.run(attempt)
            tried += 1
            if problem:
                failed[title] = problem
                print(f"{name}: {title}: {' '.join(problem.split())[:300]}", flush=True)
        rows.append((name, tried, len(failed)))
        failures[name] = failed
        print(f"{name}: {tried} tried, {len(failed)} failed, {time.monotonic() - started:.0f} s", flush=True)
    print("\n| class | tried | failed |\n|---|---|---|")
    for row in rows:
        print("| {} | {} | {} |".format(*row))
    if options.output:
        options.output.write_text(json.dumps(failures, indent=1) + "\n")


def load() -> None:
    """Imports what the inputs' processes would each import again; versions differ in what they have."""
    modules = ("run", "runner", "data.checks", "data.folder", "data.sets.folder", "data.prepare", "data.arrayrecord")
    modules += (
        "report.page",
        "report.figures",
        "weights.files",
        "weights.pickles",
        "convert.files",
        "methods.published",
    )
    for name in (*(f"sak_jax.{module}" for module in modules), "torch", "tensorboardX", "PIL.TiffImagePlugin"):
        ours = name.startswith("sak_jax")
        if not ours or Path(name.replace(".", "/")).with_suffix(".py").is_file():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


if __name__ == "__main__":
    main()
