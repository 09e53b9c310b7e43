"""What a row alone tells: whether it can be read, is complete, and is of the day asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include import spool
from include.errors import SpecError
from include.ingest.rows import Aside, Rows, mask
from include.ingest.standardise import contradicts_zone, standardise
from include.spec import UseCase
from include.spec.source import Source
from include.tables import validated


def told(rows: Rows, spec: UseCase, source: str, aside: Aside) -> pa.Table:
    """Return the typed rows, batch by batch, and set those aside that are told by themselves.

    Raises
    ------
    SpecError
        for a day that is no date or time.
    """
    return spool.held(_kept_as(spec.sources[source]), _typed(rows, spec, source, aside))


def _kept_as(source: Source) -> pa.Schema:
    return pa.schema([validated(source).field(name) for name in source.columns])


def _typed(rows: Rows, spec: UseCase, source: str, aside: Aside) -> Iterator[pa.RecordBatch]:
    declared = spec.sources[source]
    for place, typed, bad in standardise(rows, declared):
        start = place.start
        for name, which in bad.items():
            aside.add(which, "type", name, start=start)
        _zone(rows.text.slice(start, typed.num_rows), declared, aside, start)
        _required(typed, declared, aside, start)
        _day(typed, rows, spec, source, aside, start)
        _agrees(typed, rows, spec, declared, aside, start)
        yield from typed.cast(_kept_as(declared)).to_batches()


def _zone(text: pa.Table, source: Source, aside: Aside, start: int) -> None:
    """Set rows aside whose text has an offset that the column's declared time zone hasn't."""
    for name, column in source.columns.items():
        if column.type == "timestamp" and column.timezone and not column.hashed:
            zone = column.timezone
            rule = (
                f"timezone(an offset that {zone} has then, or leave out `timezone` to go by each text's own)"
            )
            aside.add(contradicts_zone(text[name].combine_chunks(), column), rule, name, start=start)


def _required(typed: pa.Table, source: Source, aside: Aside, start: int) -> None:
    before = ~aside.out[start : start + typed.num_rows]
    for name, column in source.columns.items():
        if column.required or name in source.key:
            aside.add(before & mask(pc.is_null(typed[name])), "required", name, start=start)


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
    other = mask(pc.fill_null(pc.not_equal(values, asked), False))
    aside.add(before & other, "day", name, start=start)


def _agrees(typed: pa.Table, rows: Rows, spec: UseCase, source: Source, aside: Aside, start: int) -> None:
    """Set rows aside whose local hour is another than that of the hhmm column beside it; 24:00 is hour 0."""
    for name, column in source.columns.items():
        if column.agrees is None:
            continue
        wall = _local(typed[name], spec)
        hour = pc.hour(wall).cast(pa.int32())
        midnight = pc.equal(typed[column.agrees], 1440)
        said = pc.if_else(midnight, pa.scalar(0, pa.int32()), pc.divide(typed[column.agrees], 60))
        differs = mask(pc.fill_null(pc.not_equal(hour, said), False))
        before = ~aside.out[start : start + typed.num_rows]
        aside.add(before & differs, "agrees", name, column.agrees, start=start)
        places = np.flatnonzero(before & differs)
        _, first = np.unique(rows.unit(places + start), return_index=True)
        for place in places[first].tolist():  # a refusal shows the first of its unit
            hours, minutes = divmod(typed[column.agrees][place].as_py(), 60)
            aside.computed["agrees", (name, column.agrees), start + place] = (
                f"{name} is {wall[place].as_py():%Y-%m-%d %H:%M} in {spec.schedule.timezone} "
                f"and {column.agrees} says {hours:02}:{minutes:02}"
            )


def _local(values: Any, spec: UseCase) -> Any:
    """Return moments as the wall times of the schedule's time zone."""
    return pc.local_timestamp(values.cast(pa.timestamp("us", spec.schedule.timezone)))
