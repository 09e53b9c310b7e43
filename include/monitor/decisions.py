"""The decisions of a night and of those after it, each by what is published of the nights before.

A decision depends on earlier decisions, so that of a night done late may change all that follow. Whoever
publishes findings therefore decides from their night to the newest, and looks again after each write: of two
at once, the one that wrote last sees what the other did.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, replace

import pyarrow as pa

from include import tables
from include.errors import EvergreenError
from include.lake import Lake
from include.monitor import findings
from include.monitor.policy import Alert, Decision, Demotion, Night, decide, reach
from include.monitor.state import PRODUCT
from include.promote import ledger
from include.promote.grow import Row
from include.spec import UseCase

PASSES = 20
BACKWARD = (ledger.ROLLED_BACK, ledger.STEPPED_DOWN)
UNDECIDED = Decision("nothing", "", "")


def settle(lake: Lake, spec: UseCase, night: str) -> Decision:
    """Publish what is decided now of a monitored night and of those after it; return the night's decision."""
    for _ in range(PASSES):
        history = _history(lake, spec, night)
        new = []
        for place, each in enumerate(history):
            if each.key < night or each.decided is None:
                continue
            decision = decide(history[: place + 1], spec)
            if decision != each.decided:
                history[place] = replace(each, decided=decision)
                new.append(history[place])
        if not new:
            decided = next(each.decided for each in history if each.key == night)
            assert decided is not None
            return decided
        rows = pa.Table.from_pylist([_row(each) for each in new], schema=tables.DECISIONS)
        lake.publish("decisions", rows, {"night": [each.key for each in new]})
    raise EvergreenError(
        f"{spec.name}/decisions/{night}",
        required="findings that hold still",
        found="others each time they are read",
        remedy="run it again when the runs of its neighbours have ended",
    )


def _history(lake: Lake, spec: UseCase, night: str) -> list[Night]:
    """Return the nights that a night's decision looks at, itself, and all after it that were monitored."""
    where = {"product": PRODUCT, "outcome": "published"}
    read = lake.read("partitions", where, ["night"])
    monitored = set() if read is None else set(read["night"].to_pylist())
    first = spec.clock.shift(night, -reach(spec))
    keys = spec.clock.keys(first, max({night, *monitored}))
    alarms = defaultdict(list)
    for row in lake.rows("findings", {"night": keys, "outcome": "alarm"}):
        alarms[row["night"]].append(row)
    decided = {row["night"]: _decision(row) for row in lake.rows("decisions", {"night": keys})}
    switches = ledger.switches(lake)
    champions = ledger.champions(switches)
    demotions: dict[int, Demotion] = {}
    history = []
    for key in keys:
        serving = next((row for row in reversed(champions) if row["effective"] <= key), None)
        switched, down, demotion = None, False, None
        if serving and serving["kind"] == ledger.STEPPED_DOWN:
            if serving["switch"] not in demotions:
                demotions[serving["switch"]] = Demotion(serving["effective"], _fitted(lake, serving))
            demotion = demotions[serving["switch"]]
        if serving and serving["effective"] == key and serving["kind"] in BACKWARD:
            kind, version = serving["kind"], f"v{serving['version']}"
            down = kind == ledger.STEPPED_DOWN
            does = "serves no more" if down else "serves again"
            note = f"{kind}: {version} {does} from this night on ({serving['reason']})"
            switched = Alert("switch", version, None, None, note)
        there = key in monitored or key == night
        history.append(
            Night(
                key,
                str(serving["model"]) if serving else "",
                tuple(findings.from_rows(alarms[key])) if there else (),
                switched,
                "stop serving" if down else "roll back",
                ledger.vacancy(switches, key),
                demotion,
                decided.get(key, UNDECIDED) if there else None,
            )
        )
    return history


def _fitted(lake: Lake, champion: Row) -> str:
    """Return the last night that a champion was fitted on, empty where nothing recorded says so."""
    for attempt in lake.rows("attempts", {"key": champion["attempt"]}):
        evidence = json.loads(attempt["evidence"])
        return str(evidence.get("fitted") or evidence["last_fitted"])
    return ""


def _row(night: Night) -> dict[str, str]:
    decided = night.decided
    assert decided is not None
    told = json.dumps([asdict(alert) for alert in decided.alerts], ensure_ascii=False)
    return {
        "night": night.key,
        "decision": decided.decision,
        "cause": decided.cause,
        "reason": decided.reason,
        "alerts": told,
    }


def _decision(row: dict[str, str]) -> Decision:
    alerts = tuple(Alert(**alert) for alert in json.loads(row.get("alerts") or "[]"))
    return Decision(row["decision"], row["cause"], row["reason"], alerts)  # type: ignore[arg-type]  # as written
