"""Import what tasks import, once in the scheduler, so that each task forked from it has it already.

Importing Great Expectations, Evidently, MLflow and scikit-learn in each task takes 8 s, more than most work.
Only the scheduler gets EVERGREEN_WARM=1. This file only imports: it starts no threads, because only the
forking thread survives in the child. The project's own modules are imported too, and a task whose files
differ from the imported ones forgets them all: tasks see edits at once, without a restart.
"""

# ruff: noqa: F401  # imported for the tasks that will be forked
import gc
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from sysconfig import get_path

__all__: list[str] = []  # Airflow treats every public name here as a setting

# Modules of the project that import the rest of what tasks run.
_STAGES = (
    "evergreen_plugin",
    "evergreen.operators.ingest",
    "evergreen.operators.monitor",
    "evergreen.operators.rollout",
    "evergreen.operators.score",
    "evergreen.operators.train",
    "include.evaluate.pipeline",
    "include.ingest.late_sources",
    "include.ingest.pipeline",
    "include.monitor.alerts",
    "include.monitor.pipeline",
    "include.monitor.report",
    "include.promote.promotion",
    "include.promote.verdicts",
    "include.reports.verdict",
    "include.rollout.pipeline",
    "include.score.shards",
    "include.train.pipeline",
)
_PACKAGES = ("evergreen", "evergreen_plugin", "include")
_imported: dict[str, tuple[int, int, int]] = {}  # the state of each path that the imported modules come from


def _project() -> list[str]:
    """Return the names of the project's imported modules."""
    return [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]


def _state(path: str) -> tuple[int, int, int]:
    """Return what differs if a file has been written or replaced, whatever its modification time says."""
    status = Path(path).stat()
    return status.st_ctime_ns, status.st_ino, status.st_size


def _import_project() -> None:
    """Import the project's modules, unless one can't be imported or is just being edited."""
    begin = time.time_ns()
    try:
        for name in _STAGES:
            import_module(name)
        sys.modules["include.extensions"].registered("estimators")  # reads the packages' files, for 30 ms
        paths = [path for name in _project() if (path := sys.modules[name].__file__)]
        _imported.update((path, _state(path)) for path in (*paths, *map(get_path, ("purelib", "platlib"))))
    except Exception:  # the task that needs the module reports it
        _forget_project()
    if any(changed > begin for changed, *_ in _imported.values()):
        _forget_project()


def _forget_project() -> None:
    for name in _project():
        del sys.modules[name]
    _imported.clear()


def _check_project() -> None:
    """Forget the project's modules, in a forked process, if they or the installed packages have changed."""
    try:
        unchanged = all(_state(path) == state for path, state in _imported.items())
    except OSError:
        unchanged = False
    if not unchanged:
        _forget_project()


if os.environ.get("EVERGREEN_WARM") == "1":
    import datasketches
    import deltalake
    import duckdb
    import evidently
    import evidently.presets
    import fairlearn.metrics
    import great_expectations
    import matplotlib.backends.backend_svg
    import matplotlib.figure
    import mlflow
    import mlflow.sklearn
    import obstore
    import obstore.store
    import pandas
    import pyarrow.dataset
    import pyarrow.parquet
    import sklearn.compose
    import sklearn.ensemble
    import sklearn.impute
    import sklearn.linear_model
    import sklearn.metrics
    import sklearn.pipeline
    import sklearn.preprocessing
    import skops.io

    _import_project()
    os.register_at_fork(after_in_child=_check_project)
    gc.collect()
    gc.freeze()  # or a task's garbage collector would touch, and so copy, all these pages
