"""Bad rows are set aside with the rule and the value, and a partition that has too many of them is refused.

The checks run in this order, each on the rows that passed the ones before it: ``type`` (text that isn't a
value), ``timezone`` (a time whose offset the declared time zone contradicts), ``required``, ``day`` (the row
is about another local day: a future date, a shifted time zone, another day's file), ``agrees`` (a time whose
local hour another column denies: a shifted time zone), ``key`` (rows of one key that disagree; exact
duplicates are dropped and counted), then the spec's expectations, then ``class`` (a label of a multiclass
problem that isn't declared). Rows of many partitions are checked at once; nothing of one partition bears on
another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import PartitionRefused, SpecError
from include.ingest.connectors.request import FETCH_ANEW, request
from include.ingest.parsing.types import contradicts_zone, to_declared_types
from include.ingest.validation import rows as repeats
from include.ingest.validation.compiled import UNIQUE, unmet_aggregates
from include.ingest.validation.expectations import broken_expectations
from include.ingest.validation.rows import UNIT, Codes, Mask, Quarantine, RawRows, mask, with_unit_numbers
from include.spec import UseCase
from include.spec.source import Contract, Source
from include.stats.formatting import figure_and_limit
from include.storage import spill
from include.storage.schemas import validated_schema


def apply_row_rules(rows: RawRows, spec: UseCase, source: str, aside: Quarantine) -> pa.Table:
    """Return the typed rows, batch by batch, and set those aside that are told by themselves.

    Raises
    ------
    SpecError
        for a day that is no date or time.
    """
    return spill.spill_table(_kept_as(spec.sources[source]), _typed(rows, spec, source, aside))


def _kept_as(source: Source) -> pa.Schema:
    return pa.schema([validated_schema(source).field(name) for name in source.columns])


def _typed(rows: RawRows, spec: UseCase, source: str, aside: Quarantine) -> Iterator[pa.RecordBatch]:
    declared = spec.sources[source]
    for place, typed, bad in to_declared_types(rows, declared):
        start = place.start
        for name, which in bad.items():
            aside.add(which, "type", name, start=start)
        _zone(rows.text.slice(start, typed.num_rows), declared, aside, start)
        _required(typed, declared, aside, start)
        _day(typed, rows, spec, source, aside, start)
        _agrees(typed, rows, spec, declared, aside, start)
        yield from typed.cast(_kept_as(declared)).to_batches()


def _zone(text: pa.Table, source: Source, aside: Quarantine, start: int) -> None:
    """Set rows aside whose text has an offset that the column's declared time zone hasn't."""
    for name, column in source.columns.items():
        if column.type == "timestamp" and column.timezone and not column.hashed:
            zone = column.timezone
            rule = (
                f"timezone(an offset that {zone} has then, or leave out `timezone` to go by each text's own)"
            )
            aside.add(contradicts_zone(text[name].combine_chunks(), column), rule, name, start=start)


def _required(typed: pa.Table, source: Source, aside: Quarantine, start: int) -> None:
    before = ~aside.out[start : start + typed.num_rows]
    for name, column in source.columns.items():
        if column.required or name in source.key:
            aside.add(before & mask(pc.is_null(typed[name])), "required", name, start=start)


def _day(typed: pa.Table, rows: RawRows, spec: UseCase, source: str, aside: Quarantine, start: int) -> None:
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


def _agrees(
    typed: pa.Table, rows: RawRows, spec: UseCase, source: Source, aside: Quarantine, start: int
) -> None:
    """Set rows aside whose local hour is another than that of the hhmm column beside it; 24:00 is hour 0."""
    for name, column in source.columns.items():
        if column.agrees_with is None:
            continue
        wall = _local(typed[name], spec)
        hour = pc.hour(wall).cast(pa.int32())
        midnight = pc.equal(typed[column.agrees_with], 1440)
        said = pc.if_else(midnight, pa.scalar(0, pa.int32()), pc.divide(typed[column.agrees_with], 60))
        differs = mask(pc.fill_null(pc.not_equal(hour, said), False))
        before = ~aside.out[start : start + typed.num_rows]
        aside.add(before & differs, "agrees", name, column.agrees_with, start=start)
        places = np.flatnonzero(before & differs)
        _, first = np.unique(rows.unit(places + start), return_index=True)
        for place in places[first].tolist():  # a refusal shows the first of its unit
            hours, minutes = divmod(typed[column.agrees_with][place].as_py(), 60)
            aside.computed["agrees", (name, column.agrees_with), start + place] = (
                f"{name} is {wall[place].as_py():%Y-%m-%d %H:%M} in {spec.schedule.timezone} "
                f"and {column.agrees_with} says {hours:02}:{minutes:02}"
            )


def _local(values: Any, spec: UseCase) -> Any:
    """Return moments as the wall times of the schedule's time zone."""
    return pc.local_timestamp(values.cast(pa.timestamp("us", spec.schedule.timezone)))


