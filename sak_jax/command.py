"""The command `sak-jax COMMAND ..`: training, and every tool as a subcommand, from an installed package."""

import importlib
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from sak_jax.errors import UserError

COMMANDS = {
    "train": ("sak_jax.main", "train and evaluate a recipe"),
    "evaluate": ("sak_jax.main", "evaluate the newest checkpoint of a run"),
    "predict": ("predict", "pictures and videos to predictions"),
    "demo": ("demo", "a page in the browser that predicts the pictures that are dropped on it"),
    "convert-teacher": ("convert_teacher", "weights of timm, Hugging Face or the authors to ours"),
    "list-teachers": ("list_teachers", "the registry of teachers"),
    "import": ("import_pytorch", "a published checkpoint to ours"),
    "export-pytorch": ("export_pytorch", "a checkpoint of ours to PyTorch"),
    "export": ("export", "a student as StableHLO or ONNX, which need no sak_jax"),
    "report": ("report", "the page of one run, or of several side by side"),
    "push-to-hub": ("push_to_hub", "a student to the Hugging Face Hub, or to a folder to share"),
    "prepare-data": ("prepare_data", "original files to ArrayRecord"),
    "boundaries": ("evaluate_boundaries", "the boundary score of saved predictions"),
    "plan": ("plan", "a training step compiled for a pod that need not exist"),
    "benchmark": ("benchmark", "step time, images/s and memory of a recipe"),
    "latency": ("latency", "milliseconds a prediction takes: our own call, StableHLO, ONNX Runtime"),
    "benchmark-data": ("benchmark_data", "throughput of the input pipeline"),
    "compare": ("compare", "methods against each other over several seeds"),
    "study": ("study", "what each part of the method is worth, over several seeds"),
    "write-rooms": ("write_rooms", "the embedded data set as files of another"),
}
"""By name: the module, in the package or among the tools, and what it is for."""


def end(number: int, frame: object) -> None:
    """Ends the process for a signal, in one line: for the seconds in which modules are imported."""
    os.write(2, b"error: interrupted; run the same command to go on\n")
    os._exit(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("sak-jax COMMAND ..; `sak-jax COMMAND --help` tells its flags\n")
        print("\n".join(f"  {name.ljust(width)}  {purpose}" for name, (_, purpose) in COMMANDS.items()))
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}: it is one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if name == "evaluate":
        rest = ["--mode=evaluate", *rest]
    module = COMMANDS[name][0]
    sys.argv[0] = f"sak-jax {name}"  # What --help calls it.
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        found = importlib.import_module(module) if "." in module else tool(module)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return found.main(rest)


def tool(name: str):
    """A tool's module: as it was installed with the package, or from a checkout.

    Raises:
      UserError: it is in neither.
    """
    installed = f"sak_jax.tools.{name}"
    if importlib.util.find_spec("sak_jax.tools") and importlib.util.find_spec(installed):
        return importlib.import_module(installed)
    file = Path(__file__).parents[1] / "tools" / f"{name}.py"
    if not file.is_file():
        raise UserError(f"the tool {name} was not installed with the package: install sak_jax again")
    sys.path.insert(0, str(file.parent))  # As when the file itself is run.
    return importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
