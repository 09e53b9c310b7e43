"""The warm parent of tasks: what it has imported of the project, and when a task imports that anew."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SETTINGS = "deploy/airflow/airflow_local_settings.py"
# what the scheduler does, without the heavy libraries; prints what a forked process has, also after each edit
PARENT = f"""
import os, runpy, sys
settings = runpy.run_path({SETTINGS!r})
settings["_import_project"]()
os.register_at_fork(after_in_child=settings["_check_project"])

def fork():
    if os.fork() == 0:
        known = "include.rollout.pipeline" in sys.modules
        from include.errors import EvergreenError
        print(known, getattr(EvergreenError, "edited", "as it was"), flush=True)
        os._exit(0)
    os.wait()

fork()
for edit in sys.argv[1:]:
    exec(edit)
    fork()
"""
# with the old modification time, as `cp -p` and a checkout of old files leave it
EDIT = """
from pathlib import Path
file = Path("include/errors.py")
status = file.stat()
file.write_text(file.read_text() + "\\nEvergreenError.edited = 'edited'\\n")
os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a copy of what tasks run."""
    for name in ("include", "plugins", "deploy/airflow"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    return tmp_path


def run_parent(clone: Path, *edits: str) -> list[str]:
    """Run the parent in a clone; return what each process that it forked printed."""
    path = os.pathsep.join([str(clone), str(clone / "plugins")])
    env = os.environ | {"PYTHONPATH": path, "AIRFLOW_HOME": str(clone / "home")}
    command = [sys.executable, "-c", PARENT, *edits]
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith(("True", "False"))]


@pytest.mark.full
def test_a_task_has_its_parents_modules_until_a_file_changes(clone: Path) -> None:
    """A forked process has the imported stages; after an edit it imports what the files say now."""
    assert run_parent(clone, EDIT) == ["True as it was", "False edited"]


@pytest.mark.full
def test_a_parent_of_code_that_cannot_be_imported_leaves_it_to_the_tasks(clone: Path) -> None:
    """A syntax error doesn't stop the scheduler, and the task has none of the project's modules."""
    (clone / "include" / "train" / "pipeline.py").write_text("def train(:\n")
    assert run_parent(clone) == ["False as it was"]
