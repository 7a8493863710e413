"""Flags and recipes as they are given on command lines, and the one line for a mistake."""

import pytest

from sak_jax import cli, recipe
from sak_jax.errors import EndedEarly, Stopped, UserError
from tests import runs


def parse(*argv):
    parser = cli.Parser("Shows.")
    parser.add_argument("--workdir")
    return parser.parse_recipe(argv)


def test_flags_and_overrides_with_and_without_equals_signs():
    options, config = parse(
        "--config", f"{runs.TINY}:method=multitask", "--config.image_size", "(48, 64)", "--config.mesh.data", "-1",
        "--workdir=there", "--config.data.resize=True", "--config.model.noisy_gating=False",
        "--config.data.val_length=3",
    )  # fmt: skip
    assert options.workdir == "there" and options.config == f"{runs.TINY}:method=multitask"
    assert config.image_size == (48, 64) and config.mesh.data == -1 and config.data.val_length == 3
    assert config.data.resize is True and config.model.noisy_gating is False and config.distill.steps == 0
    assert recipe.load(options.config, options.overrides).to_json() == config.to_json()


def test_of_two_recipes_the_last_is_taken():
    options, config = parse("--config=configs/nyud.py", "--config=configs/rooms.py", "--config.batch_size=16")
    assert options.config == "configs/rooms.py" and config.data.name == "rooms" and config.batch_size == 16


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.data.resise=True", "config has no key 'data.resise': did you mean data.resize?"),
        ("--config.data.colour=red", "config has no key 'data.colour': config.data has .*name, .*root"),
        ("--config.modle.stem=tiny", "config has no key 'modle.stem': did you mean model?"),
        ("--config.batch_size.x=1", "config has no key 'batch_size.x'"),
        ("--config.batch_size=four", "batch_size=four.*int"),
        ("--worddir=x", "there is no flag --worddir: did you mean --workdir?"),
        ("train", "unexpected argument 'train'.*--name=value"),
    ],
)
def test_mistakes_are_named(argument, message):
    with pytest.raises(UserError, match=message):
        parse(f"--config={runs.TINY}", argument)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("configs/nowhere.py", "can't be loaded.*nowhere.py"),
        (f"{runs.TINY}:stem=base", "^recipe argument 'stem=base'.*method"),
        (f"{runs.TINY}:method=single-sal", "single-semseg"),
    ],
)
@pytest.mark.parametrize("overrides", [(), ("--config.batch_size=8",)])
def test_recipes_that_cannot_be_had(path, message, overrides):
    with pytest.raises(UserError, match=message):
        recipe.load(path, overrides)


def test_exit_status_and_the_line_that_goes_with_it(capsys):
    def main(argv):
        if argv:
            raise argv[0]

    main = cli.exit_status(main)
    assert main() == 0 and not capsys.readouterr().err
    assert main([UserError("no\nway")]) == 2 and capsys.readouterr().err == "error: no way\n"
    assert main([EndedEarly("stopped")]) == 1 and capsys.readouterr().err == "error: stopped\n"
    assert main([KeyboardInterrupt()]) == 1 and "interrupted" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main([ZeroDivisionError()])


@pytest.mark.parametrize(("process", "spoken"), [("0", 1), ("3", 0)])
def test_under_slurm_one_process_says_that_all_were_stopped(process, spoken, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_PROCID", process)

    def stopped(argv):
        raise Stopped("stopped at step 3")

    assert cli.exit_status(stopped)([]) == 1
    assert capsys.readouterr().err.count("stopped at step 3") == spoken
