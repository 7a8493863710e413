"""Make a checkpoint of ours from a published PyTorch one, of either stage.

    python tools/import_pytorch.py --config=configs/nyud.py --input=sak.pth --output=DIR [--config.KEY=VALUE ..]

The recipe must be the file's: image size, teachers (names and order), tasks. DIR then serves `sak_jax.load`,
`--config.init_from` and, as a workdir, `--mode=evaluate`. A file with low-rank updates wants `--config.model.lora.rank`
and `.alpha`; `--merge_lora` adds them into the kernels.
"""

import sys

from absl import flags
from ml_collections import config_flags

from sak_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe.")
_INPUT = flags.DEFINE_string("input", None, "The published checkpoint, .pth or .safetensors.")
_OUTPUT = flags.DEFINE_string("output", None, "A new folder.")
_MERGE = flags.DEFINE_bool("merge_lora", False, "Add low-rank updates into the kernels.")


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        try:
            rest = flags.FLAGS(sys.argv)
            config = _CONFIG.value
        except (AttributeError, KeyError, TypeError, ValueError, OSError, flags.Error) as error:
            raise UserError(f"{error}") from error
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}: options are written --name=value")
        for name in ("config", "input", "output"):
            if flags.FLAGS[name].value is None:
                raise UserError(f"--{name} is missing; see --help")
        from sak_jax.convert import published  # After parsing: a mistyped flag is told before JAX is imported.

        stage = published.import_student(config, _INPUT.value, _OUTPUT.value, merge=_MERGE.value)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote the {stage} student of {_INPUT.value} to {_OUTPUT.value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
