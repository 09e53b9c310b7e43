"""Tell of each column whether the night breaks with the weeks before, by the limits of the last training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from include import profile
from include.digits import beside
from include.lake import Lake
from include.monitor import alarms
from include.monitor.compare import Seen
from include.monitor.findings import Finding
from include.monitor.measures import Counts, Cut
from include.monitor.state import State
from include.spec import UseCase
from include.spec.stages import Jumps

Row = Mapping[str, Any]
UNTOLD = "no training has told how far it jumps without a fault"


@dataclass(frozen=True)
class Past:
    """A column's counts on the nights up to the one that is judged, and from where on it alarms.

    Parameters
    ----------
    counts : the night itself last, shape (nights, bins); None where the night has no such column, or one of
        another kind than the training saw.
    limit : None where the training had too few nights to tell.
    """

    counts: Counts | None
    limit: float | None


def jumped(lake: Lake, spec: UseCase, night: str, state: State, seen: Seen) -> list[Finding]:
    """Judge each feature by the limits of the last training, and predictions by those of the champion's."""
    trained, champion, nights = state.limits(night), state.champion(night), state.past(night)
    if trained is None or not nights:
        why = "no training has told yet how far a column jumps without a fault"
        why = why if trained is None else "too few nights before it were scored to compare it with"
        return [Finding("jump", "features", None, None, "not enough", why)]
    own, newest = seen.own(nights, state.model(night)), _limits(lake, trained["night"], _model(trained))
    champions = _limits(lake, champion["evidence"], champion["model"]) if champion else {}
    found = []
    for name in (*spec.features.columns, *spec.problem.outputs):
        mine = name in spec.problem.outputs
        limit = (champions if mine else newest).get(name)
        if limit is None or (mine and night not in own):
            why = f"{name} isn't this champion's tonight" if limit else f"{name}: {UNTOLD}"
            found.append(Finding("jump", name, None, None, "not enough", why))
            continue
        profiles = {row["night"]: row for row in seen.of(name, own if mine else nights)}
        found.append(judge(name, past(limit, profiles, night, spec.monitoring.jumps), spec.monitoring.jumps))
    return found


def _model(trained: Row) -> str:
    """Return the digest of the model that a training fitted last; empty of one before it was written."""
    return str(json.loads(trained["inputs"]).get("model", ""))


def _limits(lake: Lake, night: str, model: str) -> dict[str, Row]:
    """Return the limits that the training of a night published with a model, by column."""
    where = {"night": night, "model": model} if model else {"night": night}
    return {row["column"]: row for row in lake.rows("limits", where)} if night else {}


def past(limit: Row, profiles: Mapping[str, Row], night: str, rules: Jumps) -> Past:
    """Return a column's nights: as they were published, or else as the training saw them.

    Parameters
    ----------
    profiles : the column's rows of `profiles` by night.
    """
    how = json.loads(limit["cut"])
    kind = "numeric" if how["names"] is None else "categorical"
    profiles = {key: row for key, row in profiles.items() if row["kind"] == kind}
    if night not in profiles:
        return Past(None, None)
    cut = Cut(tuple(how["edges"]), None if how["names"] is None else tuple(how["names"]))
    seen = dict(zip(json.loads(limit["nights"]), json.loads(limit["counts"]), strict=True))
    seen |= {key: cut.profile(profile.merge([row])[row["column"]]) for key, row in profiles.items()}
    keys = sorted(key for key in seen if key <= night)[-rules.past - rules.of :]
    known = limit["middle"] is not None
    height = float(np.exp(limit["middle"] + limit["height"] * limit["spread"])) if known else None
    return Past(np.array([seen[key] for key in keys], dtype=np.float64), height)


def judge(name: str, given: Past, rules: Jumps) -> Finding:
    """Judge a column's night against its past."""
    why = ""
    if given.counts is None:
        why = f"{name} isn't there, or is of another kind than the last training saw"
    elif given.limit is None:
        why = f"{name}: the last training had too few nights to tell how far it jumps without a fault"
    elif len(given.counts) < rules.enough:
        why = f"{name}: {len(given.counts)} nights are there, a comparison with the past needs {rules.enough}"
    if why or given.counts is None or given.limit is None:
        return Finding("jump", name, None, given.limit, "not enough", why)
    value, alarm = alarms.judge(given.counts, given.limit, rules)
    if not np.isfinite(value):
        why = f"{name} has no row on this night or before it"
        return Finding("jump", name, None, given.limit, "not enough", why)
    side = "breaks with" if alarm else "is further than its limit from" if value > given.limit else "is like"
    text, bound = beside(value, given.limit, 3)
    note = f"{name} {side} the {len(given.counts) - rules.of} nights before: {text}, limit "
    note += f"{bound} on {rules.nights} of {rules.of} nights"
    return Finding("jump", name, value, given.limit, "alarm" if alarm else "ok", note)
