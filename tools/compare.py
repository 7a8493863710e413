"""Compare SAK with its baselines on one recipe, several seeds each, and print the table.

    python tools/compare.py --config=configs/rooms.py --seeds=3 [--output=runs/compare] [--config.KEY=VALUE ..]

Runs, each in its own workdir under the output (a finished one is not run again):

  single-TASK  one student a task, nothing distilled: the baseline of Delta_m
  multitask    one student for all tasks, nothing distilled
  sak          both stages
  no-router    stage 2 with the plain sum of all experts, from the same stage 1 as `sak`
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sak_jax.metrics.delta_m import delta_m


def main() -> int:
    """Runs what is missing, then prints the table and writes `comparison.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/rooms.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/compare"))
    options, overrides = parser.parse_known_args()

    scores: dict[str, list[dict]] = {}
    for seed in tqdm(range(options.seeds), desc="seeds", disable=None):
        run = lambda name, *extra, method="sak", seed=seed: _run(  # noqa: E731
            options, f"{name}-{seed}", method, [f"--config.seed={seed}", *extra, *overrides]
        )
        sak = run("sak")
        first_stage = options.output / f"sak-{seed}" / "checkpoints" / "distill"
        handover = first_stage / str(max(int(step.name) for step in first_stage.iterdir() if step.name.isdigit()))
        rows = {
            "sak": sak,
            "no-router": run(
                "no-router", f"--config.init_from={handover}", "--config.distill.steps=0", "--config.model.router=none"
            ),
            "multitask": run("multitask", method="multitask"),
            "single-task": {},
        }
        for task in (key.split("/")[0] for key in sak):
            rows["single-task"] |= run(f"single-{task}", method=f"single-{task}")
        for name, row in rows.items():
            scores.setdefault(name, []).append(row)
    _report(scores, options.output)
    return 0


def _run(options, name: str, method: str, extra: list[str]) -> dict[str, float]:
    """One run's scores; trains only if it has not finished."""
    workdir = options.output / name
    if not (workdir / "results.json").exists():
        separator = "," if ":" in options.config else ":"
        command = [sys.executable, "-m", "sak_jax.main", f"--config={options.config}{separator}method={method}"]
        command += [f"--workdir={workdir}", *extra]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return json.loads((workdir / "results.json").read_text())["metrics"]


def _report(scores: dict[str, list[dict]], output: Path) -> None:
    keys = list(scores["sak"][0])
    baselines = {key: float(np.mean([row[key] for row in scores["single-task"]])) for key in keys}
    table = {}
    for name, rows in scores.items():
        deltas = [delta_m(row, baselines) for row in rows]
        table[name] = {key: float(np.mean([row[key] for row in rows])) for key in keys}
        table[name] |= {"delta_m": float(np.mean(deltas)), "delta_m_std": float(np.std(deltas))}
    print("| method | " + " | ".join(keys) + " | Delta_m % |")
    print("|---" * (len(keys) + 2) + "|")
    for name in ("single-task", "multitask", "no-router", "sak"):
        row = table[name]
        cells = " | ".join(f"{row[key]:.4g}" for key in keys)
        print(f"| {name} | {cells} | {row['delta_m']:+.2f} ± {row['delta_m_std']:.2f} |")
    print(f"\nMeans of {len(scores['sak'])} seeds; the single-task means are the baselines of Delta_m.")
    (output / "comparison.json").write_text(json.dumps({"table": table, "runs": scores}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
