"""Compare SAK with its baselines on one recipe, several seeds each, and print the table.

    python tools/compare.py --config=configs/rooms.py [--seeds=3] [--jobs=1] [--output=DIR] [--config.KEY=VALUE ..]

Runs, each in its own workdir under the output (a finished one is not run again):

  single-TASK  one student a task, nothing distilled: the baseline of Delta_m
  multitask    one student for all tasks, nothing distilled
  sak          both stages
  no-router    stage 2 with the plain sum of all experts, from the same stage 1 as `sak`
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sak_jax import cli
from sak_jax import recipe as recipes
from sak_jax.errors import UserError
from sak_jax.tasks import delta_m, select

METHODS = ("single-task", "multitask", "no-router", "sak")


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table and writes `comparison.json`."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/compare/NAME")
    options, config = parser.parse_recipe(argv)
    output = options.output or Path("runs/compare") / recipes.name_of(options.config)
    tasks = select(recipes.ordered(config.tasks))

    def plan(seed: int, name: str, method: str, *extra: str) -> tuple[Path, list[str]]:
        """A run's workdir, and what `sak_jax.main` is to be told; nothing where the run has finished."""
        workdir = output / f"{name}-{seed}"
        recipe = f"{options.config}{',' if ':' in options.config else ':'}method={method}"
        overrides = [*options.overrides, f"--config.seed={seed}", *extra]
        if (workdir / "results.json").exists():
            recipes.check_workdir(recipes.load(recipe, overrides), workdir)
            return workdir, []
        return workdir, [f"--config={recipe}", f"--workdir={workdir}", *overrides]

    def train(seed: int, name: str, method: str, *extra: str) -> dict[str, float]:
        """One run's scores; trains only if it has not finished."""
        workdir, arguments = plan(seed, name, method, *extra)
        if arguments:
            command = [sys.executable, "-m", "sak_jax.main", *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
        return json.loads((workdir / "results.json").read_text())["metrics"]

    def distilled(seed: int) -> dict[str, dict]:
        """`sak`, and `no-router` from its first stage."""
        scores = train(seed, "sak", "sak")
        first_stage = output / f"sak-{seed}" / "checkpoints" / "distill"
        newest = max(int(step.name) for step in first_stage.iterdir() if step.name.isdigit())
        start = (f"--config.init_from={first_stage / str(newest)}", "--config.distill.steps=0")
        return {"sak": scores, "no-router": train(seed, "no-router", "sak", *start, "--config.model.router=none")}

    jobs = []
    for seed in range(options.seeds):
        for method in ("sak", "multitask", *(f"single-{task.name}" for task in tasks)):
            plan(seed, method, method)  # Another recipe's run is told before the first one starts.
        jobs.append((seed, lambda seed=seed: distilled(seed)))
        jobs.append((seed, lambda seed=seed: {"multitask": train(seed, "multitask", "multitask")}))
        for task in tasks:
            method = f"single-{task.name}"
            jobs.append((seed, lambda seed=seed, method=method: {"single-task": train(seed, method, method)}))
    scores: dict[str, list[dict]] = {name: [{} for _ in range(options.seeds)] for name in METHODS}
    with ThreadPoolExecutor(options.jobs) as pool:
        done = pool.map(lambda job: (job[0], job[1]()), jobs)
        for seed, results in tqdm(done, total=len(jobs), desc="runs", disable=None):
            for name, values in results.items():
                scores[name][seed] |= values
    _report(scores, [f"{task.name}/{task.metric}" for task in tasks], output)


def _report(scores: dict[str, list[dict]], keys: list[str], output: Path) -> None:
    """Prints the table of means over seeds, and writes it beside the single runs' scores."""
    for name, rows in scores.items():
        for seed, row in enumerate(rows):
            missing = [key for key in keys if row.get(key) is None]
            if missing:
                raise UserError(
                    f"{output}: {name} with seed {seed} has no score {missing[0]}: nothing valid to compare"
                )
    baselines = {key: float(np.mean([row[key] for row in scores["single-task"]])) for key in keys}
    table = {}
    for name, rows in scores.items():
        deltas = [delta_m(row, baselines) for row in rows]
        table[name] = {key: float(np.mean([row[key] for row in rows])) for key in keys}
        table[name] |= {"delta_m": float(np.mean(deltas)), "delta_m_std": float(np.std(deltas))}
    print("| method | " + " | ".join(keys) + " | Delta_m % |")
    print("|---" * (len(keys) + 2) + "|")
    for name in METHODS:
        row = table[name]
        cells = " | ".join(f"{row[key]:.4g}" for key in keys)
        print(f"| {name} | {cells} | {row['delta_m']:+.2f} ± {row['delta_m_std']:.2f} |")
    print(f"\nMeans of {len(scores['sak'])} seeds; the single-task means are the baselines of Delta_m.")
    (output / "comparison.json").write_text(json.dumps({"table": table, "runs": scores}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
