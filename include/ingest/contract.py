"""Bad rows are set aside with the rule and the value, and a partition that has too many of them is refused.

The checks run in this order, each on the rows that passed the ones before it: ``type`` (text that isn't a
value), ``required``, ``day`` (the row is about another local day: a future date, a shifted time zone, another
day's file), ``agrees`` (a time whose local hour another column denies: a shifted time zone), ``key`` (rows of
one key that disagree; exact duplicates are dropped and counted), then the spec's expectations, then ``class``
(a label of a multiclass problem that isn't declared). Rows of many nights are checked at once; nothing of one
night bears on another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include import spool
from include.errors import PartitionRefused, SpecError
from include.ingest import repeats
from include.ingest.aggregates import UNIQUE, unmet
from include.ingest.classes import strange
from include.ingest.request import request
from include.ingest.rows import UNIT, Aside, Codes, Mask, Rows, numbered
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
    typed = spool.held(_kept_as(declared), _typed(rows, spec, source, aside))
    _key(typed, rows, declared, aside, dropped)
    _expectations(typed, rows, f"{spec.name}/{source}", declared, aside, dropped)
    strange(typed, spec, source, aside)
    kept = ~(aside.out | dropped)
    whole, sizes = spool.chosen(typed, pa.array(kept)), rows.per_unit(kept)
    refused = _refused(whole, sizes, rows, spec, source, aside, dropped)
    out = np.isin(np.arange(len(rows.units)), list(refused))
    return Checked(
        good=_sorted(whole, sizes, rows, declared, out),
        quarantine=aside.table(source),
        rows=np.where(out, 0, sizes),
        quarantined=rows.per_unit(aside.out),
        duplicates=rows.per_unit(dropped),
        refused=refused,
    )


def _kept_as(source: Source) -> pa.Schema:
    return pa.schema([validated(source).field(name) for name in source.columns])


def _typed(rows: Rows, spec: UseCase, source: str, aside: Aside) -> Iterator[pa.RecordBatch]:
    """Yield the typed rows, and set those aside that are told by themselves."""
    declared = spec.sources[source]
    for place, typed, bad in standardise(rows, declared):
        start = place.start
        for name, which in bad.items():
            aside.add(which, "type", name, start=start)
        _required(typed, declared, aside, start)
        _day(typed, rows, spec, source, aside, start)
        _agrees(typed, spec, declared, aside, start)
        yield from typed.cast(_kept_as(declared)).to_batches()


def _required(typed: pa.Table, source: Source, aside: Aside, start: int) -> None:
    before = ~aside.out[start : start + typed.num_rows]
    for name, column in source.columns.items():
        if column.required or name in source.key:
            aside.add(before & _mask(pc.is_null(typed[name])), "required", name, start=start)


def _day(typed: pa.Table, rows: Rows, spec: UseCase, source: str, aside: Aside, start: int) -> None:
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
    units = rows.unit(np.arange(start, start + typed.num_rows))
    asked = pa.array(rows.days, pa.date32()).take(pa.array(units))
    before = ~aside.out[start : start + typed.num_rows]
    other = _mask(pc.fill_null(pc.not_equal(values, asked), False))
    aside.add(before & other, "day", name, start=start)


def _agrees(typed: pa.Table, spec: UseCase, source: Source, aside: Aside, start: int) -> None:
    """Set rows aside whose local hour is another than that of the hhmm column beside it; 24:00 is hour 0."""
    for name, column in source.columns.items():
        if column.agrees is None:
            continue
        hour = pc.hour(_local(typed[name], spec)).cast(pa.int32())
        midnight = pc.equal(typed[column.agrees], 1440)
        said = pc.if_else(midnight, pa.scalar(0, pa.int32()), pc.divide(typed[column.agrees], 60))
        differs = _mask(pc.fill_null(pc.not_equal(hour, said), False))
        before = ~aside.out[start : start + typed.num_rows]
        aside.add(before & differs, "agrees", name, column.agrees, start=start)


def _local(values: Any, spec: UseCase) -> Any:
    """Return moments as the wall times of the schedule's time zone."""
    return pc.local_timestamp(values.cast(pa.timestamp("us", spec.schedule.timezone)))


