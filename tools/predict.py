"""Predict pictures and videos with a trained student.

    python tools/predict.py --checkpoint=DIR --images PATH.. --output=DIR [--raw] [--resize=H,W] [--tile=N] [--batch=N]

--checkpoint is a workdir, one checkpoint in it, a folder of `save_pretrained`, a repository of the Hugging Face Hub, or
`rooms`, the small student that comes with the package. PATH is a picture, a video, a folder or a pattern ("*.jpg");
without --images a picture that comes with the package is predicted. DIR gets a montage of all tasks, NAME.png, and a
picture a task, TASK/NAME.png; of videos .mp4. With --raw also the values, NAME.npz (`semseg/classes`, `depth/metres`,
..).

Pictures may have any size and keep it. A file that can't be read is skipped, a video that is cut is predicted as far
as it goes, and the exit status is 1.
"""

import os
import re
import sys
from collections.abc import Sequence

from sak_jax import cli
from sak_jax.errors import EndedEarly, UserError


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="what holds the student")
    parser.add_argument("--images", nargs="+", metavar="PATH", help="pictures, videos, folders, patterns")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder for the results")
    parser.add_argument("--raw", action="store_true", help="write the values too, as .npz")
    parser.add_argument("--resize", metavar="H,W", help="scale pictures to fit into H x W before they are shown")
    parser.add_argument("--tile", metavar="N|H,W", help="cut larger pictures into tiles of this side")
    parser.add_argument("--batch", type=cli.count, default=8, metavar="N", help="pictures that are computed together")
    parser.add_argument("--best", action="store_true", help="of a workdir the checkpoint with the highest score")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args(argv)
    resize = _sides(options.resize, "resize", (2,))
    tile = _sides(options.tile, "tile", (1, 2))
    from sak_jax import hub, paths, prediction_files

    output = prediction_files.Output(paths.given(options.output), options.raw, options.force)
    inputs = prediction_files.find(options.images or [str(hub.SCENE)], output.folder)
    output.check(inputs)
    student = hub.load(options.checkpoint, best=options.best)
    import jax

    if student.config.compilation_cache and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(student.config.compilation_cache))
    output.check(inputs, [task.name for task in student.tasks])
    try:
        count = prediction_files.predict(student, inputs, output, options.batch, resize=resize, tile=tile)
    except KeyboardInterrupt as error:
        raise EndedEarly(f"interrupted; what is in {output.folder} is whole, --force writes it again") from error
    print(f"wrote the predictions of {count} file{'s' * (count > 1)} to {output.folder}")


def _sides(text: str | None, flag: str, counts: Sequence[int]) -> tuple[int, int] | None:
    """Height and width as they are written; one number is both, where that is allowed."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) not in counts or not all(re.fullmatch(r"0*[1-9][0-9]{0,5}", part) for part in parts):
        raise UserError(f"--{flag}={text}: give HEIGHT,WIDTH in pixels, such as 448,576")
    return int(parts[0]), int(parts[-1])


if __name__ == "__main__":
    sys.exit(main())
