"""Kills a rollout's partitions around each of their writes, runs them again each time, prints what is left.

``python -m tests.faults.rollout SCENE FOLDER`` prints a JSON line for the untouched outcome of each partition
that takes a step, and for each of its kill points; the other partitions write nothing that these don't.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from include.models.registry import Registry
from include.monitor.performance import publish_performance
from include.monitor.state import PublishedState
from include.rollout.pipeline import advance
from include.score.pipeline import score
from tests.faults import clocks
from tests.faults.killer import Rig, count_writes, forked, warming
from tests.rollout.conftest import RolloutLake, fit

VERSIONS = {"forgot": "1", "knows": "2", "wrong": "3"}
# a rollout, who is champion, who comes for it if anybody does, and the partitions that follow
SCENES: dict[str, tuple[dict[str, Any], str, str, tuple[str, str]]] = {
    "forward": (
        {"kind": "canary", "share": 0.4, "entity": ["depot", "parcel"], "partitions": 2, "margin": 1.0},
        "forgot",
        "knows",
        ("2024-03-07", "2024-03-14"),
    ),
    "back": ({"kind": "immediate"}, "knows", "wrong", ("2024-03-07", "2024-03-10")),
    "broken": ({"kind": "immediate"}, "wrong", "", ("2024-03-06", "2024-03-10")),
}


class Rollout(Rig):
    """A depot on whose partitions a trial is under way."""

    def __init__(self, scene: str, folder: Path) -> None:
        super().__init__(scene, folder, "")
        self.rollout, self.champion, self.comes, self.partitions = SCENES[scene]

    def depot(self) -> RolloutLake:
        """Open the depot that lies under `work/`, with a registry that answers."""
        made = RolloutLake(self.folder / "work", **self.rollout)
        made.registry = Registry(f"sqlite:///{self.folder}/work/mlflow.db")
        return made

    def begin(self) -> list[str]:
        """Let the challenger come after the champion's first partition; return the partitions that follow."""
        made, client = self.depot(), MlflowClient(f"sqlite:///{self.folder}/work/mlflow.db")
        client.create_registered_model("parcels")
        for _ in VERSIONS:
            client.create_model_version("parcels", source=str(self.folder))
        if not self.comes:
            fit(made, "2024-03-05")
        made.promote(self.champion, "2024-03-05", version=VERSIONS[self.champion])
        if self.comes:
            score(made.lake, made.spec, "2024-03-06")
            made.promote(self.comes, "2024-03-06", version=VERSIONS[self.comes])
        return list(made.spec.clock.keys(*self.partitions))

    def partition(self, before: Callable[[int], Any] = lambda write: None) -> dict[str, int]:
        """Score a partition and take its steps; the end counts as one more write."""
        seen, made = count_writes(before), self.depot()
        score(made.lake, made.spec, self.key)
        if not self.comes:
            publish_performance(made.lake, made.spec, PublishedState(made.lake, made.spec, self.key))
        taken = advance(made.lake, made.spec, self.key, registry=lambda: made.registry).rows
        before(seen[0] + 1)
        return {"writes": seen[0], "steps": taken}

    def whole(self, before: Callable[[int], Any] = lambda write: None) -> dict[str, Any]:
        """Do the partition; return also a digest of each table, the aliases, the switches and who served."""
        done, made = self.partition(before), self.depot()
        state = {
            **clocks.state(made.lake),
            "aliases": made.registry.aliases("parcels"),
            "switches": made.switches(),
            "served": made.served()[self.key],
        }
        return {**done, "state": state}


def main() -> None:
    """Go through the partitions of a scene."""
    rollout = Rollout(sys.argv[1], Path(sys.argv[2]))
    base, work, killed = (rollout.folder / name for name in ("base", "work", "killed"))
    work.mkdir(parents=True)
    for key in warming(rollout.begin):
        rollout.key = key
        untouched = warming(lambda: rollout.whole(rollout.keep))
        if untouched["steps"]:
            print(json.dumps({**untouched, "point": 0}), flush=True)
            work.rename(base)
            for point in range(1, untouched["writes"] + 2):
                rollout.lay(f"killed/{point}")
                print(json.dumps({**forked(rollout.whole), "point": point}), flush=True)
            rollout.lay("base")
            shutil.rmtree(base)
        shutil.rmtree(killed)


if __name__ == "__main__":
    main()
