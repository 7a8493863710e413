"""Open a page in the browser that predicts the pictures that are dropped on it.

    python tools/demo.py [--checkpoint=DIR] [--host=127.0.0.1] [--port=7860]

--checkpoint is what `sak_jax.load` takes; without it, the small student that comes with the package. The page
shows every task, a slider between picture and prediction, and what each task took from the stem and from each teacher.
It asks nothing of the network but this server. Pictures may have any size up to 50 MB, and keep it. Needs
`pip install 'sak_jax[demo]'`.
"""

import os
import sys
from collections.abc import Sequence
from html import escape
from typing import Any

from sak_jax import cli
from sak_jax.errors import UserError

LEAST_WIDTH = 480
"""Narrower pictures are enlarged under the slider, pixel by pixel."""

STYLE = """
.heats { display: flex; flex-wrap: wrap; gap: 1.5rem }
.heats table { border-collapse: separate; border-spacing: 2px; font-variant-numeric: tabular-nums }
.heats caption { font-weight: 600; text-align: left }
.heats th { font-weight: 400; padding: 2px 8px; text-align: left }
.heats td { background: color-mix(in srgb, #1f77b4 var(--v), transparent); padding: 4px 10px; text-align: right }
.heats td.high { color: white }
footer { display: none !important }
"""


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", default="rooms", metavar="DIR", help="what holds the student")
    parser.add_argument("--best", action="store_true", help="of a workdir the checkpoint with the highest score")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 shows the page to other machines too")
    parser.add_argument("--port", type=cli.count, default=7860)
    options = parser.parse_args(argv)
    if options.port > 65535:
        raise UserError(f"--port={options.port}: ports end at 65535")
    if not options.host:  # Which would be every address of the machine.
        raise UserError("--host is empty (an unset variable?): give an address, or leave it out for 127.0.0.1")
    _gradio()
    import sak_jax

    page = build(sak_jax.load(options.checkpoint, best=options.best))
    try:
        print(f"open {launch(page, options.host, options.port)} in a browser; Ctrl-C ends it", flush=True)
        page.block_thread()
    finally:
        page.close(verbose=False)


def build(student) -> Any:
    """The page of a student, as gradio's `Blocks`.

    Args:
      student: a `Predictor`.

    Raises:
      UserError: the student has no tasks.
    """
    gradio = _gradio()
    names = [task.name for task in student.tasks]
    if not names:
        raise UserError("this student has no tasks, as after a distillation: give one that was trained on tasks")
    from sak_jax import hub

    def predict(picture: str | None, task: str):
        if picture is None:
            return None, [], "", {}
        try:
            slides, gallery, routing = show(student, picture)
        except UserError as error:
            words = str(error).replace(picture, os.path.basename(picture))
            raise gradio.Error(escape(words), print_exception=False) from error  # A toast takes its words for HTML.
        return slides[task], gallery, routing, slides

    with gradio.Blocks(title="sak_jax", analytics_enabled=False) as page:
        slides = gradio.State({})
        with gradio.Row():
            with gradio.Column():
                picture = gradio.Image(
                    str(hub.SCENE),
                    label="Picture",
                    sources=["upload", "clipboard"],
                    elem_id="picture",
                )
                # The file as it is, which `sak_jax.pictures` reads by rules of its own, and complains of in one line.
                picture.preprocess = lambda given: None if given is None else given.path
                task = gradio.Radio([(name, name) for name in names], value=names[0], label="Task", elem_id="task")
            slider = gradio.ImageSlider(
                label="Picture and prediction", format="png", interactive=False, elem_id="slider"
            )
        gallery = gradio.Gallery(
            label="Every task", format="png", columns=3, height="auto", object_fit="contain", elem_id="gallery"
        )
        routing = gradio.HTML(elem_id="routing")
        given = {"inputs": [picture, task], "outputs": [slider, gallery, routing, slides]}
        picture.change(predict, **given, show_progress="minimal", api_visibility="private")
        page.load(predict, **given, api_visibility="private")
        choose = lambda found, name: found.get(name)  # noqa: E731
        task.change(choose, [slides, task], slider, show_progress="hidden", api_visibility="private")
    return page


def launch(page, host: str, port: int) -> str:
    """Serves a page of `build` and returns its address; other threads serve it.

    Raises:
      UserError: the port is taken.
    """
    gradio = _gradio()
    # Fonts of the machine itself: the usual themes fetch theirs.
    theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=theme,
            css=STYLE,
            max_file_size="50mb",
            footer_links=[],
        )
    except OSError as error:
        raise UserError(f"--port={port} of --host={host} can't be had: give another ({error})") from error
    return address


def show(student, picture: str) -> tuple[dict[str, tuple], list[tuple], str]:
    """What the page shows of a picture.

    Args:
      student: a `Predictor`.
      picture: a file.

    Returns:
      By task the picture and its prediction of one size; every task drawn with its legend, and its name; the routers'
      weights as HTML.

    Raises:
      UserError: the picture can't be read.
    """
    from sak_jax import drawing, pictures

    original = pictures.read(picture)
    prediction = student.predict(original)
    below = drawing.enlarged(original, LEAST_WIDTH)
    slides = {name: (below, drawing.enlarged(result.draw(), LEAST_WIDTH)) for name, result in prediction.items()}
    gallery = [(drawing.draw(result), name) for name, result in prediction.items()]
    return slides, gallery, routing_tables(prediction.routing, student.experts)


def routing_tables(routing: dict[str, Any], experts: Sequence[str]) -> str:
    """The routers' weights as HTML, a table a task: a row a level, a column an expert."""
    from sak_jax.report import elements

    if not routing:
        return "<p>This student has no routers.</p>"
    tables = [elements.heat_table(task, rows.tolist(), list(experts), "level") for task, rows in routing.items()]
    words = "What each task takes from the stem and from each teacher's path, at each level; a row sums to one."
    return f'<p>{words}</p><div class="heats">{"".join(tables)}</div>'


def _gradio():
    """The package, told to keep to itself.

    Raises:
      UserError: it is missing.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise UserError("the demo needs gradio: pip install 'sak_jax[demo]'") from error
    return gradio


if __name__ == "__main__":
    sys.exit(main())
