"""Every measure of every column of a night, as rows of `drift`: a product of its own beside the findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from include import profile
from include.lake import Lake
from include.monitor.measures import measured
from include.monitor.reference import Reference
from include.monitor.state import State
from include.spec import UseCase
from include.tables import DRIFT

PRODUCT = "drift"


def sides(
    spec: UseCase, state: State, night: str, served: Sequence[Mapping[str, str]]
) -> dict[str, list[str]]:
    """Return for each column the nights of its window: features, predictions and, as they mature, labels.

    Parameters
    ----------
    served : who served each row of the window's nights; of predictions only the champion's own nights count.
    """
    window, came = state.window(night), state.matured(night)[-spec.monitoring.window :]
    return {
        **dict.fromkeys(spec.features.columns, window),
        **dict.fromkeys(spec.problem.outputs, own(served, window, state.model(night))),
        spec.problem.target: came,
    }


def own(served: Iterable[Mapping[str, str]], nights: Sequence[str], champion: str) -> list[str]:
    """Return those nights on which a champion served every row, a canary's share aside."""
    by: dict[str, set[str]] = {key: set() for key in nights}
    for row in served:
        # a canary's share of a night changes little of how the champion's predictions lie
        if row["rung"] != "canary" and row["night"] in by:
            by[row["night"]].add(row["model"])
    return [key for key, models in by.items() if models == {champion}]


def rows(lake: Lake, night: str, nights: Mapping[str, Sequence[str]]) -> dict[str, list[dict[str, object]]]:
    """Return the rows of `profiles` of each column's window, those of the night itself among them.

    Parameters
    ----------
    nights : of `sides`.
    """
    wanted = sorted({night, *(key for keys in nights.values() for key in keys)})
    products = ["features", "predictions", profile.LABELS]
    found = lake.rows("profiles", {"product": products, "night": wanted})
    return {
        name: [row for row in found if row["column"] == name and row["night"] in keys]
        for name, keys in nights.items()
    }


def table(
    night: str, learnt: Reference | None, window: Mapping[str, Sequence[Mapping[str, object]]]
) -> pa.Table:
    """Return a night's rows of `drift`, in one order; none for what has no reference or no window.

    Parameters
    ----------
    window : of `rows`.
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
