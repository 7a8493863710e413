"""Measure how fast a recipe is: forward pass, inference, training steps; beside the published code, or piece by piece.

    python tools/benchmark.py --config=configs/nyud.py --config.teachers.random=True
    python tools/benchmark.py --config=configs/nyud.py --config.teachers.random=True --reference=CLONE --batches=2
    python tools/benchmark.py --config=configs/nyud.py --config.teachers.random=True --work=student --without=all

Everything runs on random images and labels of the recipe's shapes: no data is read, and with `--config.teachers.random`
no weights are wanted. `--reference` names a clone of https://github.com/innovator-zero/SAK, whose code then takes turns
with ours, at the same sizes and precision (on a GPU: ours in bfloat16 by `--config.dtype=bfloat16`, theirs by autocast
to float16, as it trains); it needs PyTorch and timm. `--without` switches single optimisations off. Whoever is timed
has a process of its own, so that memory is its own. They take turns, both on the device; with `--apart`, and always on
a TPU, which one process holds, one is done and gone before the next begins.

TFLOP/s counts the matrix products and convolutions that are needed: what is recomputed to save memory does not count.
MFU is their share of the rate of a product of large random matrices, measured in the same run, and of the data sheet's
in bfloat16; over several devices, of all of them.
On a CPU the matrices and the peak are of all cores that the process may use (`taskset -c 0` leaves one).
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from sak_jax import cli, paths, recipe
from sak_jax.benchmark import ablations, processes, published, work
from sak_jax.benchmark.processes import Contestant
from sak_jax.engine import flops
from sak_jax.errors import UserError

WITHOUT = tuple(ablations.ABLATIONS)


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each work, batch and contestant."""
    parser = cli.Parser(__doc__)
    known = "forward, inference, student (a training step, features given), or a stage's name; default: all"
    parser.add_argument("--work", metavar="NAME,..", help=f"what is timed: {known}")
    parser.add_argument("--batches", metavar="N,..", help="images a step (default: the recipe's batch size)")
    parser.add_argument(
        "--rounds", type=cli.count, default=3, help="turns of each contestant; the median counts (default %(default)s)"
    )
    parser.add_argument("--steps", type=cli.count, default=5, help="steps of a turn (default %(default)s)")
    parser.add_argument("--without", metavar="NAME,..", help=f"optimisations to switch off: all, {', '.join(WITHOUT)}")
    parser.add_argument("--reference", metavar="CLONE", help="a clone of the published code, to be timed as well")
    parser.add_argument("--apart", action="store_true", help="one after another, each with the device to itself")
    parser.add_argument("--output", metavar="FILE.json", help="where to write the figures")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    # Side by side on one device, so none may take all of its memory at the start.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    options, config = parser.parse_recipe(argv)
    names, batches = _names(parser, options, config), _batches(parser, options, config)
    without = _without(parser, options)
    with Contestant(processes.devices, ()) as asked:  # This process holds no device: a TPU is one process's.
        found = asked.ask("figures")
    recipe.check(config, found["count"])
    if options.reference:
        published.check_clone(options.reference)
    output = None if options.output is None else paths.check_output(options.output, force=options.force)
    print(f"{found['count']} x {found['device']}, jax {metadata.version('jax')}, {config.dtype}", flush=True)
    apart = options.apart or found["platform"] == "tpu"
    figures = []
    for name in names:
        for batch in batches:
            for contestants in _heats(config, name, batch, without, options.reference):
                rows = _heat(contestants, options.rounds, options.steps, apart=apart)
                for (who, _), row in zip(contestants.items(), rows, strict=True):
                    if row.get("device", found["device"]) != found["device"]:
                        row = {"failed": f"it ran on {row['device']}, as the device was not to be had"}
                    row = {"work": name, "batch": batch, "who": who, **_rates(row, batch)}
                    figures.append(row)
                    print(_line(row), flush=True)
    if output is not None:
        paths.write_text(output, json.dumps(figures, indent=2) + "\n")


def _names(parser, options, config) -> list[str]:
    known = work.names(config)
    if not config.tasks:
        known = tuple(name for name in known if name != "inference")
    names = options.work.split(",") if options.work else list(known)
    for name in names:
        if name not in known:
            parser.error(f"--work={name}: this recipe has {', '.join(known)}")
    return names


