"""Make a checkpoint of ours from a published PyTorch one: a student of SAK (either stage), DUNE or UNIC.

    python tools/import_pytorch.py --config=configs/nyud.py --input=sak.pth --output=DIR [--config.KEY=VALUE ..]

The recipe must be the file's: image size, teachers (names and order), tasks; with `configs/dune.py` it becomes so by
itself. DIR then serves `sak_jax.load`, `--config.init_from` and, as a workdir, `--mode=evaluate`. A file with low-rank
updates wants `--config.model.lora.rank` and `.alpha`; `--merge_lora` adds them into the kernels. `--weights=ema` says
which weights are meant in a file that holds several.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--input", metavar="FILE", required=True, help="published checkpoint, .pth or .safetensors")
    parser.add_argument("--output", metavar="DIR", required=True, help="a new folder")
    parser.add_argument("--merge_lora", action="store_true", help="add low-rank updates into the kernels")
    parser.add_argument("--weights", metavar="WHICH", default="", help="of a file that holds several: ema, model, ..")
    options, config = parser.parse_recipe(argv)
    from sak_jax.methods import published  # After parsing: a mistyped flag is told before JAX is imported.

    stage = published.of_method(config.method).import_student(
        config, options.input, options.output, merge=options.merge_lora, weights=options.weights
    )
    print(f"wrote the {stage} student of {options.input} to {options.output}")


if __name__ == "__main__":
    sys.exit(main())