def quarantine_unknown_classes(typed: pa.Table, spec: UseCase, source: str, aside: Quarantine) -> None:
    """Set the rows aside whose label is no declared class; a missing one is none.

    Raises
    ------
    SpecError
        when ``labels.sql`` can't be answered.
    """
    classes = spec.problem.classes
    if not classes or source != spec.labels.source or not typed.num_rows:
        return
    known = pa.array(classes, pa.string())
    words = set(re.findall(r"\w+", spec.labels.sql.lower()))
    about = [name for name in typed.column_names if name.lower() in words]
    rule = f"class(one of {', '.join(classes)})"
    for place, label in _labels(typed, spec, source):
        other = np.asarray(pc.and_(label.is_valid(), pc.invert(pc.is_in(label, value_set=known))), bool)
        columns = about or spec.sources[source].key
        aside.add(~aside.out[place] & other, rule, *columns, start=place.start)


def _labels(typed: pa.Table, spec: UseCase, source: str) -> Iterator[tuple[slice, pa.Array]]:
    start = 0
    with spill.duckdb_engine() as connection:
        connection.register("brought", typed)
        try:
            # the spec's own expression, as `include.features.build` asks for it
            sql = f"SELECT CAST(({spec.labels.sql}) AS VARCHAR) AS label FROM brought"  # noqa: S608
            for batch in connection.sql(sql).to_arrow_reader(spill.BATCH):
                yield slice(start, start + batch.num_rows), batch.column(0)
                start += batch.num_rows
        except (duckdb.Error, OSError, pa.ArrowException) as error:  # of DuckDB's, while it is read
            spill.raise_if_out_of_memory(error)
            raise SpecError(
                f"{spec.name}: labels.sql",
                required=f"an expression over {source}'s columns: {', '.join(typed.column_names)}",
                found=" ".join(str(error).split()),
                where=str(spec.folder / "usecase.yaml"),
            ) from None


REMEDY = f"correct it at the source and {FETCH_ANEW}; or change the contract in the spec"


