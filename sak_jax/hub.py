"""Students as folders that others can load: weights, recipe and model card, on disk or on the Hugging Face Hub."""

import json
import os
import re
import shlex
import tempfile
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from sak_jax import model_card, paths, predict, recipe
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError
from sak_jax.predict import Predictor
from sak_jax.report import record
from sak_jax.weights import files, states

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = 1

BUNDLED = epath.resource_path("sak_jax") / "students"
"""The students that come with the package, a folder each."""
SCENE = BUNDLED / "scene.png"
"""A picture for the student `rooms`."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_ABOUT = ("metrics", "steps", "seconds", "teachers_random", "command", "versions")
_FOLDERS = re.compile(r"(^|(?<=[=:,(\['\"]))(\w+:/|~[^/]*)?/(?:[^/,:=]*/)*")
"""The folders of a path from the root, from `~` or of an address, in a text that may hold more than it."""
_PLACED = re.compile(r"--?(?:workdir|config\.(?:.*\.)?(.*))")


def load(name: str | os.PathLike, *, best: bool = False, revision: str | None = None) -> Predictor:
    """A trained student, ready to predict, from wherever it is; `print` shows what it is.

    Args:
      name: a workdir, or one checkpoint in it; what `sak-jax import` made of a published file; a folder that
        `save_pretrained` wrote; `rooms`, which comes with the package; or a repository `owner/name` of the Hugging Face
        Hub. Only the last needs a network. A path that exists is taken before a name.
      best: of a workdir the checkpoint with the highest score, instead of the newest.
      revision: a branch, tag or commit of a repository.

    Returns:
      `student(images) -> Outputs` in evaluation mode, jitted; `student.predict(picture)`; `student.config` is the
      recipe.

    Raises:
      UserError: there is no such student, or it can't be read or fetched; best or revision of what has none.
    """
    path, text = paths.given(name), os.fspath(name)
    shared = next((folder for folder in (path, BUNDLED / text) if (folder / WEIGHTS).is_file()), None)
    local = path.exists() or shared is not None
    if revision is not None and local:
        raise UserError(f"{name} is no repository of the Hub, and revision is of these alone: leave it out")
    if path.exists() and shared != path:
        if not path.is_dir():
            raise UserError(
                f"{name} is a file, and a student is a folder, its recipe beside its weights: of a published file "
                "`sak-jax import` makes one"
            )
        return predict.load(path, best=best)
    if best:
        raise UserError(f"{name} is no workdir, and best is of these alone: leave it out")
    if shared is not None:
        return _read(shared, text)
    if paths.is_remote(path) or not _REPOSITORY.fullmatch(text):
        known = ", ".join(sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir()))
        raise UserError(
            f"{name} is not there: give a workdir, a checkpoint, a folder of save_pretrained, a repository owner/name, "
            f"or one of {known}"
        )
    return _read(_fetch(text, revision), text)


from_pretrained = load
"""The same, under the name that the field knows."""


def save_pretrained(
    student: Predictor | str | os.PathLike,
    folder: epath.PathLike,
    *,
    half: bool = False,
    force: bool = False,
    name: str = "",
) -> epath.Path:
    """Writes a student as a folder that `from_pretrained` loads: weights, recipe, model card.

    Args:
      student: a loaded one, or what `load` takes.
      folder: for `model.safetensors`, `config.json` and `README.md`.
      half: store the weights in float16, half as large; they are computed with in the recipe's precision all the same.
      force: replace files that are there.
      name: the card's heading; "" is the folder's name.

    Returns:
      The folder.

    Raises:
      UserError: there is no such student, a file is there already or can't be written, or float16 can't hold a weight.
    """
    folder = paths.given(folder)
    for file in (WEIGHTS, CONFIG, CARD):
        paths.check_output(folder / file, force=force)
    student = student if isinstance(student, Predictor) else load(student)
    weights = {key: np.asarray(value) for key, value in _weights(student).items()}
    if half:
        weights = {key: value.astype(np.float16) for key, value in weights.items()}
        files.check_finite(weights, "the student in float16")
    config, about = _public(recipe.plain(student.config)), _about(student)
    about |= {"command": _public_command(about["command"])} if about.get("command") else {}
    content = {"sak_jax": FORMAT, "stage": student.stage, "recipe": config, "about": about}
    count = sum(value.size for value in weights.values())
    card = model_card.write(name or folder.name, config, student.stage, about, count)
    files.write_safetensors(folder / WEIGHTS, weights, {"format": "sak_jax"})
    try:
        paths.write_text(folder / CARD, card)
        paths.write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{folder} can't be written ({paths.reason(error, folder)}); give another place") from error
    return folder


def push_to_hub(
    student: Predictor | str | os.PathLike, repository: str, *, private: bool = False, half: bool = False
) -> str:
    """Uploads a student to the Hugging Face Hub; the repository is made where it is missing.

    Args:
      student, half: see `save_pretrained`.
      repository: `owner/name`.
      private: make a new repository private.

    Returns:
      The address of the commit.

    Raises:
      UserError: there is no such student, or the Hub refuses or can't be reached.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository!r} is no repository: give owner/name")
    import huggingface_hub

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(student, folder, half=half, name=repository, force=True)
        try:
            hub = huggingface_hub.HfApi()
            hub.create_repo(repository, private=private, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload a student of sak_jax"
            )
        except Exception as error:  # noqa: BLE001 - the client's and its HTTP library's own, all of them the network's
            raise UserError(
                f"{repository} can't be uploaded ({_reason(error)}): log in with `hf auth login`, and check the name"
            ) from error
    return commit.commit_url


