"""Tell of each column whether the night breaks with the weeks before, by the limits of the last training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from include import profile
from include.lake import Lake
from include.monitor import alarms
from include.monitor.drift import Counts, Cut
from include.monitor.findings import Finding
from include.spec.stages import Alarms

Row = Mapping[str, Any]
ENOUGH = 0.75  # of the past must be there


@dataclass(frozen=True)
class Past:
    """A column's counts on the nights up to the one that is judged, and from where on it alarms.

    Parameters
    ----------
    counts : the night itself last, shape (nights, bins); None where the night has no such column.
    limit : None where the training had too few nights to tell.
    """

    counts: Counts | None
    limit: float | None


def read(lake: Lake, row: Row | None) -> dict[str, Row]:
    """Return the rows of `limits` of a training by column, none before there was one.

    Parameters
    ----------
    row : of `partitions`.
    """
    return {r["column"]: r for r in lake.rows("limits", {"night": row["night"]})} if row else {}


def past(limit: Row, profiles: Mapping[str, Row], night: str, rules: Alarms) -> Past:
    """Return a column's nights: as they were published, or else as the training saw them.

    Parameters
    ----------
    profiles : the column's rows of `profiles` by night.
    """
    if night not in profiles:
        return Past(None, None)
    how = json.loads(limit["cut"])
    cut = Cut(tuple(how["edges"]), None if how["names"] is None else tuple(how["names"]))
    seen = dict(zip(json.loads(limit["nights"]), json.loads(limit["counts"]), strict=True))
    seen |= {key: cut.profile(profile.merge([row])[row["column"]]) for key, row in profiles.items()}
    keys = sorted(key for key in seen if key <= night)[-rules.past - rules.of :]
    known = limit["middle"] is not None
    height = float(np.exp(limit["middle"] + limit["height"] * limit["spread"])) if known else None
    return Past(np.array([seen[key] for key in keys], dtype=np.float64), height)


def judge(name: str, given: Past, rules: Alarms) -> Finding:
    """Judge a column's night against its past."""
    needed = round(ENOUGH * rules.past) + rules.of
    why = ""
    if given.counts is None:
        why = f"{name} isn't there"
    elif given.limit is None:
        why = f"{name}: the last training had too few nights to tell how far it jumps without a fault"
    elif len(given.counts) < needed:
        why = (
            f"{name}: {len(given.counts)} nights are there of {needed} that a comparison with the past needs"
        )
    if why or given.counts is None or given.limit is None:
        return Finding("drift", name, None, given.limit, "not enough", why)
    value, alarm = alarms.judge(given.counts, given.limit, rules)
    if not np.isfinite(value):
        why = f"{name} has no row on this night or before it"
        return Finding("drift", name, None, given.limit, "not enough", why)
    side = "breaks with" if alarm else "is further than its limit from" if value > given.limit else "is like"
    note = f"{name} {side} the {len(given.counts) - rules.of} nights before: {value:.3g}, limit "
    note += f"{given.limit:.3g} on {rules.nights} of {rules.of} nights"
    return Finding("drift", name, value, given.limit, "alarm" if alarm else "ok", note)
