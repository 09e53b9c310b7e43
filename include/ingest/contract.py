"""Bad rows are set aside with the rule and the value, and a partition that has too many of them is refused.

The checks run in this order, each on the rows that passed the ones before it: ``type`` (text that isn't a
value), ``required``, ``day`` (the row is about another local day: a future date, a shifted time zone, another
day's file), ``agrees`` (a time whose local hour another column denies: a shifted time zone), ``key`` (rows of
one key that disagree; exact duplicates are dropped and counted), then the spec's expectations, then ``class``
(a label of a multiclass problem that isn't declared). Rows of many nights are checked at once; nothing of one
night bears on another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import PartitionRefused, SpecError
from include.ingest.aggregates import UNIQUE, unmet
from include.ingest.classes import strange
from include.ingest.request import request
from include.ingest.rows import Aside, Codes, Mask, Rows
from include.ingest.standardise import standardise
from include.ingest.suite import broken
from include.spec import UseCase
from include.spec.source import Contract, Source
from include.tables import validated

REMEDY = "correct it at the source and run the night with fetch_anew, or change the contract in the spec"


@dataclass(frozen=True)
class Checked:
    """What a contract makes of rows.

    Parameters
    ----------
    good : the rows that passed, sorted by night, revision and key, in the validated table's schema.
    quarantine : the rows set aside, in the quarantine's schema.
    rows, quarantined, duplicates : how many rows of each unit are good, set aside, dropped as exact
    duplicates. refused : the error of each unit that is refused; ``good`` has none of its rows.
    """

    good: pa.Table
    quarantine: pa.Table
    rows: Codes
    quarantined: Codes
    duplicates: Codes
    refused: Mapping[int, PartitionRefused]


def check(rows: Rows, spec: UseCase, source: str) -> Checked:
    """Check rows of any number of nights against a source's contract.

    Parameters
    ----------
    rows : with cleaned text.

    Raises
    ------
    SpecError
        for an expectation that can't be answered.
    """
    declared = spec.sources[source]
    aside, dropped = Aside(rows), np.zeros(len(rows), bool)
    typed, bad = standardise(rows, declared)
    for name, which in bad.items():
        aside.add(which, "type", name)
    _required(typed, declared, aside)
    _day(typed, rows, spec, source, aside)
    _agrees(typed, spec, declared, aside)
    _key(typed, rows, declared, aside, dropped)
    _expectations(typed, rows, f"{spec.name}/{source}", declared, aside, dropped)
    strange(typed, spec, source, aside)
    refused = _refused(typed, rows, spec, source, aside, dropped)
    kept = ~(aside.out | dropped | np.isin(rows.unit, list(refused)))
    return Checked(
        good=_sorted(typed, rows, declared, kept),
        quarantine=aside.table(source),
        rows=rows.per_unit(kept),
        quarantined=rows.per_unit(aside.out),
        duplicates=rows.per_unit(dropped),
        refused=refused,
    )


def _required(typed: pa.Table, source: Source, aside: Aside) -> None:
    before = ~aside.out
    for name, column in source.columns.items():
        if column.required or name in source.key:
            aside.add(before & _mask(pc.is_null(typed[name])), "required", name)


def _day(typed: pa.Table, rows: Rows, spec: UseCase, source: str, aside: Aside) -> None:
    """Set rows aside whose local date is not the day asked for."""
    name = spec.sources[source].day
    if name is None:
        return
    values = typed[name].combine_chunks()
    if pa.types.is_timestamp(values.type):
        values = _local(values, spec).cast(pa.date32())
    elif not pa.types.is_date(values.type):
        raise SpecError(
            f"{spec.name}: sources.{source}.day",
            required="a date or timestamp column",
            found=str(values.type),
        )
    asked = pa.array(rows.days, pa.date32()).take(pa.array(rows.unit))
    aside.add(~aside.out & _mask(pc.fill_null(pc.not_equal(values, asked), False)), "day", name)


def _agrees(typed: pa.Table, spec: UseCase, source: Source, aside: Aside) -> None:
    """Set rows aside whose local hour is another than that of the hhmm column beside it; 24:00 is hour 0."""
    for name, column in source.columns.items():
        if column.agrees is None:
            continue
        hour = pc.hour(_local(typed[name], spec)).cast(pa.int32())
        midnight = pc.equal(typed[column.agrees], 1440)
        said = pc.if_else(midnight, pa.scalar(0, pa.int32()), pc.divide(typed[column.agrees], 60))
        differs = _mask(pc.fill_null(pc.not_equal(hour, said), False))
        aside.add(~aside.out & differs, "agrees", name, column.agrees)


def _local(values: Any, spec: UseCase) -> Any:
    """Return moments as the wall times of the schedule's time zone."""
    return pc.local_timestamp(values.cast(pa.timestamp("us", spec.schedule.timezone)))