def _key(typed: pa.Table, rows: Rows, source: Source, aside: Aside, dropped: Mask) -> None:
    """Drop exact duplicates, and set aside what is left of a key that has several rows."""
    keys = typed.select(list(source.key))
    repeated = repeats.shared(keys, rows.sizes, ~aside.out)
    if not repeated.any():
        return
    dropped |= repeats.said_before(typed, rows.sizes, repeated)
    aside.add(repeats.shared(keys, rows.sizes, repeated & ~dropped), "key", *source.key)


def _expectations(
    typed: pa.Table, rows: Rows, subject: str, source: Source, aside: Aside, dropped: Mask
) -> None:
    """Set rows aside that break an expectation about rows, or share a value that should be unique."""
    expectations = source.contract.expectations
    among = ~(aside.out | dropped)
    for number, start, which in broken(subject, expectations, typed, among):
        one = expectations[number]
        aside.add(which, one.rule, *one.columns, start=start, turn=number)
    for number, one in enumerate(expectations):
        if one.type in UNIQUE:
            present = among.copy()
            for name in one.columns:
                present &= _mask(pc.is_valid(typed[name]))
            out = repeats.shared(typed.select(list(one.columns)), rows.sizes, present)
            aside.add(out, one.rule, *one.columns, turn=number)


def _refused(
    whole: pa.Table, good: Codes, rows: Rows, spec: UseCase, source: str, aside: Aside, dropped: Mask
) -> dict[int, PartitionRefused]:
    """Return why units are refused: rows set aside, their number, an expectation of the whole."""
    contract, total = spec.sources[source].contract, rows.per_unit(~dropped)
    why: dict[int, tuple[str, str]] = {}
    for number in range(len(rows.units)):
        reason = _sizes(contract, int(total[number]), int(good[number]), partial(aside.common, number))
        if reason:
            why[number] = reason
    for number, expectation, value in unmet(f"{spec.name}/{source}", contract.expectations, whole, good):
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


def _sorted(whole: pa.Table, sizes: Codes, rows: Rows, source: Source, out: Mask) -> pa.Table:
    """Return the rows of units that aren't out with Evergreen's own columns, in the order of a digest."""
    own = pa.table(
        {
            "night": pa.array([one.night for one in rows.units], pa.string()),
            "revision": pa.array([one.revision for one in rows.units], pa.int32()),
            "known_at": pa.array([one.moment for one in rows.units], pa.timestamp("us", tz="UTC")),
        }
    )

    def made() -> Iterator[pa.RecordBatch]:
        for batch in _in_order(numbered(whole, sizes), whole.nbytes, source.key):
            units = batch.column(UNIT)
            mine = own.take(units)
            columns = [batch.column(name) for name in source.columns] + mine.columns
            table = pa.table(columns, schema=validated(source))
            yield from table.filter(pa.array(~out[units.to_numpy()])).to_batches()

    return spool.held(validated(source), made())


def _in_order(rows: pa.RecordBatchReader, size: int, key: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield rows sorted by unit, which is by night and revision, and by key."""
    if size <= spool.HELD:
        by = [(name, "ascending") for name in (UNIT, *key)]
        yield from rows.read_all().sort_by(by).combine_chunks().to_batches()
        return
    order = ", ".join(f'"{name}"' for name in (UNIT, *key))  # a source's names have no quote
    with spool.engine() as connection:
        connection.register("given", rows)
        found = connection.sql(f"SELECT * FROM given ORDER BY {order}")  # noqa: S608 - quoted names
        yield from found.to_arrow_reader(spool.BATCH)


def _mask(values: pa.ChunkedArray) -> Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)