@dataclass(frozen=True)
class ContractResult:
    """What a contract makes of rows.

    Parameters
    ----------
    good : the rows that passed, sorted by partition, revision and key, in the validated table's schema.
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


def check_contract(rows: RawRows, spec: UseCase, source: str) -> ContractResult:
    """Check rows of any number of partitions against a source's contract.

    Parameters
    ----------
    rows : with cleaned text.

    Raises
    ------
    SpecError
        for an expectation that can't be answered.
    """
    declared = spec.sources[source]
    aside, dropped = Quarantine(rows), np.zeros(len(rows), bool)
    typed = apply_row_rules(rows, spec, source, aside)
    _key(typed, rows, declared, aside, dropped)
    _expectations(typed, rows, f"{spec.name}/{source}", declared, aside, dropped)
    quarantine_unknown_classes(typed, spec, source, aside)
    kept = ~(aside.out | dropped)
    whole, sizes = spill.filter_rows(typed, pa.array(kept)), rows.per_unit(kept)
    refused = _refused(whole, sizes, rows, spec, source, aside, dropped)
    out = np.isin(np.arange(len(rows.units)), list(refused))
    return ContractResult(
        good=_sorted(whole, sizes, rows, declared, out),
        quarantine=aside.table(source),
        rows=np.where(out, 0, sizes),
        quarantined=rows.per_unit(aside.out),
        duplicates=rows.per_unit(dropped),
        refused=refused,
    )


def _key(typed: pa.Table, rows: RawRows, source: Source, aside: Quarantine, dropped: Mask) -> None:
    """Drop exact duplicates, and set aside what is left of a key that has several rows."""
    keys = typed.select(list(source.key))
    repeated = repeats.duplicated_rows(keys, rows.sizes, ~aside.out)
    if not repeated.any():
        return
    dropped |= repeats.repeated_rows(typed, rows.sizes, repeated)
    aside.add(repeats.duplicated_rows(keys, rows.sizes, repeated & ~dropped), "key", *source.key)


def _expectations(
    typed: pa.Table, rows: RawRows, subject: str, source: Source, aside: Quarantine, dropped: Mask
) -> None:
    """Set rows aside that break an expectation about rows, or share a value that should be unique."""
    expectations = source.contract.expectations
    among = ~(aside.out | dropped)
    for number, start, which in broken_expectations(subject, expectations, typed, among):
        one = expectations[number]
        aside.add(which, one.rule, *one.columns, start=start, turn=number)
    for number, one in enumerate(expectations):
        if one.type in UNIQUE:
            present = among.copy()
            for name in one.columns:
                present &= mask(pc.is_valid(typed[name]))
            out = repeats.duplicated_rows(typed.select(list(one.columns)), rows.sizes, present)
            aside.add(out, one.rule, *one.columns, turn=number)


def _refused(
    whole: pa.Table, good: Codes, rows: RawRows, spec: UseCase, source: str, aside: Quarantine, dropped: Mask
) -> dict[int, PartitionRefused]:
    """Return why units are refused: rows set aside, their number, an expectation of the whole."""
    contract, total = spec.sources[source].contract, rows.per_unit(~dropped)
    why: dict[int, tuple[str, str]] = {}
    for number in range(len(rows.units)):
        reason = _sizes(contract, int(total[number]), int(good[number]), partial(aside.common, number))
        if reason:
            why[number] = reason
    for number, expectation, value in unmet_aggregates(
        f"{spec.name}/{source}", contract.expectations, whole, good
    ):
        about = ", ".join(expectation.columns)
        why.setdefault(number, (expectation.rule + (f" of {about}" if about else ""), value))
    return {
        number: PartitionRefused(
            request(spec, source, rows.units[number].partition, rows.units[number].revision).subject,
            required=required,
            found=found,
            where=rows.units[number].files,
            remedy=REMEDY,
        )
        for number, (required, found) in why.items()
    }


def _sizes(contract: Contract, total: int, good: int, common: Callable[[], str]) -> tuple[str, str] | None:
    """Return what is required and found where too many rows are set aside, or too few are left."""
    if contract.exceeded(total - good, total):
        few = contract.tolerated_rows if contract.tolerance else 0
        either = f", or {few} row{'s' * (few > 1)}" if few else ""
        share, most = figure_and_limit((total - good) / total, contract.tolerance, 1, "{:.#%}")
        return f"at most {most} of rows set aside{either}", f"{share} of {total} rows: {common()}"
    if contract.min_rows <= good <= (contract.max_rows or good):
        return None
    aside = f" of {total}, the others set aside: {common()}" if good < total else ""
    return f"{contract.min_rows} to {contract.max_rows or 'any number of'} rows", f"{good}{aside}"


def _sorted(whole: pa.Table, sizes: Codes, rows: RawRows, source: Source, out: Mask) -> pa.Table:
    """Return the rows of units that aren't out with Evergreen's own columns, in the order of a digest."""
    own = pa.table(
        {
            "partition": pa.array([one.partition for one in rows.units], pa.string()),
            "revision": pa.array([one.revision for one in rows.units], pa.int32()),
            "known_at": pa.array([one.moment for one in rows.units], pa.timestamp("us", tz="UTC")),
        }
    )

    def made() -> Iterator[pa.RecordBatch]:
        for batch in spill.sorted_batches(with_unit_numbers(whole, sizes), whole.nbytes, (UNIT, *source.key)):
            units = batch.column(UNIT)
            mine = own.take(units)
            columns = [batch.column(name) for name in source.columns] + mine.columns
            table = pa.table(columns, schema=validated_schema(source))
            yield from table.filter(pa.array(~out[units.to_numpy()])).to_batches()

    return spill.spill_table(validated_schema(source), made())
