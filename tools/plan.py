"""Plan a pod without a pod: compile a recipe's very training step for it, and tell memory, traffic and time.

    python tools/plan.py --config=configs/imagenet.py --topology=v5e:4x4 --batch_per_device=16 --config.dtype=bfloat16
    python tools/plan.py --config=configs/nyud.py --devices=8 [--config.mesh.fsdp=4 ..]

`--topology` is a TPU slice, by libtpu's compiler (`pip install 'jax[tpu]'`), which needs no TPU; `--devices` simulates
so many on this machine's processor, and gives no times. No weights and no data are read. `--output` keeps the figures,
and each collective with the operation that it serves. Bytes are of one device. Times are the least that the chip's data
sheet allows for the step's arithmetic, memory traffic and links, and hours are those of the recipe's whole stage: a
real step takes longer. Evaluation is not planned. `--recommend` tries images a device, fsdp and recomputation, and
names the fastest that fits; each attempt is compiled.
"""

import json
import os
import sys
from collections.abc import Sequence

from sak_jax import cli, paths
from sak_jax.errors import UserError

STAGES = ("distill", "multitask")


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures of each stage."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--topology", metavar="v5e:4x4", help="a TPU slice: v5e:2x2 .. v5e:16x16, v5p:2x2x4, v6e:4x4")
    parser.add_argument("--devices", type=cli.count, metavar="N", help="simulated devices instead")
    parser.add_argument("--stage", choices=STAGES, help="one stage alone (default: all that the recipe has)")
    parser.add_argument(
        "--batch_per_device", type=cli.count, metavar="N", help="images a device (default: the recipe's batch)"
    )
    parser.add_argument("--recommend", action="store_true", help="try batch, fsdp and recomputation")
    parser.add_argument("--largest", type=cli.count, default=64, help="images a device that --recommend tries")
    parser.add_argument("--output", metavar="FILE.json", help="where to write the figures")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    prepare(sys.argv[1:] if argv is None else argv)
    options, config = parser.parse_recipe(argv)
    if (options.topology is None) == (options.devices is None):
        parser.error("give --topology=v5e:4x4, or --devices=8 for simulated ones")
    output = None if options.output is None else paths.check_output(options.output, force=options.force)

    devices, chip = find_devices(options)
    print(f"{options.topology or 'simulated'}: {len(devices)} devices")
    plans = {}
    for name in stage_names(config, options.stage):
        if options.recommend:
            plans[name] = recommended(config, name, devices, chip, options.largest)
        else:
            figures = planned(config, name, devices, chip, options.batch_per_device)
            print("\n".join(lines(name, figures)), flush=True)
            plans[name] = figures.plain()
    if output is not None:
        values = {"config": options.config, "overrides": options.overrides, "topology": options.topology}
        paths.write_text(output, json.dumps(values | {"stages": plans}, indent=2) + "\n")


