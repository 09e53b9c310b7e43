"""Kills the tasks of a night in parts before each of their writes, and prints what their next tries leave.

``python -m tests.faults.parts FOLDER`` prints the outcome of one task, then a line for each kill point. By
turns the killed task alone is tried again, as Airflow does, and the whole night from its plan on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from include.score.parts import publish, score_part
from include.score.plan import plan
from include.score.run import score
from tests.faults import clocks
from tests.faults.killer import Rig, count_writes, forked
from tests.rollout.conftest import Depot

NIGHT, SHARDS = "2024-03-08", 2


class Parts(Rig):
    """A depot's night in two parts, with a model in shadow; what tasks hand on lies beside the lake."""

    def depot(self) -> Depot:
        """Open the depot that lies under `work/`."""
        made = Depot(self.folder / "work", kind="shadow")
        scoring = made.spec.scoring.model_copy(update={"shards": SHARDS})
        made.spec = made.spec.model_copy(update={"scoring": scoring})
        return made

    def begin(self) -> None:
        """Let one model serve and another stand beside it."""
        made = self.depot()
        made.promote("forgot", "2024-03-04", version="1")
        score(made.lake, made.spec, "2024-03-05")
        made.promote("knows", "2024-03-05", version="2")

    def task(self, name: str, work: Any) -> Any:
        """Return what a task handed on, or run it."""
        file = self.folder / "work" / f"{name}.xcom"
        if not file.exists():
            file.write_text(json.dumps(work().xcom()))
        return json.loads(file.read_text())

    def night(self, fatal: int | None = None) -> int:
        """Run the tasks that haven't ended; die before write number ``fatal``."""
        seen, made = count_writes(fatal), self.depot()
        lake, spec = made.lake, made.spec
        planned = self.task("plan", lambda: plan(lake, spec, NIGHT))
        refs = [
            self.task(f"part{number}", lambda n=number: score_part(lake, spec, planned["uri"], n))
            for number in range(planned["rows"])
        ]
        self.task("predict", lambda: publish(lake, spec, NIGHT, refs, lambda: score(lake, spec, NIGHT)))
        return seen[0]

    def again(self, whole: bool) -> dict[str, Any]:
        """Run what is left of the night, or all of it, and return what is there."""
        if whole:
            for file in (self.folder / "work").glob("*.xcom"):
                file.unlink()
        self.night()
        made = self.depot()
        note = json.loads((self.folder / "work" / "predict.xcom").read_text())["note"]
        return {"state": clocks.state(made.lake), "left": made.lake.keys("parts"), "note": note}


def main() -> None:
    """Print the outcome of one task, and of each kill."""
    rig = Parts("parts", Path(sys.argv[1]), NIGHT)
    (rig.folder / "work").mkdir(parents=True)
    forked(rig.begin)
    (rig.folder / "work").rename(rig.folder / "base")
    rig.anew()
    forked(lambda: score(rig.depot().lake, rig.depot().spec, NIGHT).xcom())
    print(json.dumps({"point": 0, "state": forked(lambda: clocks.state(rig.depot().lake))}), flush=True)
    rig.anew()
    writes = forked(rig.night)
    for point in range(1, writes + 1):
        rig.anew()
        ended = forked(lambda fatal=point: rig.night(fatal))
        found = forked(lambda whole=point % 2 == 0: rig.again(whole))
        print(json.dumps({"point": point, "ended": ended, **found}), flush=True)


if __name__ == "__main__":
    main()
