"""The commands of docs/pods.md are right."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jobset
import pytest
import skypilot
import slurm
import tpu_vm

PAGE = Path(__file__).parents[3] / "docs" / "pods.md"
LAUNCHERS = {"tpu_vm": tpu_vm, "jobset": jobset, "slurm": slurm, "skypilot": skypilot}


def commands(program):
    """The indented commands of a program, and those between backticks."""
    text = PAGE.read_text().replace("\\\n", " ")
    found = [line.strip() for line in re.findall(r"^    .*$", text, re.MULTILINE)] + re.findall(r"`([^`]+)`", text)
    return [shlex.split(line) for line in found if line.startswith(f"{program} ")]


def test_every_launcher_takes_its_commands(capsys):
    seen = set()
    for words in commands("python"):
        name = Path(words[1]).stem
        if Path(words[1]).parts[:2] == ("tools", "launch"):
            seen.add(name)
            assert LAUNCHERS[name].main([*words[2:3], "--dry_run", *words[3:]]) == 0, words
    assert seen == set(LAUNCHERS)
    assert capsys.readouterr().err.replace("\n", "").count("error") == 0


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs the Google Cloud SDK")
def test_gcloud_has_every_command_and_flag(tmp_path):
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    listed = commands("gcloud")
    assert len(listed) >= 12
    for words in listed:
        command = []
        for word in words[1:]:
            if not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            command.append(word)
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        shown = subprocess.run(["gcloud", *command, "--help"], capture_output=True, text=True, env=environment).stdout
        known = set(re.findall(r"--[a-z][-a-z]*", re.sub(r"\x1b\[[0-9;]*m", "", shown)))
        assert known and flags <= known, (command, flags - known)