def _key(typed: pa.Table, rows: Rows, source: Source, aside: Aside, dropped: Mask) -> None:
    """Drop exact duplicates, and set aside what is left of a key that has several rows."""
    repeated = _repeated(typed, rows, source.key, ~aside.out)
    if not repeated.any():
        return
    places = np.flatnonzero(repeated)
    some = typed.take(pa.array(places)).to_pandas()
    some["unit of rows"] = rows.unit[places]
    exact = some.duplicated(keep="first").to_numpy()
    dropped[places[exact]] = True
    aside.add(_repeated(typed, rows, source.key, ~aside.out & ~dropped), "key", *source.key)


def _repeated(typed: pa.Table, rows: Rows, columns: tuple[str, ...], among: Mask) -> Mask:
    """Return which rows share the values of columns with another row of their unit."""
    places = np.flatnonzero(among)
    frame = typed.select(list(columns)).take(pa.array(places)).to_pandas()
    frame["unit of rows"] = rows.unit[places]
    found = np.zeros(len(rows), bool)
    found[places] = frame.duplicated(keep=False).to_numpy()
    return found


def _expectations(
    typed: pa.Table, rows: Rows, subject: str, source: Source, aside: Aside, dropped: Mask
) -> None:
    """Set rows aside that break an expectation about rows, or share a value that should be unique."""
    expectations = source.contract.expectations
    among = ~(aside.out | dropped)
    places = np.flatnonzero(among)
    for expectation, which in broken(subject, expectations, typed.take(pa.array(places))):
        out = np.zeros(len(rows), bool)
        out[places[which]] = True
        aside.add(out, expectation.rule, *expectation.columns)
    for expectation in expectations:
        if expectation.type in UNIQUE:
            columns = expectation.columns
            present = np.ones(len(rows), bool)
            for name in columns:
                present &= _mask(pc.is_valid(typed[name]))
            out = _repeated(typed, rows, columns, among & present)
            aside.add(out, expectation.rule, *columns)


def _refused(
    typed: pa.Table, rows: Rows, spec: UseCase, source: str, aside: Aside, dropped: Mask
) -> dict[int, PartitionRefused]:
    """Return why units are refused: rows set aside, their number, an expectation of the whole."""
    contract, kept = spec.sources[source].contract, ~(aside.out | dropped)
    total, good = rows.per_unit(~dropped), rows.per_unit(kept)
    why: dict[int, tuple[str, str]] = {}
    for number in range(len(rows.units)):
        reason = _sizes(contract, int(total[number]), int(good[number]), partial(aside.common, number))
        if reason:
            why[number] = reason
    whole = typed.filter(pa.array(kept))
    for number, expectation, value in unmet(
        f"{spec.name}/{source}", contract.expectations, whole, rows.unit[kept], len(rows.units)
    ):
        about = ", ".join(expectation.columns)
        why.setdefault(number, (expectation.rule + (f" of {about}" if about else ""), value))
    return {
        number: PartitionRefused(
            request(spec, source, rows.units[number].night, rows.units[number].revision).subject,
            required=required,
            found=found,
            where=rows.units[number].files,
            remedy=REMEDY,
        )
        for number, (required, found) in why.items()
    }


def _sizes(contract: Contract, total: int, good: int, common: Callable[[], str]) -> tuple[str, str] | None:
    """Return what is required and found where too many rows are set aside, or too few are left."""
    if total and (total - good) / total > contract.tolerance:
        share = (total - good) / total
        return (
            f"at most {contract.tolerance:.1%} of rows set aside",
            f"{share:.1%} of {total} rows: {common()}",
        )
    if contract.min_rows <= good <= (contract.max_rows or good):
        return None
    aside = f" of {total}, the others set aside: {common()}" if good < total else ""
    return f"{contract.min_rows} to {contract.max_rows or 'any number of'} rows", f"{good}{aside}"


def _sorted(typed: pa.Table, rows: Rows, source: Source, kept: Mask) -> pa.Table:
    """Return the kept rows with Evergreen's own columns, in the one order that a digest needs."""
    unit = pa.array(rows.unit[kept])
    own = {
        "night": pa.array([one.night for one in rows.units], pa.string()).take(unit),
        "revision": pa.array([one.revision for one in rows.units], pa.int32()).take(unit),
        "known_at": pa.array([one.moment for one in rows.units], pa.timestamp("us", tz="UTC")).take(unit),
    }
    table = typed.filter(pa.array(kept))
    for name, values in own.items():
        table = table.append_column(name, values)
    order = [(name, "ascending") for name in ("night", "revision", *source.key)]
    return table.cast(validated(source)).sort_by(order)


def _mask(values: pa.ChunkedArray) -> Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)
