"""Predictions of files: finding pictures and videos, and writing what a student says of them."""

import contextlib
import dataclasses
import fnmatch
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from sak_jax import drawing, paths, pictures, videos
from sak_jax.data import files
from sak_jax.errors import EndedEarly, UserError
from sak_jax.predict import Prediction, Predictor
from sak_jax.report.record import png

MOST_PIXELS = 4_000_000
"""Of pictures that are predicted together: the raw results of all are in memory, a float a pixel and channel."""
MOST_BYTES = 200
"""Of the names of outputs, without numbers and endings."""


@dataclasses.dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
      path: where it is.
      name: what its outputs are called.
    """

    path: epath.Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is read as a video, by its ending."""
        return self.path.suffix.lower() in videos.ENDINGS


def find(given: Sequence[str], output: epath.Path | None = None) -> list[Input]:
    """The pictures and videos that a user names: files, folders (with all below them) and patterns.

    A path that is there is taken as it is, whatever characters it has. In others `*`, `?` and `[..]` match within a
    name, and `**` any folders. Hidden files, and in folders those that are neither pictures nor videos by their
    endings, are left out. A folder that is met again by a link is not read again. One that can't be read is given
    itself, so that `predict` tells of it.

    Args:
      given: what the user names.
      output: a folder that is left out where it lies below those that are named.

    Raises:
      UserError: one names nothing.
    """
    found: dict[str, str] = {}  # path -> name; a file is predicted once
    for text in given:
        path = paths.given(text)
        if path.is_dir():
            files_below = _matching(path, ("**",), output)
            inside = [(file, "-".join(file.parts[len(path.parts) :]) or path.name) for file in files_below]
            if not inside:
                raise UserError(f"{text} holds neither pictures nor videos: give another folder, or files by name")
        elif path.exists():
            inside = [(path, path.name)]
        else:
            fixed = next(
                (index for index, part in enumerate(path.parts) if re.search(r"[*?\[]", part)), len(path.parts)
            )
            folder = epath.Path(*path.parts[:fixed]) if fixed else epath.Path(".")
            inside = [(file, file.name) for file in _matching(folder, path.parts[fixed:], output)]
            if not inside:
                raise UserError(f"{text}: no such file or folder, and no pattern that matches pictures")
        for file, name in inside:
            found.setdefault(os.fspath(file), _short(os.path.splitext(name)[0]))
    names: set[str] = set()
    inputs = []
    for path, name in found.items():
        numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        unused = next(each for each in numbered if each not in names)
        names.add(unused)
        inputs.append(Input(epath.Path(path), unused))
    return inputs


def _short(name: str) -> str:
    """The end of a name, which tells most, so that endings and numbers can follow (file systems take 255 bytes)."""
    content = os.fsencode(name)
    return name if len(content) <= MOST_BYTES else content[-MOST_BYTES:].decode(errors="ignore").lstrip(".")


def _is_input(path: epath.Path) -> bool:
    return files.is_image(path.name) or path.suffix.lower() in videos.ENDINGS and not path.name.startswith(".")


def _identity(path: epath.Path) -> object:
    """What all paths to a file or folder share: through links, and where a file system ignores case."""
    if paths.is_remote(path):
        return os.fspath(path)
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _matching(folder: epath.Path, patterns: Sequence[str], output: epath.Path | None) -> Iterator[epath.Path]:
    """The pictures and videos in a folder whose parts of the path below it fit patterns."""
    if not folder.is_dir():
        return iter(())
    top, done = _identity(folder), set()
    left_out = _identity(output) if output is not None and output.exists() else None

    def walk(folder: epath.Path, patterns: Sequence[str]) -> Iterator[epath.Path]:
        here = _identity(folder)
        if not patterns or (here, len(patterns)) in done or here == left_out != top:
            return
        done.add((here, len(patterns)))
        first, rest = patterns[0], patterns[1:]
        if first == "**" and rest:
            yield from walk(folder, rest)
        try:
            children = sorted(folder.iterdir())
        except OSError:
            yield folder
            return
        for child in children:
            fits = first == "**" or fnmatch.fnmatchcase(child.name, first)
            if child.is_dir():
                if fits and not child.name.startswith("."):
                    yield from walk(child, patterns if first == "**" else rest)
            elif fits and not rest and _is_input(child):
                yield child

    return walk(folder, patterns)


@dataclasses.dataclass(frozen=True)
class Output:
    """Where predictions are written: `NAME.png` (all tasks), `TASK/NAME.png`, and `NAME.npz` on request.

    Of a video these are `.mp4`, and the arrays of each frame are `NAME/000000.npz`.

    Attributes:
      folder: for all of them.
      raw: whether arrays are written too.
      force: whether files that are there may be replaced.
    """

    folder: epath.Path
    raw: bool = False
    force: bool = False

    def check(self, inputs: Sequence[Input], tasks: Iterable[str] = ()) -> None:
        """Makes sure that what is to be written can be.

        Raises:
          UserError: a file is there already or is an input, or the folder can't be written.
        """
        sources = {_identity(one.path) for one in inputs if one.path.exists()}
        for number, one in enumerate(inputs):
            ending = "mp4" if one.is_video else "png"
            targets = [f"{one.name}.{ending}", *(f"{task}/{one.name}.{ending}" for task in tasks)]
            targets += [f"{one.name}/000000.npz" if one.is_video else f"{one.name}.npz"] if self.raw else []
            for target in targets:
                file = self.folder / target
                there = file.exists()
                if there and _identity(file) in sources:
                    raise UserError(f"{file} is an input; give another --output")
                if number == 0 or there and not self.force:
                    paths.check_output(file, force=self.force)

    def write(self, target: str, content: bytes) -> None:
        """A file of the folder, whole or not at all; UserError where it can't be written."""
        try:
            paths.write_bytes(self.folder / target, content)
        except OSError as error:
            raise UserError(
                f"{self.folder / target} can't be written ({paths.reason(error, self.folder)}): give another --output"
            ) from error


