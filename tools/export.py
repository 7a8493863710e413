"""Write a trained student as a file that runs without sak_jax.

    python tools/export.py --checkpoint=DIR --output=student.stablehlo [--uint8]     for JAX: CPUs, GPUs and TPUs
    python tools/export.py --checkpoint=DIR --output=student.onnx [--uint8]          for ONNX Runtime and others

DIR is what `sak_jax.load` takes: a workdir, a checkpoint, a folder of `save_pretrained`, `rooms`. Either file takes
images [b, H, W, 3] of the recipe's size, any number at a time, and gives each task's raw output [b, H, W, channels].
Images are float32 and ImageNet-normalised, or with --uint8 as they are, 0..255. For one platform alone, with
--platforms=cpu, the StableHLO has what is fastest there, which the others may not know. In JAX:

    import jax
    predict = jax.export.deserialize(bytearray(open("student.stablehlo", "rb").read())).call
    depth = predict(images)["depth"]

ONNX needs the packages of the extra: pip install 'sak_jax[export]'.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="what holds the student")
    parser.add_argument("--output", required=True, metavar="FILE", help="ends in .stablehlo or .onnx")
    parser.add_argument("--uint8", action="store_true", help="the file takes uint8 images and normalises them itself")
    parser.add_argument("--platforms", metavar="NAME,..", help="of StableHLO: which of cpu,cuda,tpu (default: all)")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    options = parser.parse_args(argv)
    from sak_jax import paths
    from sak_jax.errors import UserError

    if not options.output.endswith((".stablehlo", ".onnx")):
        raise UserError(f"--output={options.output}: the name must end in .stablehlo or .onnx")
    onnx = options.output.endswith(".onnx")
    if onnx and options.platforms is not None:
        raise UserError("--platforms is for StableHLO: ONNX runs wherever its runtime does")
    output = paths.check_output(options.output, force=options.force)
    import sak_jax
    from sak_jax import export

    platforms = export.PLATFORMS if options.platforms is None else tuple(options.platforms.split(","))
    unknown = [name for name in platforms if name not in export.PLATFORMS]
    if unknown:
        raise UserError(f"--platforms={options.platforms}: {unknown[0]!r} is none of {', '.join(export.PLATFORMS)}")
    loaded = sak_jax.load(options.checkpoint)
    student, size = loaded.student, tuple(loaded.config.image_size)
    if onnx:
        content = export.onnx(student, size, preprocess=options.uint8)
    else:
        content = export.stablehlo(student, size, preprocess=options.uint8, platforms=platforms)
    try:
        paths.write_bytes(output, content)
    except OSError as error:
        raise UserError(f"--output={output} can't be written ({paths.reason(error, output)})") from error
    print(f"wrote {output} ({len(content) / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(main())
