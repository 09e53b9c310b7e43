"""Runs a page of the documentation as a reader would: writes its files, makes its changes, runs its commands.

A page is Markdown. Its fenced blocks are carried out in order, in a copy of the repository:

- ``diff``: a change to files that exist. ``--- path`` names the file. The lines that begin with a space or a
  ``-`` must be in it exactly once, and those that begin with a space or ``+`` take their place.
- ``python``, ``sql``, ``yaml``: a new file, if the first line is a comment with its path.
- ``bash``: commands. What they export stays set for the blocks after it.
- ``text``: what the commands before it print. Each line must be in their output, in this order. ``…`` stands
  for anything.

Blocks of another kind (``console``, ``json``) only illustrate.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests import warm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COPIED = ("include", "plugins", "dags", "tests/usecases", "docs", "pyproject.toml", "requirements.txt")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(?:#|--) (\S+/\S+\.\w+)\s*$")
SETTINGS = ("EVERGREEN_", "AIRFLOW", "AWS_", "MLFLOW_TRACKING_URI", "PYTHONPATH")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and what is in it."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page's text."""
    return [Block(*found) for found in FENCE.findall(page)]


def replace_once(text: str, old: str, new: str, where: str) -> str:
    """Return a text with one change made, or say that it doesn't apply."""
    assert text.count(old) == 1, f"{where}: expected once, but found {text.count(old)} times:\n{old}"
    return text.replace(old, new)


def changes(diff: str) -> Iterator[tuple[str, str, str]]:
    """Yield the file, the old and the new lines of each change in a ``diff`` block."""
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, _, lines = part.partition("\n")
        for hunk in re.split(r"^@@.*\n", lines, flags=re.MULTILINE):
            kept = [line for line in hunk.splitlines() if not line.startswith("+++ ")]
            if kept:
                old = "".join(f"{line[1:]}\n" for line in kept if not line.startswith("+"))
                new = "".join(f"{line[1:]}\n" for line in kept if not line.startswith("-"))
                yield name.strip(), old, new


@dataclass
class Reader:
    """Somebody who follows pages in a copy of the repository."""

    folder: Path
    output: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in COPIED:
            source, target = ROOT / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                # with the bytecode, or each command compiles; not with what another worker is writing
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pyc.*"))
            else:
                shutil.copyfile(source, target)
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        python = warm.stand_in(warm.ALL)
        for program in (ROOT / ".venv" / "bin").iterdir():
            (programs / program.name).symlink_to(python if program.name == "python" else program)
        shell = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
        # one setting of ours keeps the command line away from a demo that is up
        self.environment = {
            **shell,
            "EVERGREEN_TESTS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.environment,
        }

    def follow(self, page: Path) -> None:
        """Carry out every block of a page."""
        for block in blocks(page.read_text()):
            self.carry_out(block)

    def carry_out(self, block: Block) -> None:
        """Carry out one block."""
        if block.language == "diff":
            for name, old, new in changes(block.text):
                file = self.folder / name
                file.write_text(replace_once(file.read_text(), old, new, name))
        elif block.language == "bash":
            self.run(block.text)
        elif block.language == "text":
            self.compare(block.text)
        elif block.language in ("python", "sql", "yaml"):
            first, _, _ = block.text.partition("\n")
            if named := COMMENT.match(first):
                file = self.folder / named[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                assert not file.exists(), f"{named[1]}: a page writes new files only; show changes as a diff"
                file.write_text(block.text)

    def run(self, commands: str) -> str:
        """Run commands in a shell whose exported variables stay, and return what they print."""
        state = self.folder / ".shell"
        script = f"set -euo pipefail\n[ ! -f {state} ] || . {state}\n{commands}\nexport -p >{state}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
        self.output = done.stdout
        assert done.returncode == 0, f"{commands}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def compare(self, shown: str) -> None:
        """Hold what a page shows to what its commands printed."""
        place = 0
        for line in filter(str.strip, shown.splitlines()):
            pattern = re.compile(r".*?".join(re.escape(part) for part in line.strip().split("…")))
            found = pattern.search(self.output, place)
            assert found, f"the page shows\n  {line}\nand after it was printed\n{self.output[place:]}"
            place = found.end()