def prepare(arguments: Sequence[str]) -> None:
    """Sets what JAX and libtpu read when they are imported: no device is looked for, and no lock is taken."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled"}
    quiet = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_STDERR_LOG_LEVEL": "3"}
    for name, value in quiet.items():  # Else libtpu complains that there is no TPU.
        os.environ.setdefault(name, value)
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag == "--devices" and value.isdigit():
            given = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count={value}".strip()


def find_devices(options) -> tuple[list, object]:
    """The devices to plan for, and what they can do.

    Raises:
      UserError: there are none such.
    """
    import jax

    from sak_jax.engine import planning

    if options.topology:
        return planning.devices_of(options.topology), planning.CHIPS[options.topology.partition(":")[0]]
    if jax.device_count() < options.devices:
        raise UserError(
            f"--devices={options.devices}: JAX was started with {jax.device_count()} before this was called"
        )
    return jax.devices()[: options.devices], None


def stage_names(config, wanted: str | None) -> list[str]:
    """The stages to plan, in their order.

    Raises:
      UserError: the recipe has no such stage.
    """
    names = [name for name in STAGES if name in config and config[name].steps]
    if wanted and wanted not in names:
        raise UserError(
            f"--stage={wanted}: the recipe has {' and '.join(names)}, set --config.{wanted}.steps to add it"
        )
    return [wanted] if wanted else names


def planned(config, name: str, devices: list, chip, per_device: int | None = None, fsdp: int = 0, remat=None):
    """A stage's figures; the stage has the recipe's number of images, however many a step takes.

    Raises:
      UserError: the recipe cannot be run on so many devices.
    """
    from sak_jax import methods, recipe
    from sak_jax.engine import mesh as meshes
    from sak_jax.engine import planning

    images = config.batch_size * config[name].steps
    config = recipe.from_dict(recipe.plain(config))
    if per_device:
        config.batch_size = per_device * len(devices) * config[name].accumulate
    if fsdp:
        config.mesh.data, config.mesh.fsdp = -1, fsdp
    if remat is not None:
        config.model.remat = remat
    config.eval_batch_size = len(devices)
    if chip and not recipe.teachers(config).get("dtype", "float32"):
        config.teachers.dtype = "bfloat16"  # As on an accelerator.
    recipe.check(config, len(devices))
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    stages = methods.get(config.method).stages
    stage = next(stage for stage in stages(config) if stage.name == name)
    plain = None
    if config.model.get("attention", "auto") != "auto":
        config.model.attention = "xla"
        plain = next(stage for stage in stages(config) if stage.name == name)
    steps = -(-images // config.batch_size)
    return planning.measure(stage, mesh, recipe.ordered(config.mesh.placement), chip, steps, plain)


def recommended(config, name: str, devices: list, chip, largest: int) -> dict:
    """Tries ways to run a stage, prints each and the best, and returns them as JSON has them."""
    from sak_jax import recipe
    from sak_jax.engine import planning

    key = recipe.keys_of(config)["model"].get("remat")
    remat = (None,) if key is None else key.choices or (False, True)
    shared = sorted({1, *(size for size in (4, 8, 16) if len(devices) % size == 0 and size <= len(devices))})

    def tell(attempt: planning.Attempt) -> None:
        figures = attempt.figures
        speed = f", {figures.images_per_second:.0f} images/s" if figures.images_per_second else ""
        fits = f"{amount(figures.peak)}{speed}" if figures.fits else f"lacks {amount(figures.over)}"
        print(f"{name}: {attempt.per_device} a device, fsdp {attempt.fsdp}, remat {attempt.remat}: {fits}", flush=True)

    measure = lambda per_device, fsdp, remat: planned(config, name, devices, chip, per_device, fsdp, remat)  # noqa: E731
    best, tried = planning.recommend(measure, shared, remat, largest, tell)
    if best is None:
        print(f"{name}: nothing that was tried fits; take more devices")
    else:
        batch = best.per_device * len(devices) * config[name].accumulate
        print(f"{name}: best is --config.batch_size={batch} --config.mesh.fsdp={best.fsdp}", end="")
        print(f" --config.model.remat={best.remat}" if best.remat is not None else "")
        print("\n".join(lines(name, best.figures)), flush=True)
    plain = [vars(attempt) | {"figures": attempt.figures.plain()} for attempt in tried]
    return {"best": plain[tried.index(best)] if best else None, "tried": plain}


def lines(name: str, figures) -> list[str]:
    """The figures of a stage for a reader."""
    per_device = figures.batch / figures.devices
    found = [
        f"{name}: batch {figures.batch} ({per_device:g} a device), mesh {figures.data} x {figures.fsdp}, "
        f"compiled in {figures.compile_seconds:.0f} s"
    ]
    parts = {"parameters": figures.parameters, "optimiser": figures.optimizer, "teachers": figures.teachers}
    if figures.temporaries is not None:
        parts["activations"] = figures.temporaries
    held = ", ".join(f"{part} {amount(size)}" for part, size in parts.items())
    room = f" of {amount(figures.memory)}" if figures.memory else ""
    verdict = "fits" if figures.fits else f"does NOT fit: {amount(figures.over)} are lacking"
    if figures.fits and figures.memory and figures.peak > figures.memory:
        verdict = "fits, says the compiler, which has arrays share memory that this sum counts twice"
    found.append(f"  memory       {held}; peak {amount(figures.peak)}{room}{': ' + verdict if room else ''}")
    found.append(
        f"  arithmetic   {figures.flops / 1e12:.4g} TFLOP a step, {figures.flops / figures.devices / 1e12:.4g} a device"
    )
    if figures.collectives is not None:
        kinds = [f"{row.count} {kind} {amount(row.bytes)}" for kind, row in sorted(figures.collectives.items())]
        found.append(f"  collectives  {', '.join(kinds) or 'none'}; memory traffic {amount(figures.memory_traffic)}")
    if figures.seconds:
        bound = max(figures.seconds, key=figures.seconds.get)
        times = ", ".join(f"{part} {1e3 * value:.3g} ms" for part, value in figures.seconds.items())
        found.append(f"  time         at least {times}: {figures.images_per_second:.0f} images/s, bound by {bound}")
        hours = f"at least {figures.hours:.3g} hours, {figures.chip_hours:.4g} chip-hours"
        found.append(f"  stage        {figures.steps} steps, {hours}")
    return found


def amount(size: float) -> str:
    """Bytes for a reader."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
