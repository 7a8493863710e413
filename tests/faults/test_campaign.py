"""The campaign's script tries what it says, and tells what fails."""

import re
import subprocess
import sys

import pytest

from tests import runs


@pytest.mark.parametrize(
    ("flags", "name"),
    [(["--only", "ArrayRecord"], "ArrayRecord"), (["--only", "fuzzed", "--fuzzed=60"], "fuzzed files")],
)
def test_a_class_of_the_campaign(flags, name):
    command = [sys.executable, "tests/faults/campaign", *flags]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    tried, failed = re.search(rf"^\| {name} \| (\d+) \| (\d+) \|$", done.stdout, re.MULTILINE).groups()
    assert int(tried) >= 24 and int(failed) == 0, done.stdout


def test_a_failure_is_counted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(runs.ROOT / "tests/faults/campaign"))
    import trial

    assert trial.run(lambda work: None) == ""
    assert "ValueError: wrong" in trial.run(lambda work: (_ for _ in ()).throw(ValueError("wrong")))
    assert "killed by signal 9" in trial.run(lambda work: __import__("os").kill(__import__("os").getpid(), 9))
    monkeypatch.setattr(trial, "SECONDS", 0.5)
    assert "hangs" in trial.run(lambda work: __import__("time").sleep(60))
