"""Several runs over several seeds, each in a workdir and a process of its own, resumable; their scores as a table."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from etils import epath
from tqdm import tqdm

from sak_jax import recipe as recipes
from sak_jax.errors import EndedEarly, UserError
from sak_jax.tasks import delta_m


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is run once a seed.

    Attributes:
      name: names its workdirs, `NAME-SEED`.
      recipe: what `--config` is given.
      overrides: `--config.KEY=VALUE`s of its own.
      start: the arm from whose first stage, of the same seed, it starts; "" for its own.
      row: of the table; several arms that score different tasks share one. "" is the name.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    start: str = ""
    row: str = ""


Scores = dict[str, list[dict[str, float]]]
"""Of each row, one dict of scores a seed."""


def run(arms: Sequence[Arm], seeds: int, jobs: int, output: epath.Path, overrides: Sequence[str]) -> Scores:
    """Runs what has not finished, and gives all scores.

    Args:
      arms: in the order of their rows; one that starts from another needs that one among them.
      seeds: how many, from 0 on.
      jobs: runs at a time.
      output: folder of the workdirs.
      overrides: of all arms; an arm's own count more.

    Raises:
      UserError: a workdir is another recipe's, before anything starts; or a run has a mistake that it names.
      EndedEarly: a run failed otherwise; holds its last line.
    """
    by_name = {arm.name: arm for arm in arms}
    # An arm after the one that it starts from, which waits for none: no job waits for one that comes later.
    order = sorted(arms, key=lambda arm: bool(arm.start))
    planned = [(arm, seed, _plan(by_name, arm, seed, output, overrides)) for seed in range(seeds) for arm in order]
    scores: Scores = {arm.row or arm.name: [{} for _ in range(seeds)] for arm in arms}
    started: dict[tuple[str, int], Future] = {}
    running: list[subprocess.Popen] = []
    with ThreadPoolExecutor(jobs) as pool:
        for arm, seed, (workdir, arguments) in planned:
            before = started.get((arm.start, seed))
            started[arm.name, seed] = pool.submit(_train, workdir, arguments, before, running)
        try:
            for arm, seed, _ in tqdm(planned, desc="runs", disable=None):
                scores[arm.row or arm.name][seed] |= started[arm.name, seed].result()
        except BaseException:  # Of one run, or a signal: the others save and end, the same command goes on.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                if process.poll() is None:
                    process.terminate()
            raise
    return scores


def workdir_of(name: str, seed: int, output: epath.Path) -> epath.Path:
    """Where an arm's run lies."""
    return output / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', name)}-{seed}"


def _plan(
    arms: Mapping[str, Arm], arm: Arm, seed: int, output: epath.Path, overrides: Sequence[str]
) -> tuple[epath.Path, list[str]]:
    """A run's workdir, and what `sak_jax.main` is to be told; nothing where the run has finished."""
    workdir = workdir_of(arm.name, seed, output)
    given = [*overrides, f"--config.seed={seed}", *arm.overrides]
    if arm.start:
        first = arms[arm.start]
        config = recipes.load(first.recipe, [*overrides, *first.overrides])
        start = workdir_of(first.name, seed, output) / "checkpoints" / "distill" / str(config.distill.steps)
        given += [f"--config.init_from={start}", "--config.distill.steps=0"]
    config = recipes.load(arm.recipe, given)
    if (workdir / "results.json").exists():
        scores_of(workdir)
        recipes.check_workdir(config, workdir)
        return workdir, []
    return workdir, [f"--config={arm.recipe}", f"--workdir={workdir}", *given]


def launch(command: list[str], running: list[subprocess.Popen]) -> subprocess.CompletedProcess:
    """A command's end and what it said; while it runs it is among `running`."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        running.append(process)
        said, _ = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, said)


def scores_of(workdir: epath.Path) -> dict[str, float]:
    """The scores of a finished run; raises UserError where its results cannot be read."""
    file = workdir / "results.json"
    try:
        found = json.loads(file.read_text())["metrics"]
        return {str(name): value if value is None else float(value) for name, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} cannot be read as results ({error}): remove it to have them again") from error


def _train(
    workdir: epath.Path, arguments: list[str], before: Future | None, running: list[subprocess.Popen]
) -> dict[str, float]:
    """One run's scores; trains only if it has not finished, and after what it starts from."""
    if before is not None:
        before.result()
    if arguments:
        command = [sys.executable, "-m", "sak_jax.main", *arguments]
        done = launch(command, running)
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.strip()] or ["without a word"]
            kind = UserError if done.returncode == 2 else EndedEarly
            raise kind(f"{workdir}: the run ended with {lines[-1].removeprefix('error: ')}; {shlex.join(command)}")
    return scores_of(workdir)


def baselines(scores: Scores, keys: Sequence[str], row: str, given: Mapping[str, float]) -> dict[str, float]:
    """What Delta_m compares with: the means of a row, or the recipe's where there is no such row.

    Raises:
      UserError: a score has none.
    """
    alone = scores.get(row)
    found = {key: float(np.mean([one[key] for one in alone])) if alone else given.get(key) for key in keys}
    if None in found.values():
        raise UserError(f"there is no baseline for every task: set config.baselines, or run {row} too")
    return found


def check(scores: Scores, keys: Sequence[str], output: epath.Path) -> None:
    """Makes sure that every run has every score.

    Raises:
      UserError: names the run that lacks one.
    """
    for name, rows in scores.items():
        for seed, row in enumerate(rows):
            missing = [key for key in keys if row.get(key) is None]
            if missing:
                raise UserError(
                    f"{output}: {name} with seed {seed} has no score {missing[0]}: nothing valid to compare"
                )


def summary(scores: Scores, keys: Sequence[str], compared: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Of each row the mean over seeds of every score and of `delta_m`, and its deviation as `KEY_std`."""
    table = {}
    for name, rows in scores.items():
        values = {key: [row[key] for row in rows] for key in keys}
        values["delta_m"] = [delta_m({key: row[key] for key in keys}, compared) for row in rows]
        table[name] = {key: float(np.mean(each)) for key, each in values.items()}
        table[name] |= {f"{key}_std": float(np.std(each)) for key, each in values.items()}
    return table


def markdown(
    table: Mapping[str, Mapping[str, float]], keys: Sequence[str], cell: Callable[[Mapping[str, float], str], str]
) -> str:
    """The table of a summary, a row a method; `cell` writes a score."""
    lines = ["| method | " + " | ".join(keys) + " | Delta_m % |", "|---" * (len(keys) + 2) + "|"]
    for name, row in table.items():
        cells = " | ".join(cell(row, key) for key in keys)
        lines.append(f"| {name} | {cells} | {row['delta_m']:+z.2f} ± {row['delta_m_std']:.2f} |")
    return "\n".join(lines)