def predict(student: Predictor, inputs: Sequence[Input], output: Output, batch: int = 8, **options: Any) -> int:
    """Predicts files and writes the results, with a progress bar; one that can't be read is told in a line.

    Args:
      student: predicts.
      inputs: files, see `find`.
      output: where results go.
      batch: pictures, or frames, that are read together, at most; of no more than `MOST_PIXELS`, or a single one.
      options: those of `Predictor.predict`.

    Returns:
      How many files were predicted.

    Raises:
      EndedEarly: some could not be read, or a video not to its end; all others are written.
      UserError: results can't be written, or an option is wrong.
    """
    done = 0
    with tqdm(total=len(inputs), unit="file", disable=None) as bar:
        for name, picture, prediction in _predictions(student, _pictures(inputs, bar), batch, **options):
            drawn, montage = drawing.draw_all(picture, prediction)
            for task, one in drawn.items():
                output.write(f"{task}/{name}.png", png(one))
            if output.raw:
                output.write(f"{name}.npz", _arrays(prediction))
            output.write(f"{name}.png", png(montage))
            del prediction  # Large, and else kept while the next ones are computed.
            done += 1
            bar.update()
        for one in (one for one in inputs if one.is_video):
            with _told(bar, one, videos.VideoError), contextlib.closing(videos.Reader(one.path)) as frames:
                _predict_video(student, frames, one.name, output, batch, **options)
                if frames.lost:
                    bar.write(f"cut short: {one.path}: its last {frames.lost} frames can't be read", file=sys.stderr)
                done += not frames.lost
                bar.update()
    if done < len(inputs):
        raise EndedEarly(f"{len(inputs) - done} of {len(inputs)} files could not be predicted as a whole, see above")
    return done


@contextlib.contextmanager
def _told(bar: tqdm, one: Input, errors: type[UserError]) -> Iterator[None]:
    """Makes a line of an error, which names the input."""
    try:
        yield
    except errors as error:
        text = " ".join(str(error).removeprefix(f"{one.path}: ").split())
        bar.write(f"skipped: {one.path}: {text}", file=sys.stderr)
        bar.update()


def _pictures(inputs: Sequence[Input], bar: tqdm) -> Iterator[tuple[str, pictures.Picture]]:
    for one in inputs:
        if not one.is_video:
            with _told(bar, one, UserError):
                yield one.name, pictures.read(one.path)


def _predictions(
    student: Predictor, named: Iterator[tuple[str, pictures.Picture]], batch: int, **options: Any
) -> Iterator[tuple[str, pictures.Picture, Prediction]]:
    """Adds predictions, which are computed some at a time and let go of one by one."""
    following = next(named, None)
    while following is not None:
        chunk, pixels = [], 0
        while following is not None and len(chunk) < batch:
            height, width = following[1].shape[:2]
            pixels += height * width
            if chunk and pixels > MOST_PIXELS:
                break
            chunk.append(following)
            following = next(named, None)
        predictions = student.predict([picture for _, picture in chunk], batch=batch, **options)
        while chunk:
            yield (*chunk.pop(0), predictions.pop(0))


def _predict_video(
    student: Predictor, frames: videos.Reader, name: str, output: Output, batch: int, **options: Any
) -> None:
    """Writes the results of a video; depths keep the colours of the first frame."""
    with tempfile.TemporaryDirectory() as folder, tqdm(desc=name, unit="frame", leave=False, disable=None) as bar:
        writers: dict[str, videos.Writer] = {}
        farthest = None
        numbered = ((f"{number:06d}", frame) for number, frame in enumerate(frames))
        for number, picture, prediction in _predictions(student, numbered, batch, **options):
            farthest = farthest or {task: drawing.farthest_of(prediction[task]) for task in prediction}
            drawn, montage = drawing.draw_all(picture, prediction, farthest)
            targets = {f"{name}.mp4": montage} | {f"{task}/{name}.mp4": one for task, one in drawn.items()}
            for index, (target, one) in enumerate(targets.items()):
                if target not in writers:
                    writers[target] = videos.Writer(os.path.join(folder, f"{index}.mp4"), frames.rate)
                writers[target].write(one)
            if output.raw:
                output.write(f"{name}/{number}.npz", _arrays(prediction))
            del prediction  # As of pictures.
            bar.update()
        for target, writer in reversed(writers.items()):  # The montage last, as of pictures.
            output.write(target, writer.close())


def _arrays(prediction: Prediction) -> bytes:
    """A .npz file: `TASK/VALUE` of every decoded value, and `routing/TASK`."""
    arrays = {f"{task}/{name}": value for task, result in prediction.items() for name, value in result.values.items()}
    arrays |= {f"routing/{task}": value for task, value in prediction.routing.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
