"""Measure how long a prediction takes: our own jitted call, the exported StableHLO, ONNX Runtime.

    python tools/latency.py [--recipes RECIPE ..] [--batches=1,8] [--runtimes=jax,stablehlo,onnx] [--repeats=10]
        [--output=FILE.json [--force]]

Students have fresh weights, on which no time depends; without --recipes they are those of NYUD-v2 with the stems small,
base and large (four tasks, three teachers' paths, 448 x 576 pixels). Images are float32, normalised and already on the
device; a time ends when all tasks' raw outputs are there. Each student and runtime has a process of its own, which
makes two calls before those that are timed; the table shows the median, the file the fastest too.
"""

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from sak_jax import cli, paths, recipe
from sak_jax.errors import UserError

RECIPES = ("nyud:stem=small", "nyud:stem=base", "nyud:stem=large,teachers=large")
RUNTIMES = {"jax": "jitted call", "stablehlo": "StableHLO", "onnx": "ONNX Runtime"}


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table in Markdown."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="RECIPE", help="whose students are measured")
    parser.add_argument("--batches", default="1,8", metavar="N,..", help="images in a call (default %(default)s)")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), help="which of %(default)s")
    parser.add_argument("--repeats", type=cli.count, default=10, help="calls that are timed (default %(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="where to write the figures")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    options = parser.parse_args(argv)
    runtimes = options.runtimes.split(",")
    unknown = [name for name in runtimes if name not in RUNTIMES]
    if unknown:
        raise UserError(f"--runtimes={options.runtimes}: {unknown[0]!r} is none of {', '.join(RUNTIMES)}")
    batches = options.batches.split(",")
    if not all(batch.isascii() and batch.isdigit() and int(batch) for batch in batches):
        raise UserError(f"--batches={options.batches}: give positive numbers, such as 1,8")
    for text in options.recipes:
        recipe.load(text)  # A mistake is told before anything is measured.
    output = None if options.output is None else paths.check_output(options.output, force=options.force)
    batches = [int(batch) for batch in batches]
    rows = []
    for text in options.recipes:
        for runtime in runtimes:
            rows.append({"recipe": text, "runtime": runtime} | apart(text, runtime, batches, options.repeats))
            print(f"{text}, {RUNTIMES[runtime]}: {_cells(rows[-1], batches)}", file=sys.stderr)
    print(table(rows, batches))
    if output is not None:
        try:
            paths.write_text(output, json.dumps(rows, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"--output={output} can't be written ({paths.reason(error, output)})") from error


def apart(text: str, runtime: str, batches: Sequence[int], repeats: int) -> dict:
    """`measure` in a process of its own, whose memory is free afterwards; what can't be measured says why."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, text, runtime, batches, repeats).result()
        except UserError as error:
            return {"missing": str(error)}
        except BrokenProcessPool:
            return {"missing": "its process was killed: there is too little memory for it"}


def measure(text: str, runtime: str, batches: Sequence[int], repeats: int) -> dict:
    """Seconds a call by batch size, with the size of the image, the device and the versions.

    Raises:
      UserError: the student can't be exported, or a package is missing.
    """
    import jax
    import numpy as np

    import sak_jax

    config = recipe.load(text)
    call, versions = runner(sak_jax.build(config), tuple(config.image_size), runtime)
    found = {"image_size": list(config.image_size), "device": device(runtime), "versions": versions, "seconds": {}}
    for batch in batches:
        images = np.random.default_rng(0).normal(size=(batch, *config.image_size, 3)).astype(np.float32)
        images = images if runtime == "onnx" else jax.device_put(images)
        times = []
        for _ in range(2 + repeats):
            started = time.perf_counter()
            call(images)
            times.append(time.perf_counter() - started)
        times = times[2:]
        found["seconds"][batch] = {"median": statistics.median(times), "least": min(times)}
    return found


def runner(student, image_size: tuple[int, int], runtime: str) -> tuple[Callable, dict[str, str]]:
    """A call that ends when its results are there, and the versions of what computes it."""
    import jax

    from sak_jax import export

    if runtime == "jax":
        jitted = jax.jit(lambda student, images: student(images).predictions)
        return lambda images: jax.block_until_ready(jitted(student, images)), {"jax": jax.__version__}
    if runtime == "stablehlo":
        content = export.stablehlo(student, image_size)
        loaded = jax.jit(jax.export.deserialize(bytearray(content)).call)
        return lambda images: jax.block_until_ready(loaded(images)), {"jax": jax.__version__}
    content = export.onnx(student, image_size)
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("onnxruntime is missing: pip install 'sak_jax[export]'") from error
    session = onnxruntime.InferenceSession(content, providers=_providers())
    return lambda images: session.run(None, {"images": images}), {"onnxruntime": onnxruntime.__version__}


def device(runtime: str) -> str:
    """What computes: an accelerator, or the processor."""
    import jax

    from sak_jax.report import machine

    if runtime == "onnx":
        if len(_providers()) > 1:
            return _providers()[0]
    elif jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    return machine.processor()


def _providers() -> list[str]:
    """What ONNX Runtime computes with: an NVIDIA GPU where its package supports one, and the processor."""
    import onnxruntime

    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in wanted if name in onnxruntime.get_available_providers()]


def table(rows: Sequence[dict], batches: Sequence[int]) -> str:
    """The medians in milliseconds, and below them what they were measured on."""
    head = ["student", "image", "runtime", *(f"batch {batch}, ms" for batch in batches)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        size = " x ".join(map(str, row["image_size"])) if "image_size" in row else ""
        lines.append(f"| {row['recipe']} | {size} | {RUNTIMES[row['runtime']]} | {_cells(row, batches)} |")
    known = {}
    for row in rows:
        if "device" in row:
            known |= {row["device"]: None} | {f"{name} {version}": None for name, version in row["versions"].items()}
    notes = [f"{row['recipe']}, {RUNTIMES[row['runtime']]}: {row['missing']}" for row in rows if "missing" in row]
    return "\n".join([*lines, "", ", ".join(known), *notes])


def _cells(row: dict, batches: Sequence[int]) -> str:
    if "missing" in row:
        return " | ".join("-" for _ in batches)
    return " | ".join(f"{1000 * row['seconds'][batch]['median']:.3g}" for batch in batches)


if __name__ == "__main__":
    sys.exit(main())
