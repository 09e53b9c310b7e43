"""Bad rows are set aside with the rule and the value, and a partition that has too many of them is refused.

The checks run in this order, each on the rows that passed the ones before it: ``type`` (text that isn't a
value), ``timezone`` (a time whose offset the declared time zone contradicts), ``required``, ``day`` (the row
is about another local day: a future date, a shifted time zone, another day's file), ``agrees`` (a time whose
local hour another column denies: a shifted time zone), ``key`` (rows of one key that disagree; exact
duplicates are dropped and counted), then the spec's expectations, then ``class`` (a label of a multiclass
problem that isn't declared). Rows of many nights are checked at once; nothing of one night bears on another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include import spool
from include.digits import beside
from include.errors import PartitionRefused
from include.ingest import repeats
from include.ingest.aggregates import UNIQUE, unmet
from include.ingest.alone import told
from include.ingest.classes import strange
from include.ingest.request import FETCH_ANEW, request
from include.ingest.rows import UNIT, Aside, Codes, Mask, Rows, mask, numbered
from include.ingest.suite import broken
from include.spec import UseCase
from include.spec.source import Contract, Source
from include.tables import validated

REMEDY = f"correct it at the source and {FETCH_ANEW}; or change the contract in the spec"


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
    typed = told(rows, spec, source, aside)
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
                present &= mask(pc.is_valid(typed[name]))
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
    if contract.exceeded(total - good, total):
        few = contract.tolerated_rows if contract.tolerance else 0
        either = f", or {few} row{'s' * (few > 1)}" if few else ""
        share, most = beside((total - good) / total, contract.tolerance, 1, "{:.#%}")
        return f"at most {most} of rows set aside{either}", f"{share} of {total} rows: {common()}"
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
        for batch in spool.in_order(numbered(whole, sizes), whole.nbytes, (UNIT, *source.key)):
            units = batch.column(UNIT)
            mine = own.take(units)
            columns = [batch.column(name) for name in source.columns] + mine.columns
            table = pa.table(columns, schema=validated(source))
            yield from table.filter(pa.array(~out[units.to_numpy()])).to_batches()

    return spool.held(validated(source), made())
