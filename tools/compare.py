"""Compare SAK with its baselines on one recipe, and with other recipes, several seeds each, and print the table.

    python tools/compare.py --config=configs/rooms.py [--seeds=3] [--jobs=1] [--output=DIR] [--config.KEY=VALUE ..]
        [--methods=sak,multitask] [--recipe="configs/rooms_dune.py:projector=mlp" ..]

Runs, each in its own workdir under the output (a finished one is not run again), or those that `--methods` names:

  single-TASK  one student a task, nothing distilled: the baseline of Delta_m
  multitask    one student for all tasks, nothing distilled
  sak          both stages
  no-router    stage 2 with the plain sum of all experts, from the same stage 1 as `sak`

and each `--recipe`, which has the same tasks: a recipe, and after it `--config.KEY=VALUE`s of its own. Without
single-task the baselines of Delta_m are the recipe's.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from tqdm import tqdm

from sak_jax import cli, paths
from sak_jax import recipe as recipes
from sak_jax.errors import EndedEarly, UserError
from sak_jax.tasks import delta_m, select

METHODS = ("single-task", "multitask", "no-router", "sak")


def launch(command: list[str], running: list[subprocess.Popen]) -> subprocess.CompletedProcess:
    """A command's end and what it said; while it runs it is the last of `running`."""
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


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table and writes `comparison.json`."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--output", metavar="DIR", help="default: runs/compare/NAME")
    parser.add_argument("--methods", default=",".join(METHODS), help="which of those above; '' for none")
    parser.add_argument(
        "--recipe", action="append", default=[], dest="recipes", help="another one, any number of times"
    )
    options, config = parser.parse_recipe(argv)
    for flag in ("seeds", "jobs"):
        if getattr(options, flag) < 1:
            parser.error(f"--{flag}={getattr(options, flag)} must be 1 or more")
    methods = [name for name in options.methods.split(",") if name]
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise UserError(f"--methods={options.methods}: {unknown[0]} is none of {', '.join(METHODS)}")
    if "no-router" in methods and "sak" not in methods:
        raise UserError("--methods: no-router starts from the first stage of sak; name both")
    output = paths.given(options.output or f"runs/compare/{recipes.name_of(options.config)}")
    table = paths.check_output(output / "comparison.json", force=True)
    tasks = select(recipes.ordered(config.tasks))

    running: list[subprocess.Popen] = []

    def plan(seed: int, name: str, recipe: str, *extra: str) -> tuple[epath.Path, list[str]]:
        """A run's workdir, and what `sak_jax.main` is to be told; nothing where the run has finished."""
        workdir = output / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', name)}-{seed}"
        overrides = [*options.overrides, f"--config.seed={seed}", *extra]
        if (workdir / "results.json").exists():
            scores_of(workdir)
            recipes.check_workdir(recipes.load(recipe, overrides), workdir)
            return workdir, []
        return workdir, [f"--config={recipe}", f"--workdir={workdir}", *overrides]

    def train(seed: int, name: str, recipe: str, *extra: str) -> dict[str, float]:
        """One run's scores; trains only if it has not finished."""
        workdir, arguments = plan(seed, name, recipe, *extra)
        if arguments:
            command = [sys.executable, "-m", "sak_jax.main", *arguments]
            done = launch(command, running)
            if done.returncode:
                lines = [line for line in done.stdout.splitlines() if line.strip()] or ["without a word"]
                kind = UserError if done.returncode == 2 else EndedEarly
                raise kind(f"{workdir}: the run ended with {lines[-1].removeprefix('error: ')}; {shlex.join(command)}")
        return scores_of(workdir)

    def by(method: str) -> str:
        """The recipe carried out by a method."""
        return f"{options.config}{',' if ':' in options.config else ':'}method={method}"

    def distilled(seed: int) -> dict[str, dict]:
        """`sak`, and `no-router` from its first stage."""
        scores = {"sak": train(seed, "sak", by("sak"))}
        if "no-router" in methods:
            first_stage = output / f"sak-{seed}" / "checkpoints" / "distill"
            newest = max(int(step.name) for step in first_stage.iterdir() if step.name.isdigit())
            start = (f"--config.init_from={first_stage / str(newest)}", "--config.distill.steps=0")
            scores["no-router"] = train(seed, "no-router", by("sak"), *start, "--config.model.router=none")
        return scores

    alone = [f"single-{task.name}" for task in tasks] if "single-task" in methods else []
    others = {text: shlex.split(text) for text in options.recipes}
    jobs = []
    for seed in range(options.seeds):
        # Another recipe's run is told before the first one starts.
        for method in (*(name for name in ("sak", "multitask") if name in methods), *alone):
            plan(seed, method, by(method))
        for name, (recipe, *extra) in others.items():
            known = select(recipes.ordered(recipes.load(recipe, [*options.overrides, *extra]).tasks))
            if [task.name for task in known] != [task.name for task in tasks]:
                raise UserError(f"--recipe={name}: its tasks are not those of {options.config}")
            plan(seed, name, recipe, *extra)
        if "sak" in methods:
            jobs.append((seed, lambda seed=seed: distilled(seed)))
        if "multitask" in methods:
            jobs.append((seed, lambda seed=seed: {"multitask": train(seed, "multitask", by("multitask"))}))
        for method in alone:
            jobs.append((seed, lambda seed=seed, method=method: {"single-task": train(seed, method, by(method))}))
        for name, words in others.items():
            jobs.append((seed, lambda seed=seed, name=name, words=words: {name: train(seed, name, *words)}))
    names = [*(name for name in METHODS if name in methods), *others]
    scores: dict[str, list[dict]] = {name: [{} for _ in range(options.seeds)] for name in names}
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            done = pool.map(lambda job: (job[0], job[1]()), jobs)
            for seed, results in tqdm(done, total=len(jobs), desc="runs", disable=None):
                for name, values in results.items():
                    scores[name][seed] |= values
        except BaseException:  # Of one run, or a signal: the others save and end, the same command goes on.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                if process.poll() is None:
                    process.terminate()
            raise
    _report(scores, [f"{task.name}/{task.metric}" for task in tasks], recipes.ordered(config.baselines), table)


