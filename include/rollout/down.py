"""A champion that was below its baseline for the declared time goes, until a person or a promotion ends it.

The baseline serves instead, and not the champion before: nobody has shown that one to be better.
"""

from __future__ import annotations

from include.lake import Lake
from include.monitor.degraded import to_step_down
from include.monitor.sums import series
from include.promote import ledger
from include.promote.grow import Row
from include.promote.switch import WITHDRAWN
from include.rollout.trial import CHALLENGER
from include.spec import UseCase


def step_down(lake: Lake, spec: UseCase, night: str, by: str) -> str:
    """Let the ladder serve without its champion from the next unserved night, and return why; else nothing.

    Parameters
    ----------
    night : the newest served night; labels count as far as they are realised and known by then.
    by : who switches.
    """
    line = ledger.champions(ledger.switches(lake))
    if not line:
        return ""
    champion = line[-1]
    # of one that has stepped down no night is looked at: it serves none from its switch on
    why = to_step_down(spec, series(lake, champion, night))

    def decide(rows: list[Row]) -> list[Row] | None:
        if ledger.champions(rows)[-1]["switch"] != champion["switch"]:
            return None  # somebody switched meanwhile, and meant it
        effective = ledger.next_unserved(lake, spec, night)
        said = {"kind": ledger.STEPPED_DOWN, "by": by, "reason": why, "effective": effective, "request": ""}
        # with its baseline, which comes back with it; who was to replace it is tried against nobody any more
        tried = [row for row in rows if row["role"] == CHALLENGER and row["switch"] > champion["switch"]][-1:]
        ended = [{**row, **said, "kind": WITHDRAWN} for row in tried if row["kind"] != WITHDRAWN]
        own = [row for row in rows if row["switch"] == champion["switch"] and row["role"] != CHALLENGER]
        return [*({**row, **said} for row in own), *ended]

    done = ledger.switch(lake, decide) if why else None
    return f"v{champion['version']} steps down from {done['effective']} on: {why}" if done else ""
