"""Files below a folder that match a pattern: the pattern alone is one, the folder's own name is taken as it is."""

import dataclasses
import fnmatch
import os
from collections.abc import Iterator

from etils import epath

from sak_jax.data import files
from sak_jax.errors import UserError
from sak_jax.paths import is_remote

_MAGIC = frozenset("*?[")


@dataclasses.dataclass(frozen=True)
class Images:
    """What a pattern finds.

    Attributes:
      paths: of the images by id, in the order of ids: the path below the pattern's fixed part, without ending.
      left_out: files where the pattern looks that are images and differ from it in their ending alone, or match it and
        are none.
    """

    paths: dict[str, epath.Path]
    left_out: list[epath.Path]


def images(root: epath.Path, pattern: str, key: str) -> Images:
    """The images below `root` that `pattern` matches; hidden files are left out.

    `*`, `?` and `[..]` stand for letters of one name, `**` for any number of folders.

    Args:
      root: the folder.
      pattern: relative to it.
      key: where the pattern was set, for errors.

    Raises:
      UserError: a pattern that leaves the folder, or two images of one id.
    """
    parts = check_relative(pattern, key)
    fixed = next((number for number, part in enumerate(parts[:-1]) if _MAGIC & set(part)), len(parts) - 1)
    if parts[-1] == "**":
        parts = (*parts, "*")
    any_ending = _any_ending(parts[-1])
    paths, others = {}, {}
    for names in sorted(set(_walk(root, (), (*parts[:-1], any_ending), frozenset()))):
        path, name = root.joinpath(*names), names[-1]
        is_image = files.is_image(name) or "." not in name
        sample_id = os.path.splitext("/".join(names[fixed:]))[0]
        if not is_image or not _matches(name, parts[-1]):
            if is_image or _matches(name, parts[-1]):
                others[path] = sample_id
            continue
        if sample_id in paths:
            raise UserError(
                f"{paths[sample_id]} and {path} are both the image {sample_id!r}: rename one, or let {key} match "
                "one of them alone"
            )
        paths[sample_id] = path
    left_out = [path for path, sample_id in others.items() if sample_id not in paths]
    return Images(dict(sorted(paths.items())), left_out)


def check_relative(pattern: str, key: str) -> tuple[str, ...]:
    """The names in a path relative to `data.root`. Raises UserError if it is none, or leaves it."""
    parts = tuple(part for part in str(pattern).split("/") if part not in ("", "."))
    if not parts or str(pattern).startswith(("/", "~")) or is_remote(pattern) or ".." in parts or "\0" in pattern:
        raise UserError(f"{key}={pattern!r} must be a path below data.root: set data.root to a folder that holds it")
    return parts


def _any_ending(part: str) -> str:
    """A name's pattern with any ending in place of its own."""
    stem, dot, ending = part.rpartition(".")
    return f"{stem}.*" if dot and stem and "]" not in ending else part


def _matches(name: str, part: str) -> bool:
    return fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))


def _walk(
    folder: epath.Path, names: tuple[str, ...], parts: tuple[str, ...], above: frozenset[str]
) -> Iterator[tuple[str, ...]]:
    """Names, from the root on, of the files that match `parts`; a link must not lead back to the folders `above`."""
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _walk(folder, names, rest, above)
        above |= {os.path.realpath(folder)}
        for name, is_folder in entries(folder):
            if is_folder and not name.startswith(".") and os.path.realpath(folder / name) not in above:
                yield from _walk(folder / name, (*names, name), parts, above)
    elif rest and not _MAGIC & set(head):
        if (folder / head).is_dir():
            yield from _walk(folder / head, (*names, head), rest, above)
    else:
        for name, is_folder in entries(folder):
            if _matches(name, head) and is_folder == bool(rest):
                if rest:
                    yield from _walk(folder / name, (*names, name), rest, above)
                else:
                    yield (*names, name)


def entries(folder: epath.Path) -> list[tuple[str, bool]]:
    """Name, and whether it is a folder, of what lies in a folder, sorted; neither pipes nor devices."""
    try:
        if is_remote(folder):
            return sorted((path.name, path.is_dir()) for path in folder.iterdir())
        with os.scandir(folder) as found:
            return sorted((item.name, item.is_dir()) for item in found if item.is_symlink() or _is_plain(item))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror or error})") from error


def _is_plain(item: os.DirEntry) -> bool:
    return item.is_file() or item.is_dir()
