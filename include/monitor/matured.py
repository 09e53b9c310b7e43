"""Realised performance by day, week, version, rung or slice, as it was known on a night or is known now.

By day it is what was reported. Everything else is measured on the pooled rows, since a week's ROC-AUC isn't
the mean of its days'; so what is read is bounded to `NIGHTS` unless a range is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include import outputs
from include.errors import EvergreenError, NotPublished
from include.evaluate import columns
from include.evaluate.slices import cut
from include.features.build import features, labels
from include.lake import Lake
from include.monitor.performance import beside, figures
from include.monitor.state import REALISED
from include.spec import UseCase

BY = ("day", "week", "version", "rung", "slice")
NIGHTS = 90  # scored nights that are looked back over, unless a range is given
Row = dict[str, Any]
Group = tuple[str, NDArray[np.intp]]


def matured(
    lake: Lake, spec: UseCase, by: str, *, known: str | None = None, first: str = "", last: str = ""
) -> list[Row]:
    """Return the realised figures of scored nights, a row a group.

    Parameters
    ----------
    by : one of `BY`. A week is ISO 8601's; the slices are the gate's declared columns'.
    known : the night as of which labels count; None for what is known now.
    first, last : the range of scored nights; without ``first`` the `NIGHTS` up to the last.

    Returns
    -------
    list of dict
        ``by``'s name -> group, ``nights``, ``rows`` with a label, ``unlabelled`` (rows of the same nights
        without one), and each metric, None where the rows can't give it; of a day also ``known``: the night
        as of which the figures are. A night whose labels weren't known isn't there.

    Raises
    ------
    EvergreenError
        when ``by`` is something else, no slice is declared, or the range ends before it begins.
    NotPublished
        when nothing was predicted in the range.
    """
    if by not in BY or (by == "slice" and not spec.gate.slices.columns):
        wanted = f"one of {', '.join(BY)}" if by not in BY else "columns under gate.slices.columns"
        raise EvergreenError(f"{spec.name}: performance by {by}", required=wanted, found="none such")
    if first and last and first > last:
        wanted = "a first night before the last"
        raise EvergreenError(f"{spec.name}: performance", required=wanted, found=f"{first} to {last}")
    nights = _scored(lake, spec, first, last)
    if by == "day":
        return _reported(lake, nights, known)
    came = labels(lake, spec, nights, known=known)
    if not came.num_rows:
        return []
    rows = beside(lake, spec, came["night"].unique().to_pylist(), came)
    return [_group(spec, by, name, rows.take(places)) for name, places in _groups(lake, spec, by, rows)]


def _scored(lake: Lake, spec: UseCase, first: str, last: str) -> list[str]:
    """Return the scored nights of a range, of one without a beginning the last ones."""
    where = {"product": "predictions", "outcome": "published"}
    read = lake.read("partitions", where, ["night", "rows"])
    there = sorted({row["night"] for row in read.to_pylist() if row["rows"]}) if read is not None else []
    nights = [key for key in there if key >= first and (not last or key <= last)]
    if not nights:
        raise NotPublished(
            f"{spec.name}: performance",
            required=f"scored nights from {first or 'the first'} to {last or 'the last'}",
            found=f"those of {there[0]} to {there[-1]}" if there else "none yet",
            where=f"{lake.uri}/tables/predictions",
        )
    return nights if first else nights[-NIGHTS:]


def _reported(lake: Lake, nights: Sequence[str], known: str | None) -> list[Row]:
    """Return what was reported of each night last, by a night or until now."""
    newest: dict[str, dict[str, Row]] = {}
    for row in sorted(lake.rows(REALISED, {"night": list(nights)}), key=lambda row: str(row["known"])):
        if known is None or row["known"] <= known:
            newest.setdefault(row["night"], {})[row["metric"]] = row
    found = []
    for night, metrics in sorted(newest.items()):
        any_of = next(iter(metrics.values()))
        said = {name: any_of[name] for name in ("known", "rows", "unlabelled")}
        values = {name: row["value"] for name, row in sorted(metrics.items()) if ":" not in name}
        found.append({"day": night, "nights": 1, **said, **values})
    return found


def _groups(lake: Lake, spec: UseCase, by: str, rows: pa.Table) -> Iterator[Group]:
    """Yield each group's name and the places of its rows."""
    if by == "slice":
        for name, column in _declared(lake, spec, rows).items():
            parts = cut(column)
            for place, part in enumerate(parts.names):
                yield f"{name} {part}", np.flatnonzero(parts.codes == place)
        return
    of = rows["night" if by == "week" else by].to_pylist()
    if by == "week":
        weeks = {night: "{}-W{:02}".format(*date.fromisoformat(night).isocalendar()) for night in set(of)}
        of = [weeks[night] for night in of]
    groups = np.asarray(of, dtype=object)
    for name in sorted(set(of)):
        yield (name or "none (a constant)", np.flatnonzero(groups == name))


def _declared(lake: Lake, spec: UseCase, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the declared slices' columns; the features are only made where one of them is no source's."""
    names, keys = spec.gate.slices.columns, [*spec.key, "night"]
    made = [name for name in names if name in spec.features.columns and name not in spec.key]
    if made:
        seen = features(lake, spec, rows["night"].unique().to_pylist()).select([*keys, *made])
        rows = rows.join(seen, keys, join_type="left outer")
        rows = rows.sort_by([(name, "ascending") for name in ("night", *spec.key)])
    found = columns.beside(lake, spec, rows, names)
    return {name: found[name] for name in names}


def _group(spec: UseCase, by: str, name: str, rows: pa.Table) -> Row:
    target = spec.problem.target
    labelled = rows.filter(rows[target].is_valid())
    values = figures(spec, labelled[target].to_numpy(), outputs.array(spec, labelled))
    size = {"nights": len(rows["night"].unique()), "rows": labelled.num_rows}
    return {by: name, **size, "unlabelled": rows.num_rows - labelled.num_rows, **values}
