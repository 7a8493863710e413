"""Ablate SAK on one recipe over several seeds: what each of its parts is worth, as a table and a picture.

    python tools/study.py [--config=configs/rooms.py] [--arms=sak,many-to-one ..] [--seeds=3] [--jobs=1] [--output=DIR]
        [--config.KEY=VALUE ..]

Every arm and seed is a run in a workdir of its own under the output. A finished one is not run again, and one that was
stopped goes on, so that the same command resumes. Arms marked * start from the first stage of `sak` with the same
seed, which they do not change.

  single-task         one student a task, nothing distilled: the baseline of Delta_m
  multitask           one student for all tasks, nothing distilled
  sak                 both stages
  no-router *         the plain sum of all experts
  noiseless *         routers without noise in training
  alpha-0 *           no distillation in stage 2
  no-stage-1          stage 2 alone, with distillation
  many-to-one         no adapter paths: the stem itself follows all teachers
  only-TEACHER        one teacher (one arm each)
  down-ratio-N        the adapters' width inside is the stem's over 1, 2, 8 or 16 instead of 4
  labels-25 -50 -75 * sak with so many percent of the labelled images
  multitask-25 -50 -75  the same without distillation; `sak` and `multitask` have all of them
  shared-trunk *      heads that share one linear map, so that no task can undo the sum by a map of its own
  shared-trunk-no-router *  the same with the plain sum: the routers' worth where heads cannot do their work

Writes `study.md`, `study.json` and `study.svg`.
"""

import json
import sys
from collections.abc import Sequence

from etils import epath

from sak_jax import cli, experiments, paths, recipe_files
from sak_jax import recipe as recipes
from sak_jax.errors import UserError
from sak_jax.experiments import Arm
from sak_jax.tasks import select

RATIOS = (1, 2, 8, 16)
PERCENT = (25, 50, 75)


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then writes and prints the table."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--seeds", type=cli.count, default=3)
    parser.add_argument("--jobs", type=cli.count, default=1, help="runs at a time")
    parser.add_argument("--output", metavar="DIR", help="default: runs/study/NAME")
    parser.add_argument("--arms", help="which of those above; default: all")
    argv = list(sys.argv[1:] if argv is None else argv)
    if not any(argument.startswith("--config=") or argument == "--config" for argument in argv):
        argv.append("--config=rooms")
    options, config = parser.parse_recipe(argv)
    known = arms(options.config, config)
    rows = list(dict.fromkeys(arm.row or arm.name for arm in known))
    wanted = rows if options.arms is None else options.arms.split(",")
    unknown = [name for name in wanted if name not in rows]
    if unknown:
        raise UserError(f"--arms={options.arms}: {unknown[0]!r} is none of {', '.join(rows)}")
    chosen = [arm for arm in known if (arm.row or arm.name) in wanted]
    missing = [arm for arm in chosen if arm.start and arm.start not in wanted]
    if missing:
        raise UserError(f"--arms: {missing[0].name} starts from the first stage of {missing[0].start}; name both")
    default = f"runs/study/{recipe_files.name_of(options.config)}"
    output = paths.given(default if options.output is None else options.output, flag="--output")
    keys = [f"{task.name}/{task.metric}" for task in select(recipes.ordered(config.tasks))]
    if "single-task" not in wanted:
        experiments.baselines({}, keys, "single-task", recipes.ordered(config.baselines))
    scores = experiments.run(chosen, options.seeds, options.jobs, output, options.overrides)
    experiments.check(scores, keys, output)
    write(scores, keys, recipes.ordered(config.baselines), chosen, output)


