"""`make clean` removes what the stack made and nothing else, and acts on the clone that it is called in."""

import os
import subprocess
from pathlib import Path

import pytest

from demo import process
from demo.home import REPOSITORY, Home
from demo.servers import pid_file
from demo.stack import Stack, StackError, clean


def test_it_stops_both_stacks_and_removes_them(tmp_path: Path) -> None:
    """The servers of the home and of the benchmark inside it end before their folder goes."""
    homes = [Home(tmp_path / "home"), Home(tmp_path / "home" / "bench")]
    for home in homes:
        Stack(home).up(["weather"])
    running = [process.running(pid_file(home, "weather")) for home in homes]

    said = clean(homes[0])

    assert said == f"{tmp_path / 'home'} is removed"
    assert not (tmp_path / "home").exists()
    assert not [one for one in running if one is None or one.is_running()]


def test_a_folder_of_somebody_else_stays(tmp_path: Path) -> None:
    """Without ports.json nothing is removed, and the message says what is there."""
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(StackError, match=r"no ports\.json.*it contains thesis\.tex"):
        clean(Home(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_status_and_down_leave_is_removed(tmp_path: Path) -> None:
    """In a fresh clone these make a folder without ports, and that is ours as well."""
    stack = Stack(tmp_path / "home")
    stack.status()
    stack.down()

    clean(stack.home)

    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_no_failure(tmp_path: Path) -> None:
    """A second clean says that there is nothing, and makes nothing."""
    assert "nothing to remove" in clean(Home(tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("given", "seen"), [((), ""), (("EVERGREEN_HOME=/chosen",), "/chosen")])
def test_only_the_command_line_chooses_another_home(given: tuple[str, ...], seen: str) -> None:
    """A shell that evaluated another clone's settings doesn't make this clone act on that one's home."""
    probe = 'probe: ; @echo "home=$$EVERGREEN_HOME"'
    command = ["make", "--silent", "--eval", probe, "probe", *given]
    env = {"PATH": os.environ["PATH"], "EVERGREEN_HOME": "/of/another/clone"}

    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == f"home={seen}"


def test_without_the_environment_nothing_is_removed(tmp_path: Path) -> None:
    """Servers can't be stopped without .venv, so `make clean` says how to come by it."""
    (tmp_path / "Makefile").write_text((REPOSITORY / "Makefile").read_text())
    (tmp_path / ".evergreen").mkdir()
    env = {"PATH": os.environ["PATH"]}

    done = subprocess.run(
        ["make", "clean"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "make install, then make clean" in done.stderr
    assert (tmp_path / ".evergreen").exists()
