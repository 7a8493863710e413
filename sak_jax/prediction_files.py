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


def find(given: Sequence[str]) -> list[Input]:
    """The pictures and videos that a user names: files, folders (with all below them) and patterns.

    A path that is there is taken as it is, whatever characters it has. In others `*`, `?` and `[..]` match within a
    name, and `**` any folders. Hidden files, and in folders those that are neither pictures nor videos by their
    endings, are left out.

    Raises:
      UserError: one names nothing.
    """
    found: dict[str, str] = {}  # path -> name; a file is predicted once
    for text in given:
        path = paths.given(text)
        if path.is_dir():
            inside = [(file, "-".join(file.parts[len(path.parts) :])) for file in _below(path) if _is_input(file)]
            if not inside:
                raise UserError(f"{text} holds neither pictures nor videos: give another folder, or files by name")
        elif path.exists():
            inside = [(path, path.name)]
        else:
            inside = [(file, file.name) for file in _matching(path)]
            if not inside:
                raise UserError(f"{text}: no such file or folder, and no pattern that matches pictures")
        for file, name in inside:
            found.setdefault(os.fspath(file), os.path.splitext(name)[0])
    names: set[str] = set()
    inputs = []
    for path, name in found.items():
        unused = next(each for each in _numbered(name) if each not in names)
        names.add(unused)
        inputs.append(Input(epath.Path(path), unused))
    return inputs


def _numbered(name: str) -> Iterator[str]:
    return itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))


def _is_input(path: epath.Path) -> bool:
    return files.is_image(path.name) or path.suffix.lower() in videos.ENDINGS and not path.name.startswith(".")


def _below(folder: epath.Path) -> Iterator[epath.Path]:
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from _below(child)
        elif not child.is_dir():
            yield child


def _matching(pattern: epath.Path) -> list[epath.Path]:
    """The pictures and videos that a pattern names."""
    parts = pattern.parts
    fixed = next((index for index, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if fixed is None:
        return []
    folder = epath.Path(*parts[:fixed]) if fixed else epath.Path(".")
    if not folder.is_dir():
        return []
    depth = len(folder.parts)
    return [file for file in _below(folder) if _is_input(file) and _fits(file.parts[depth:], parts[fixed:])]


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[skipped:], patterns[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


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
          UserError: a file is there already, or the folder can't be written.
        """
        for number, one in enumerate(inputs):
            ending = "mp4" if one.is_video else "png"
            targets = [f"{one.name}.{ending}", *(f"{task}/{one.name}.{ending}" for task in tasks)]
            targets += [f"{one.name}/000000.npz" if one.is_video else f"{one.name}.npz"] if self.raw else []
            for target in targets:
                if number == 0 or not self.force and (self.folder / target).exists():
                    paths.check_output(self.folder / target, force=self.force)

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
      batch: pictures, or frames, that are read together.
      options: those of `Predictor.predict`.

    Returns:
      How many files were predicted.

    Raises:
      EndedEarly: some could not be read; all others are written.
      UserError: results can't be written, or an option is wrong.
    """
    done = 0
    with tqdm(total=len(inputs), unit="file", disable=None) as bar:
        for chunk in _batches([one for one in inputs if not one.is_video], batch):
            read = {}
            for one in chunk:
                with _told(bar, UserError):
                    read[one.name] = pictures.read(one.path)
            predictions = student.predict(list(read.values()), batch=batch, **options)
            for (name, picture), prediction in zip(read.items(), predictions, strict=True):
                drawn, montage = drawing.draw_all(picture, prediction)
                for task, one in drawn.items():
                    output.write(f"{task}/{name}.png", png(one))
                if output.raw:
                    output.write(f"{name}.npz", _arrays(prediction))
                output.write(f"{name}.png", png(montage))
            done += len(read)
            bar.update(len(chunk))
        for one in (one for one in inputs if one.is_video):
            with _told(bar, videos.Unreadable), contextlib.closing(videos.Reader(one.path)) as frames:
                _predict_video(student, frames, one.name, output, batch, **options)
                done += 1
            bar.update()
    if done < len(inputs):
        raise EndedEarly(f"{len(inputs) - done} of {len(inputs)} files could not be read, see above")
    return done


@contextlib.contextmanager
def _told(bar: tqdm, errors: type[UserError]) -> Iterator[None]:
    """Makes a line of an error."""
    try:
        yield
    except errors as error:
        bar.write(f"skipped: {' '.join(str(error).split())}", file=sys.stderr)


def _predict_video(
    student: Predictor, frames: videos.Reader, name: str, output: Output, batch: int, **options: Any
) -> None:
    """Writes the results of a video; depths keep the colours of the first frame."""
    with tempfile.TemporaryDirectory() as folder:
        writers: dict[str, videos.Writer] = {}
        farthest, number = {}, 0
        with tqdm(desc=name, unit="frame", leave=False, disable=None) as bar:
            for chunk in _batches(iter(frames), batch):
                for picture, prediction in zip(chunk, student.predict(chunk, batch=batch, **options), strict=True):
                    farthest = farthest or {task: drawing.farthest_of(prediction[task]) for task in prediction}
                    drawn, montage = drawing.draw_all(picture, prediction, farthest)
                    targets = {f"{name}.mp4": montage} | {f"{task}/{name}.mp4": one for task, one in drawn.items()}
                    for index, (target, one) in enumerate(targets.items()):
                        if target not in writers:
                            writers[target] = videos.Writer(os.path.join(folder, f"{index}.mp4"), frames.rate)
                        writers[target].write(one)
                    if output.raw:
                        output.write(f"{name}/{number:06d}.npz", _arrays(prediction))
                    number += 1
                bar.update(len(chunk))
        for target, writer in reversed(writers.items()):  # The montage last, as of pictures.
            output.write(target, writer.close())


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _arrays(prediction: Prediction) -> bytes:
    """A .npz file: `TASK/VALUE` of every decoded value, and `routing/TASK`."""
    arrays = {f"{task}/{name}": value for task, result in prediction.items() for name, value in result.values.items()}
    arrays |= {f"routing/{task}": value for task, value in prediction.routing.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
