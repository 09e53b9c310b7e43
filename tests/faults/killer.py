"""Kills a partition or a week before each of its writes in turn, runs it again, and prints what is left.

This process only imports and forks; each child is killed or measured, so libraries are imported once.
``python -m tests.faults.killer partition|week FOLDER KEY`` prints a JSON line for each kill point.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# a stage, what it draws with and the registry's store are imported when needed: here once for all children
import matplotlib.backends.backend_svg  # noqa: F401
import mlflow.pyfunc
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
from mlflow import MlflowClient
from sqlalchemy.orm import configure_mappers

from include.spec import load
from include.storage.lake import Lake
from tests.faults import clocks

configure_mappers()
LAKE_WRITES = ("publish", "append_at", "revise", "create", "replace", "remove")
REGISTRY_WRITES = (
    "create_experiment",
    "create_run",
    "log_batch",
    "log_artifacts",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
    "create_registered_model",
    "create_model_version",
    "set_terminated",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)
# what a model's bytes and place in the registry decide: a second training is the same model, otherwise named
NAMES = (
    "model",
    "version",
    "attempt",
    "sentence",
    "evidence",
    "checks",
    "inputs",
    "digest",
    "note",
    "product",
)


def count_writes(fatal: int | None) -> list[int]:
    """Count every write to the lake and the registry, and die just before number ``fatal``."""
    seen = [0]

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            if seen[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(owner, name, counted)

    for name in LAKE_WRITES:
        wrap(Lake, name)
    for name in REGISTRY_WRITES:
        wrap(MlflowClient, name)
    return seen


def forked(work: Callable[[], Any]) -> Any:
    """Run in a child; return what it returned, or the signal that ended it, negative."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            with os.fdopen(writing, "w") as out:
                json.dump(work(), out)
            code = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    if status:
        raise RuntimeError("the child failed; its traceback is above")
    return json.loads(text)


class Rig:
    """A folder with a prepared `base/`, from which each attempt begins anew in `work/`."""

    def __init__(self, what: str, folder: Path, key: str) -> None:
        self.what, self.folder, self.key = what, folder, key

    def anew(self) -> None:
        """Lay the prepared state under `work/`."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        shutil.copytree(self.folder / "base", self.folder / "work")

    def measured(self) -> None:
        """Let a week begin with the latencies of its model, which would be others each time."""
        self.anew()
        if self.what == "week":
            forked(self.run)
            kept = Path("lake", "weekly_sales", "evaluations", "serving")
            shutil.copytree(self.folder / "work" / kept, self.folder / "base" / kept)

    def run(self, fatal: int | None = None) -> int:
        """Do the work in this process; return how many writes it made."""
        seen = count_writes(fatal)
        spec = load("weekly_sales")
        lake = Lake(spec.name, str(self.folder / "work" / "lake"))
        if self.what == "partition":
            clocks.partition(lake, spec, self.key)
        else:
            clocks.week(lake, spec, self.key)
        return seen[0]

    def state(self) -> dict[str, Any]:
        """Return what is there now.

        Of a week, also the finished runs and what the next partition would say.
        """
        spec = load("weekly_sales")
        lake = Lake(spec.name, str(self.folder / "work" / "lake"))
        if self.what == "partition":
            return dict(clocks.state(lake))
        found: dict[str, Any] = {
            name: digest
            for name, digest in clocks.state(lake, NAMES).items()
            if name in ("attempts", "switches", "fits", "walks")
        }
        runs = MlflowClient().search_runs([e.experiment_id for e in MlflowClient().search_experiments()])
        found["runs"] = sorted(run.info.status for run in runs)
        clocks.partition(lake, spec, self.key)
        found["predictions"] = sorted(
            (row["store"], row["item"], row["prediction"], row["served_by"])
            for row in lake.rows("predictions", {"partition": [self.key]})
        )
        return found


def main() -> None:
    """Print the untouched outcome first, then one line for each kill point."""
    rig = Rig(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{rig.folder}/work/mlflow.db"
    rig.measured()
    rig.anew()
    writes = forked(rig.run)
    print(json.dumps({"point": 0, "writes": writes, "state": forked(rig.state)}), flush=True)
    for point in range(1, writes + 1):
        rig.anew()
        ended = forked(lambda fatal=point: rig.run(fatal))
        again = forked(rig.run)
        print(
            json.dumps({"point": point, "ended": ended, "writes": again, "state": forked(rig.state)}),
            flush=True,
        )


if __name__ == "__main__":
    main()
