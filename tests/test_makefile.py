"""What `make` does before there is an environment to do it with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.home import REPOSITORY


@pytest.mark.parametrize("name", ["clone", "a clone"])
def test_the_environment_is_made_in_any_folder(name: str, tmp_path: Path) -> None:
    """The lock is installed into the clone's own environment, also where the folder's name has a space."""
    clone = tmp_path / name
    programs = clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    for file in (REPOSITORY / "Makefile", *REPOSITORY.glob("requirements*.txt")):
        shutil.copy(file, clone)
    for program, text in (("python", "exit 0"), ("uv", 'echo "$VIRTUAL_ENV: $*"')):  # nothing is downloaded
        (programs / program).write_text(f"#!/bin/sh\n{text}\n")
        (programs / program).chmod(0o700)

    done = subprocess.run(
        ["make", "install", f"PYTHON={sys.executable}"],
        cwd=clone,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert f"{clone}/.venv: pip install " in done.stdout
    assert (clone / ".venv" / "installed").exists()
