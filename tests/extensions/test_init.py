"""`init --python` writes an example of each kind of Python, which works, with its tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from include.extensions import KINDS
from include.spec.load import read
from tests.architecture.tree import ROOT
from tests.warm import stand_in


def test_each_kind_has_an_example(written: Path) -> None:
    """The declaration names Python of every kind, in a module beside it."""
    spec = read(written / "usecase.yaml")
    assert {kind for _, kind, name in spec._names() if ":" in name} == set(KINDS)
    assert {code.file.parent for code in spec.python if code.file} == {written}


@pytest.mark.full
def test_the_written_tests_pass_and_can_fail(written: Path) -> None:
    """They run where they were written, and one fails when its example breaks."""
    run = [stand_in(), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(written)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout
    shortage = written / "shortage.py"
    shortage.write_text(shortage.read_text().replace("predicted, 3, 1)", "predicted, 2, 1)"))
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 7 passed" in done.stdout
    assert "test_metric_and_objective" in done.stdout
