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
import shlex
import sys
from collections.abc import Sequence

from sak_jax import cli, experiments, paths, recipe_files
from sak_jax import recipe as recipes
from sak_jax.errors import UserError
from sak_jax.experiments import Arm
from sak_jax.tasks import select

METHODS = ("single-task", "multitask", "no-router", "sak")


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table and writes `comparison.json`."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--seeds", type=cli.count, default=3)
    parser.add_argument("--jobs", type=cli.count, default=1, help="runs at a time")
    parser.add_argument("--output", metavar="DIR", help="default: runs/compare/NAME")
    parser.add_argument("--methods", default=",".join(METHODS), help="which of those above; '' for none")
    parser.add_argument(
        "--recipe", action="append", default=[], dest="recipes", help="another one, any number of times"
    )
    options, config = parser.parse_recipe(argv)
    methods = [name for name in options.methods.split(",") if name]
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise UserError(f"--methods={options.methods}: {unknown[0]} is none of {', '.join(METHODS)}")
    if "no-router" in methods and "sak" not in methods:
        raise UserError("--methods: no-router starts from the first stage of sak; name both")
    others = {text: _split(text) for text in options.recipes}
    if not methods and not others:
        raise UserError("--methods is empty and there is no --recipe: name something to compare")
    default = f"runs/compare/{recipe_files.name_of(options.config)}"
    output = paths.given(default if options.output is None else options.output, flag="--output")
    file = paths.check_output(output / "comparison.json", force=True)
    tasks = select(recipes.ordered(config.tasks))
    for name, (path, *extra) in others.items():
        known = select(recipes.ordered(recipes.load(path, [*options.overrides, *extra]).tasks))
        if [task.name for task in known] != [task.name for task in tasks]:
            raise UserError(f"--recipe={name}: its tasks are not those of {options.config}")

    def by(method: str) -> str:
        """The recipe carried out by a method."""
        return f"{options.config}{',' if ':' in options.config else ':'}method={method}"

    arms = []
    for name in METHODS:
        if name not in methods:
            continue
        if name == "single-task":
            arms += [Arm(f"single-{task.name}", by(f"single-{task.name}"), row=name) for task in tasks]
        elif name == "no-router":
            arms.append(Arm(name, by("sak"), ("--config.model.router=none",), start="sak"))
        else:
            arms.append(Arm(name, by(name)))
    arms += [Arm(name, path, tuple(extra)) for name, (path, *extra) in others.items()]
    scores = experiments.run(arms, options.seeds, options.jobs, output, options.overrides)
    keys = [f"{task.name}/{task.metric}" for task in tasks]
    experiments.check(scores, keys, output)
    compared = experiments.baselines(scores, keys, "single-task", recipes.ordered(config.baselines))
    table = experiments.summary(scores, keys, compared)
    print(experiments.markdown(table, keys, lambda row, key: f"{row[key]:.4g}"))
    words = "the single-task means" if "single-task" in scores else "the recipe's scores"
    print(f"\nMeans of {options.seeds} seeds; {words} are the baselines of Delta_m.")
    paths.write_text(file, json.dumps({"table": table, "runs": scores}, indent=2) + "\n")


def _split(text: str) -> list[str]:
    """A recipe and its overrides; raises UserError where there is none."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--recipe={text}: {error}") from error
    if not words or words[0].startswith("-"):
        raise UserError(f"--recipe={text} names no recipe (an unset variable?): give it one, or leave it out")
    return words


if __name__ == "__main__":
    sys.exit(main())