def _public(value: Any, key: str = "") -> Any:
    """What a recipe's key holds without places of this machine: of starts and other paths the last part is left."""
    if isinstance(value, dict):
        return {name: _public(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_public(each, key) for each in value]
    if not isinstance(value, str):
        return value
    if key == "compilation_cache":
        return recipe.ENGINE[key].default
    if key in ("root", "dir"):
        return ""
    return PurePath(value).name if key in ("init_from", "stem_init") else _FOLDERS.sub("", value)


def _public_command(text: str) -> str:
    """A command line without `--workdir`, the keys that hold places of a machine, and the folders of files.

    A text that no shell would take is no command line of a run, and is left out.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        return ""
    kept = []
    while words:
        taken = [words.pop(0)]
        flag, equals, value = taken[0].partition("=")
        if known := _PLACED.fullmatch(flag):
            if not equals and words and not words[0].startswith("-"):
                taken.append(value := words.pop(0))
            if known[1] is None or _public(value, known[1]) != value:
                continue
        kept += [_FOLDERS.sub("", word) for word in taken]
    return shlex.join(kept)


def _weights(student: Predictor) -> dict[str, np.ndarray]:
    return states.export(student.student, states.own(student.student))


def _fetch(repository: str, revision: str | None) -> epath.Path:
    """The folder in the Hub's cache that holds a repository's student."""
    import huggingface_hub

    try:
        found = [huggingface_hub.hf_hub_download(repository, file, revision=revision) for file in (CONFIG, WEIGHTS)]
    except Exception as error:  # noqa: BLE001 - as above
        raise UserError(
            f"{repository} is no folder here, and the Hub does not give a student of that name ({_reason(error)}): "
            "check the name, or log in with `hf auth login` if it is private"
        ) from error
    return epath.Path(Path(found[0]).parent)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read(folder: epath.Path, name: str) -> Predictor:
    """The student of a folder that `save_pretrained` wrote."""
    try:
        content = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: its {CONFIG} can't be read ({_reason(error)}); fetch it again") from error
    if not isinstance(content, dict) or content.get("sak_jax") != FORMAT or not isinstance(content.get("stage"), str):
        raise UserError(f"{name} holds no student of sak_jax: its {CONFIG} was not written by save_pretrained")
    try:
        config = recipe.from_dict(content.get("recipe"))
    except UserError as error:
        raise UserError(f"{name}: {CONFIG}: {error}") from error
    student = predict.abstract_student(config, content["stage"])
    arrays = files.read_weights(folder / WEIGHTS)
    loaded = states.load(student, arrays, states.own(student), name=f"{name}: {WEIGHTS}")
    nnx.update(student, jax.device_put(loaded))
    return Predictor(student, config, content["stage"], folder)


def _about(student: Predictor) -> dict[str, Any]:
    """What is known of the run that made a student: of its scores only those of this very checkpoint."""
    source = student.source
    if source is None:
        return {}
    if (source / WEIGHTS).is_file():
        found = json.loads((source / CONFIG).read_text()).get("about")
        return found if isinstance(found, dict) else {}
    workdir = source.parent.parent.parent
    if source.parent.parent.name != checkpoints.FOLDER or not (workdir / "results.json").is_file():
        return {}
    run = record.collect(workdir)
    found = {"metrics": run.scores, "steps": run.steps, "seconds": run.seconds}
    newest = checkpoints.find(workdir) == source
    known = {"command": run.command, "versions": run.versions} | (found if newest else {})
    return {key: known[key] for key in _ABOUT if known.get(key) not in (None, "", {})}
