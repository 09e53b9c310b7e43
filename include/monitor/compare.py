"""Every measure of every column of a night, as rows of `drift`: a product of its own beside the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from include import profile
from include.lake import Lake
from include.monitor.measures import measured
from include.monitor.reference import Reference
from include.monitor.state import State
from include.spec import UseCase
from include.tables import DRIFT

PRODUCT = "drift"


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a night looks at of the nights around it, read once.

    Parameters
    ----------
    served : how many ``rows`` of a night each rung, model and reason served.
    profiles : rows of `profiles` by column and night, of features, predictions and labels.
    """

    served: Sequence[Row]
    profiles: Mapping[str, Mapping[str, Row]]

    def of(self, name: str, nights: Sequence[str]) -> list[Row]:
        """Return a column's profiles of those of the nights that have one, in the nights' order."""
        rows = self.profiles.get(name, {})
        return [rows[night] for night in nights if night in rows]

    def own(self, nights: Sequence[str], champion: str) -> list[str]:
        """Return those nights on which a champion served every row, a canary's share aside."""
        by: dict[str, set[str]] = {key: set() for key in nights}
        for row in self.served:
            # a canary's share of a night changes little of how the champion's predictions lie
            if row["rung"] != "canary" and row["night"] in by:
                by[row["night"]].add(row["model"])
        return [key for key, models in by.items() if models == {champion}]


def look(lake: Lake, spec: UseCase, state: State, night: str) -> Seen:
    """Read who served the nights that a night is compared with, and their profiles."""
    scored = sorted({*state.window(night), *state.past(night), *state.lately(night)})
    who = ["night", "rung", "reason", "model"]
    read = lake.read("predictions", {"night": scored}, who) if scored else None
    served = [] if read is None else read.group_by(who).aggregate([([], "count_all")]).to_pylist()
    wanted = sorted({night, *scored, *state.matured(night)[-spec.monitoring.window :]})
    profiles: dict[str, dict[str, Row]] = {}
    for row in lake.rows(
        "profiles", {"product": ["features", "predictions", profile.LABELS], "night": wanted}
    ):
        profiles.setdefault(row["column"], {})[row["night"]] = row
    return Seen([{**row, "rows": row["count_all"]} for row in served], profiles)


def sides(spec: UseCase, state: State, night: str, seen: Seen) -> dict[str, list[Row]]:
    """Return each column's profiles over its window: features, predictions and, as they mature, labels.

    Of predictions only the champion's own nights count.
    """
    window, came = state.window(night), state.matured(night)[-spec.monitoring.window :]
    if night not in window:
        return {}
    nights = {
        **dict.fromkeys(spec.features.columns, window),
        **dict.fromkeys(spec.problem.outputs, seen.own(window, state.model(night))),
        spec.problem.target: came,
    }
    return {name: seen.of(name, keys) for name, keys in nights.items()}


def table(night: str, learnt: Reference | None, window: Mapping[str, Sequence[Row]]) -> pa.Table:
    """Return a night's rows of `drift`, in one order; none for what has no reference or no window.

    Parameters
    ----------
    window : of `sides`.
    """
    made = []
    for name, of in sorted(window.items()):
        column = learnt.columns.get(name) if learnt else None
        if column is None or not of or {row["kind"] for row in of} != {column.profile.kind}:
            continue
        current = profile.merge(of)[name]
        same = {"night": night, "column": name, "rows": current.count, "nights": len(of)}
        found = measured(column.cut, column.profile, current)
        made += [{**same, "measure": measure, "value": value} for measure, value in sorted(found.items())]
    return pa.Table.from_pylist(made, schema=DRIFT)