def _batches(parser, options, config) -> list[int]:
    given = options.batches or str(config.batch_size)
    batches = [int(text) if text.isdigit() else 0 for text in given.split(",")]
    if min(batches) < 1:
        parser.error(f"--batches={given} must be positive numbers, as 4,8")
    return batches


def _without(parser, options) -> list[str]:
    names = list(WITHOUT) if options.without == "all" else (options.without or "").split(",")
    for name in filter(None, names):
        if name not in WITHOUT:
            parser.error(f"--without={name} must be all or some of {', '.join(WITHOUT)}")
    return [name for name in names if name]


def _heats(config, name: str, batch: int, without: list[str], clone: str | None):
    """Who runs against whom: the whole of ours, and the published code or one that lacks something."""
    values = recipe.ordered(config)
    whole = processes.ours, (values, name, batch)
    if not clone and not without:
        yield {"ours": whole}
    if clone:
        heat = {"ours": whole}
        if name in published.WORK:
            heat["published"] = processes.published, (_theirs(config, clone, name, batch),)
        yield heat
    for lacking in without:
        yield {"ours": whole, f"without {lacking}": (processes.ours, (values, name, batch, lacking))}


def _theirs(config, clone: str, name: str, batch: int) -> dict:
    teachers = {key: row["model"] for key, row in recipe.teachers(config).items() if isinstance(row, dict)}
    aligned = any(not model.endswith(f"_{config.model.stem}") for model in teachers.values())
    return {
        "clone": clone, "name": name, "data": config.data.name, "stem": config.model.stem, "teachers": teachers,
        "aligned": aligned, "batch": batch, "single": config.dtype == "float32",
    }  # fmt: skip


def _heat(contestants: dict, rounds: int, steps: int, *, apart: bool) -> list[dict]:
    """Each contestant's figures, or what went wrong with it."""
    groups = [[given] for given in contestants.values()] if apart else [list(contestants.values())]
    rows = [row for group in groups for row in _together(group, rounds, steps)]
    for row in rows[1:]:
        if "seconds" in row and "seconds" in rows[0]:
            row["times"] = row["seconds"] / rows[0]["seconds"]
            row.setdefault("gigaflops", rows[0]["gigaflops"])
    return rows


def _together(contestants: Sequence[tuple], rounds: int, steps: int) -> list[dict]:
    """The figures of some that take turns."""
    rows = []
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(Contestant(*given)) for given in contestants]
        failed: dict[int, str] = {}

        def each(act):
            for index, contestant in enumerate(running):
                if index not in failed:
                    try:
                        act(contestant)
                    except UserError as error:
                        failed[index] = str(error)

        each(lambda contestant: contestant.ask("ready"))
        for _ in range(rounds):
            each(lambda contestant: contestant.time(steps))
        for index, contestant in enumerate(running):
            if index in failed:
                rows.append({"failed": failed[index]})
            else:
                rows.append({"seconds": contestant.median, **contestant.ask("figures")})
    return rows


def _rates(row: dict, batch: int) -> dict:
    """What follows from seconds and operations."""
    row = dict(row)
    if "seconds" in row:
        row["images_per_second"] = batch / row["seconds"]
        row["teraflops_per_second"] = row["gigaflops"] / 1e3 / row["seconds"]
        rate = row["teraflops_per_second"] * 1e12 / row.get("devices", 1)
        if row.get("matrix_rate"):
            row["mfu_measured"] = rate / row["matrix_rate"]
        peak = flops.PEAKS.get(row.get("device"))
        if peak and row.get("dtype") == "bfloat16":
            row["mfu_datasheet"] = rate / peak
    return row


def _line(row: dict) -> str:
    start = f"{row['work']}, batch {row['batch']}, {row['who']}: "
    if "failed" in row:
        return start + row["failed"]
    words = {
        "seconds": "{:.4g} s",
        "images_per_second": "{:.4g} images/s",
        "times": "{:.3g} x ours",
        "teraflops_per_second": "{:.3g} TFLOP/s",
        "mfu_measured": "{:.1%} of the measured rate",
        "mfu_datasheet": "{:.1%} of the data sheet's",
        "peak_gibibytes": "peak {:.3g} GiB",
        "program_gibibytes": "program {:.3g} GiB",
        "compile_seconds": "compile {:.3g} s",
    }
    return start + ", ".join(text.format(row[key]) for key, text in words.items() if row.get(key) is not None)


if __name__ == "__main__":
    sys.exit(main())