def arms(path: str, config) -> list[Arm]:
    """All arms of a recipe, in the order of the table.

    Args:
      path: of the recipe, whose arguments are `method` and `committee`.
      config: the recipe.
    """
    from sak_jax.methods.sak.keys import selected_teachers

    def by(**arguments: str) -> str:
        text = ",".join(f"{key}={value}" for key, value in arguments.items())
        return f"{path}{',' if ':' in path else ':'}{text}"

    def fewer(percent: int) -> str:
        return f"--config.data.train_length={max(1, round(config.data.train_length * percent / 100))}"

    plain, none = by(method="sak"), "--config.model.router=none"
    known = [Arm(f"single-{name}", by(method=f"single-{name}"), row="single-task") for name in config.tasks]
    known += [
        Arm("multitask", by(method="multitask")),
        Arm("sak", plain),
        Arm("no-router", plain, (none,), start="sak"),
        Arm("noiseless", plain, ("--config.model.noisy_gating=False",), start="sak"),
        Arm("alpha-0", plain, ("--config.multitask.alpha=0.0",), start="sak"),
        Arm("no-stage-1", plain, ("--config.distill.steps=0",)),
        Arm("many-to-one", plain, ("--config.model.paths=False", none)),
    ]
    known += [Arm(f"only-{name}", by(method="sak", committee=name)) for name in selected_teachers(config)]
    known += [Arm(f"down-ratio-{ratio}", plain, (f"--config.model.down_ratio={ratio}",)) for ratio in RATIOS]
    if "train_length" in config.data:  # As many labels as are asked for.
        # Stage 1 needs no labels: it has all images.
        known += [Arm(f"labels-{percent}", plain, (fewer(percent),), start="sak") for percent in PERCENT]
        known += [Arm(f"multitask-{percent}", by(method="multitask"), (fewer(percent),)) for percent in PERCENT]
    shared = "--config.model.trunk=shared"
    known += [
        Arm("shared-trunk", plain, (shared,), start="sak"),
        Arm("shared-trunk-no-router", plain, (shared, none), start="sak"),
    ]
    return known


def write(
    scores: experiments.Scores, keys: list[str], given: dict[str, float], chosen: Sequence[Arm], output: epath.Path
) -> None:
    """Prints the table, and writes it with the single runs' scores and the picture.

    Args:
      scores: of each row and seed.
      keys: of the scores.
      given: the recipe's baselines, where no arm is the baseline.
      chosen: the arms that were run.
      output: the folder.
    """
    from sak_jax.report import bars

    compared = experiments.baselines(scores, keys, "single-task", given)
    table = experiments.summary(scores, keys, compared)
    text = experiments.markdown(table, keys, lambda row, key: f"{row[key]:.4g} ± {row[f'{key}_std']:.2g}")
    seeds = len(next(iter(scores.values())))
    words = "the single-task means" if "single-task" in scores else "the recipe's scores"
    done = [experiments.workdir_of(arm.name, seed, output) for arm in chosen for seed in range(seeds)]
    text += f"\n\nMeans and deviations of {seeds} seeds; {words} are the baselines of Delta_m. {made_by(done)}\n"
    print(text, end="")
    deltas = {name: [experiments.delta_m(one, compared) for one in _of(rows, keys)] for name, rows in scores.items()}
    paths.write_text(output / "study.md", text)
    paths.write_text(output / "study.json", json.dumps({"table": table, "runs": scores}, indent=2) + "\n")
    paths.write_text(output / "study.svg", bars.svg("Delta_m, %", deltas))
    print(f"wrote {output / 'study.md'}, .json and .svg")


def _of(rows: Sequence[dict[str, float]], keys: Sequence[str]) -> list[dict[str, float]]:
    return [{key: row[key] for key in keys} for row in rows]


def made_by(workdirs: Sequence[epath.Path]) -> str:
    """How many hours the runs took, and on what machines."""
    from sak_jax.report import machine, record

    found = [record.collect(workdir) for workdir in workdirs]
    devices = dict.fromkeys(filter(None, (machine.hardware(run.versions) for run in found)))
    hours = sum(run.seconds or 0 for run in found) / 3600
    return f"{len(found)} runs took {hours:.1f} hours in all on {', '.join(devices) or 'an unknown device'}."


if __name__ == "__main__":
    sys.exit(main())
