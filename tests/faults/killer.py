"""Kills a partition or a week before each of its writes, runs it again each time, and prints what is left.

A kill leaves what is on the disk at that moment. So one run copies the disk before each of its writes, and
each rerun begins with a copy. Another run is killed in the middle, to see that the copies leave nothing out.
This process only imports and forks, so that libraries are imported once.
``python -m tests.faults.killer partition|week FOLDER KEY`` prints a JSON line for each kill point.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from sqlalchemy.orm import configure_mappers

from include.cli import stages
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


def count_writes(before: Callable[[int], Any]) -> list[int]:
    """Count every write to the lake and the registry, and call ``before`` with its number just before it."""
    seen = [0]

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            seen[0] += 1
            before(seen[0])
            return real(*args, **kwargs)

        setattr(owner, name, counted)

    for name in LAKE_WRITES:
        wrap(Lake, name)
    for name in REGISTRY_WRITES:
        wrap(MlflowClient, name)
    return seen


def die() -> None:
    """End this process as the kernel or an operator would."""
    os.kill(os.getpid(), signal.SIGKILL)


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


def warming(work: Callable[[], Any]) -> Any:
    """Run in a child, and import here what the child has imported, so that no later one has to."""
    result, modules = forked(lambda: (work(), list(sys.modules)))
    for name in modules:
        with contextlib.suppress(Exception):  # one that can't be imported on its own
            importlib.import_module(name)
    configure_mappers()
    return result


class Rig:
    """A folder with a prepared `base/`, from which the work under `work/` begins."""

    def __init__(self, what: str, folder: Path, key: str) -> None:
        self.what, self.folder, self.key = what, folder, key

    def lay(self, state: str) -> None:
        """Lay a state of the disk under `work/`: `base`, or what a kill left."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        shutil.copytree(self.folder / state, self.folder / "work")

    def keep(self, point: int) -> None:
        """Copy what is on the disk before write number ``point``: what a kill leaves there."""
        shutil.copytree(self.folder / "work", self.folder / "killed" / str(point))

    def prepare(self) -> None:
        """Import what the work needs; let a week begin with its model's latencies, which always differ."""
        self.lay("base")
        warming(self.work)
        if self.what == "week":
            kept = Path("lake", "weekly_sales", "evaluations", "serving")
            shutil.copytree(self.folder / "work" / kept, self.folder / "base" / kept)

    def work(self, before: Callable[[int], Any] = lambda write: None) -> int:
        """Do the work in this process; return how many writes it made."""
        seen = count_writes(before)
        spec = load("weekly_sales")
        lake = Lake(spec.name, str(self.folder / "work" / "lake"))
        if self.what == "partition":
            clocks.partition(lake, spec, self.key)
        else:
            clocks.week(lake, spec, self.key)
        return seen[0]

    def whole(self) -> dict[str, Any]:
        """Do the work, and return what is there then."""
        return {"writes": self.work(), "state": self.state()}

    def outcomes(self, step: int = 1) -> Iterator[dict[str, Any]]:
        """Yield the untouched outcome, a rerun's after a kill, then those after each ``step``-th kill."""
        self.lay("base")
        writes = forked(lambda: self.work(lambda write: (write - 1) % step or self.keep(write)))
        yield {"point": 0, "writes": writes, "state": forked(self.state)}
        self.lay("base")
        ended = forked(lambda: self.work(lambda write: write == writes // 2 and die()))
        yield {"point": writes // 2, "ended": ended, **forked(self.whole)}
        for point in range(1, writes + 1, step):
            self.lay(f"killed/{point}")
            shutil.rmtree(self.folder / "killed" / str(point))
            yield {"point": point, **forked(self.whole)}

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
        following = spec.clock.shift(self.key, 1)  # from which the switch is in effect
        for stage in ("ingest", "score"):
            stages.run_stage(stage, lake, spec, [following], now=clocks.NOW)
        found["predictions"] = sorted(
            (row["store"], row["item"], row["prediction"], row["served_by"])
            for row in lake.rows("predictions", {"partition": [following]})
        )
        return found


def main() -> None:
    """Print a line for each outcome."""
    rig = Rig(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{rig.folder}/work/mlflow.db"
    rig.prepare()
    for outcome in rig.outcomes():
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