def _report(scores: dict[str, list[dict]], keys: list[str], given: dict[str, float], file: epath.Path) -> None:
    """Prints the table of means over seeds, and writes it beside the single runs' scores.

    Args:
      scores: of each row and seed.
      keys: of the scores.
      given: baselines where there are no runs of single tasks.
      file: where it is written.
    """
    for name, rows in scores.items():
        for seed, row in enumerate(rows):
            missing = [key for key in keys if row.get(key) is None]
            if missing:
                raise UserError(
                    f"{file.parent}: {name} with seed {seed} has no score {missing[0]}: nothing valid to compare"
                )
    alone = scores.get("single-task")
    baselines = {key: float(np.mean([row[key] for row in alone])) if alone else given.get(key) for key in keys}
    if None in baselines.values():
        raise UserError("there is no baseline for every task: set config.baselines, or run --methods=single-task,..")
    table = {}
    for name, rows in scores.items():
        deltas = [delta_m(row, baselines) for row in rows]
        table[name] = {key: float(np.mean([row[key] for row in rows])) for key in keys}
        table[name] |= {"delta_m": float(np.mean(deltas)), "delta_m_std": float(np.std(deltas))}
    print("| method | " + " | ".join(keys) + " | Delta_m % |")
    print("|---" * (len(keys) + 2) + "|")
    for name, row in table.items():
        cells = " | ".join(f"{row[key]:.4g}" for key in keys)
        print(f"| {name} | {cells} | {row['delta_m']:+.2f} ± {row['delta_m_std']:.2f} |")
    words = "the single-task means" if alone else "the recipe's scores"
    print(f"\nMeans of {len(next(iter(scores.values())))} seeds; {words} are the baselines of Delta_m.")
    paths.write_text(file, json.dumps({"table": table, "runs": scores}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
