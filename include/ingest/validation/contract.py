"""Validates rows against a source's contract: quarantines bad rows, refuses partitions with too many.

The rules run in this order, each on the rows that passed the previous ones:

- ``type``: text that can't be converted to the column's type.
- ``timezone``: a timestamp whose offset contradicts the declared time zone.
- ``required``: a missing value.
- ``day``: a row about another local day, such as a future date, a shifted time zone or another day's file.
- ``time``: of several partitions a day, a row about another one, such as that of the hour before.
- ``agrees``: a timestamp whose local hour differs from the hhmm column that it is declared to agree with.
- ``key``: rows with the same key and different values. Exact duplicates are dropped and counted.
- the expectations that the spec declares.
- the use case's own row checks, under the function's name.
- ``class``: a label of a multiclass problem that isn't declared.

Rows of many partitions are validated together, but no partition influences the result of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import PartitionRefused
from include.features.labels import evaluating_labels
from include.ingest.connectors.request import REFETCH, request
from include.ingest.parsing.types import contradicts_time_zone, is_time, to_declared_types
from include.ingest.validation.compiled import UNIQUE, unmet_aggregates
from include.ingest.validation.custom_checks import refusals
from include.ingest.validation.expectations import broken_expectations
from include.ingest.validation.rows import (
    SNAPSHOT_INDEX,
    Integers,
    Mask,
    Quarantine,
    RawRows,
    duplicated_rows,
    repeated_rows,
    to_mask,
    with_snapshot_indices,
)
from include.spec import UseCase
from include.spec.source import Contract, Source
from include.stats.formatting import figure_and_limit
from include.storage import spill
from include.storage.schemas import TIME, validated_schema

CLASS_RULE = "problem.classes"


@dataclass(frozen=True)
class ContractResult:
    """The result of validating rows against a contract.

    Parameters
    ----------
    valid : the rows that passed, sorted by partition, revision and key, in the validated table's schema.
    quarantine : the quarantined rows, in the schema of the table `quarantine`.
    rows, quarantined, duplicates : the number of valid, quarantined and dropped rows of each snapshot.
    refused : the error of each snapshot that is refused; ``valid`` has none of its rows.
    """

    valid: pa.Table
    quarantine: pa.Table
    rows: Integers
    quarantined: Integers
    duplicates: Integers
    refused: Mapping[int, PartitionRefused]


def check_contract(rows: RawRows, spec: UseCase, source: str) -> ContractResult:
    """Validate the rows of any number of snapshots against a source's contract.

    Parameters
    ----------
    rows : with text from `clean_text`.

    Raises
    ------
    SpecError
        for an expectation that can't be evaluated.
    """
    return _Validation(rows, spec, source).result()


class _Validation:
    """The validation of one batch of rows.

    Attributes
    ----------
    quarantine : the rows that broke a rule so far.
    dropped : which rows are exact duplicates of an earlier one.
    """

    def __init__(self, rows: RawRows, spec: UseCase, source: str) -> None:
        self.rows, self.spec, self.source = rows, spec, source
        self.declared: Source = spec.sources[source]
        self.quarantine, self.dropped = Quarantine(rows), np.zeros(len(rows), bool)

    def result(self) -> ContractResult:
        """Apply all rules."""
        typed = spill.spill_table(_typed_schema(self.declared), self._apply_row_rules())
        self._check_key(typed)
        self._check_expectations(typed)
        self._check_own(typed)
        self._check_classes(typed)
        passed = ~(self.quarantine.mask | self.dropped)
        valid = spill.filter_rows(typed, pa.array(passed))
        counts = self.rows.count_per_snapshot(passed)
        refused = self._refusals(valid, counts)
        is_refused = np.isin(np.arange(len(self.rows.snapshots)), list(refused))
        return ContractResult(
            valid=self._publishable(valid, counts, is_refused),
            quarantine=self.quarantine.table(self.source),
            rows=np.where(is_refused, 0, counts),
            quarantined=self.rows.count_per_snapshot(self.quarantine.mask),
            duplicates=self.rows.count_per_snapshot(self.dropped),
            refused=refused,
        )

    # rules about one row, applied batch by batch

    def _apply_row_rules(self) -> Iterator[pa.RecordBatch]:
        """Yield typed rows, and quarantine those that break a rule by themselves."""
        for span, typed, invalid in to_declared_types(self.rows, self.declared):
            start = span.start
            for name, mask in invalid.items():
                self.quarantine.add(mask, "type", name, start=start)
            self._check_time_zones(self.rows.text.slice(start, typed.num_rows), start)
            self._check_required(typed, start)
            self._check_day(typed, start)
            self._check_hours(typed, start)
            yield from typed.cast(_typed_schema(self.declared)).to_batches()

    def _passed(self, typed: pa.Table, start: int) -> Mask:
        """Return which rows of a batch passed the rules so far."""
        return ~self.quarantine.mask[start : start + typed.num_rows]

    def _check_time_zones(self, text: pa.Table, start: int) -> None:
        for name, column in self.declared.columns.items():
            if is_time(column) and column.timezone and not (self.declared.timezone_override or column.format):
                rule = (
                    f"timezone(offset of {column.timezone} at that time; "
                    "without `timezone` in usecase.yaml the offset in the text counts)"
                )
                mask = contradicts_time_zone(text[name].combine_chunks(), column)
                self.quarantine.add(mask, rule, name, start=start)

    def _check_required(self, typed: pa.Table, start: int) -> None:
        passed = self._passed(typed, start)
        for name, column in self.declared.columns.items():
            if column.required or name in self.declared.key:
                missing = to_mask(pc.is_null(typed[name]))
                self.quarantine.add(passed & missing, "required", name, start=start)

    def _check_day(self, typed: pa.Table, start: int) -> None:
        """Quarantine rows whose local date is not the requested day, or that are about another partition."""
        name = self.declared.day
        if name is None:
            return
        values = typed[name].combine_chunks()
        if pa.types.is_timestamp(values.type):
            values = self._local(values).cast(pa.date32())
        snapshots = self.rows.snapshot_indices(np.arange(start, start + typed.num_rows))
        requested = pa.array(self.rows.days, pa.date32()).take(pa.array(snapshots))
        differs = to_mask(pc.fill_null(pc.not_equal(values, requested), False))
        self.quarantine.add(self._passed(typed, start) & differs, "day", name, start=start)
        if pa.types.is_timestamp(typed[name].type) and self.spec.clock.sub_daily:
            first, end = (bounds.take(pa.array(snapshots)) for bounds in self._times)
            is_outside = pc.or_(pc.less(typed[name], first), pc.greater_equal(typed[name], end))
            is_outside = to_mask(pc.fill_null(is_outside, False))
            self.quarantine.add(self._passed(typed, start) & is_outside, "time", name, start=start)

    @cached_property
    def _times(self) -> tuple[pa.Array, pa.Array]:
        """Return the bounds of each snapshot's times, see `Clock.times_about`."""
        clock, offset = self.spec.clock, self.declared.offset
        keys = (clock.shift(snapshot.partition, offset) for snapshot in self.rows.snapshots)
        first, end = zip(*map(clock.times_about, keys), strict=True)
        return pa.array(first, TIME), pa.array(end, TIME)

    def _check_hours(self, typed: pa.Table, start: int) -> None:
        """Quarantine rows whose local hour differs from the hhmm column to agree with; 24:00 is hour 0."""
        for name, column in self.declared.columns.items():
            other = column.agrees_with
            if other is None:
                continue
            local = self._local(typed[name])
            hour = pc.hour(local).cast(pa.int32())
            midnight = pc.equal(typed[other], 1440)
            other_hour = pc.if_else(midnight, pa.scalar(0, pa.int32()), pc.divide(typed[other], 60))
            differs = to_mask(pc.fill_null(pc.not_equal(hour, other_hour), False))
            violating = self._passed(typed, start) & differs
            self.quarantine.add(violating, "agrees", name, other, start=start)
            indices = np.flatnonzero(violating)
            # the message of a refusal shows the first row of its snapshot
            _, first = np.unique(self.rows.snapshot_indices(indices + start), return_index=True)
            for index in indices[first].tolist():
                hours, minutes = divmod(typed[other][index].as_py(), 60)
                self.quarantine.explanations["agrees", (name, other), start + index] = (
                    f"{name} is {local[index].as_py():%Y-%m-%d %H:%M} in {self.spec.schedule.timezone} "
                    f"and {other} is {hours:02}:{minutes:02}"
                )

    def _local(self, values: Any) -> Any:
        """Return moments as local times of the schedule's time zone."""
        return pc.local_timestamp(values.cast(pa.timestamp("us", self.spec.schedule.timezone)))

    # rules about several rows, or about a query's result

    def _check_key(self, typed: pa.Table) -> None:
        """Drop exact duplicates, and quarantine the remaining rows of a key that has several."""
        keys = typed.select(list(self.declared.key))
        repeated = duplicated_rows(keys, self.rows.row_counts, ~self.quarantine.mask)
        if not repeated.any():
            return
        self.dropped |= repeated_rows(typed, self.rows.row_counts, repeated)
        conflicting = duplicated_rows(keys, self.rows.row_counts, repeated & ~self.dropped)
        self.quarantine.add(conflicting, "key", *self.declared.key)

    def _check_expectations(self, typed: pa.Table) -> None:
        """Quarantine rows that break an expectation about rows, or share a value that should be unique."""
        expectations = self.declared.contract.expectations
        subject = f"{self.spec.name}/{self.source}"
        passed = ~(self.quarantine.mask | self.dropped)
        for number, start, mask in broken_expectations(subject, expectations, typed, passed):
            broken = expectations[number]
            self.quarantine.add(mask, broken.rule, *broken.columns, start=start, rule_number=number)
        for number, expectation in enumerate(expectations):
            if expectation.type in UNIQUE:
                present = passed.copy()
                for name in expectation.columns:
                    present &= to_mask(pc.is_valid(typed[name]))
                columns = typed.select(list(expectation.columns))
                repeated = duplicated_rows(columns, self.rows.row_counts, present)
                self.quarantine.add(repeated, expectation.rule, *expectation.columns, rule_number=number)

    def _check_own(self, typed: pa.Table) -> None:
        """Quarantine rows that a row check of the use case refuses, by its name and reason."""
        for code in self.spec.python_of(f"sources.{self.source}.contract"):
            name = code.name.partition(":")[2]
            for span, part in spill.batches(typed):
                passed = ~(self.quarantine.mask | self.dropped)[span]
                reasons = refusals(code, part.filter(pa.array(passed)))
                for reason in sorted(reasons.drop_null().unique().to_pylist()):
                    broken = np.zeros(len(passed), bool)
                    broken[passed] = to_mask(pc.fill_null(pc.equal(reasons, reason), False))
                    rule = f"{name}({reason})" if reason else name
                    self.quarantine.add(broken, rule, *self.declared.key, start=span.start)

    def _check_classes(self, typed: pa.Table) -> None:
        """Quarantine rows whose label is not one of the declared classes; a missing label passes.

        Raises
        ------
        SpecError
            if DuckDB can't evaluate ``labels.sql``.
        """
        classes = self.spec.problem.classes
        if not classes or self.source != self.spec.labels.source or not typed.num_rows:
            return
        declared = pa.array(classes, pa.string())
        words = set(re.findall(r"\w+", self.spec.labels.sql.lower()))
        columns = [name for name in typed.column_names if name.lower() in words] or self.declared.key
        rule = f"{CLASS_RULE}(one of {', '.join(classes)})"
        # what is quarantined already may not be valid input of the SQL
        passed = ~(self.quarantine.mask | self.dropped)
        positions = np.flatnonzero(passed)
        undeclared = np.zeros(len(passed), bool)
        for span, label in _labels(spill.filter_rows(typed, pa.array(passed)), self.spec):
            other = pc.and_(label.is_valid(), pc.invert(pc.is_in(label, value_set=declared)))
            rows, names = positions[span][np.asarray(other, bool)], label.filter(other)
            undeclared[rows] = True
            _, first = np.unique(self.rows.snapshot_indices(rows), return_index=True)
            for index in first.tolist():  # as in `_check_hours`
                name = names[index].as_py()
                near = [f", and {one} a class" for one in get_close_matches(name, classes, 1)]
                key = (rule, tuple(columns), int(rows[index]))
                self.quarantine.explanations[key] = f"the label is {name!r}{''.join(near)}"
        self.quarantine.add(undeclared, rule, *columns)

    # what becomes of each snapshot

    def _refusals(self, valid: pa.Table, counts: Integers) -> dict[int, PartitionRefused]:
        """Return the error of each refused snapshot: too many bad rows, a row count, or an aggregate."""
        contract, totals = self.declared.contract, self.rows.count_per_snapshot(~self.dropped)
        reasons: dict[int, tuple[str, str]] = {}
        for number in range(len(self.rows.snapshots)):
            summary = partial(self.quarantine.summarize, number)
            erased = self.rows.snapshots[number].erased  # they passed on arrival
            total, valid_rows = int(totals[number]) + erased, int(counts[number]) + erased
            reason = _row_count_reason(contract, self.declared.sparse, total, valid_rows, summary)
            if reason:
                reasons[number] = reason
        subject = f"{self.spec.name}/{self.source}"
        for number, expectation, value in unmet_aggregates(subject, contract.expectations, valid, counts):
            columns = ", ".join(expectation.columns)
            if (self.declared.sparse and not totals[number]) or self.rows.snapshots[number].erased:
                continue  # there is nothing to judge, or it was judged with the rows that were erased
            required = expectation.rule + (f" of {columns}" if columns else "")
            reasons.setdefault(number, (required, value))
        refusals = {}
        for number, (required, found) in reasons.items():
            snapshot = self.rows.snapshots[number]
            declared = f"the contract or {CLASS_RULE}" if CLASS_RULE in found else "the contract"
            refusals[number] = PartitionRefused(
                request(self.spec, self.source, snapshot.partition, snapshot.revision).subject,
                required=required,
                found=found,
                where=snapshot.files,
                remedy=f"correct it at the source and {REFETCH}; or change {declared} in usecase.yaml",
            )
        return refusals

    def _publishable(self, valid: pa.Table, counts: Integers, is_refused: Mask) -> pa.Table:
        """Return the rows of accepted snapshots with Evergreen's own columns, in the order for digests."""
        own_columns = pa.table(
            {
                "partition": pa.array([one.partition for one in self.rows.snapshots], pa.string()),
                "revision": pa.array([one.revision for one in self.rows.snapshots], pa.int32()),
                "known_at": pa.array([one.moment for one in self.rows.snapshots], TIME),
            }
        )
        schema = validated_schema(self.declared)

        def batches() -> Iterator[pa.RecordBatch]:
            rows, order = with_snapshot_indices(valid, counts), (SNAPSHOT_INDEX, *self.declared.key)
            for batch in spill.sorted_batches(rows, valid.nbytes, order):
                snapshots = batch.column(SNAPSHOT_INDEX)
                columns = [batch.column(name) for name in self.declared.columns]
                table = pa.table(columns + own_columns.take(snapshots).columns, schema=schema)
                yield from table.filter(pa.array(~is_refused[snapshots.to_numpy()])).to_batches()

        return spill.spill_table(schema, batches())


def _typed_schema(source: Source) -> pa.Schema:
    """Return the schema of a source's own columns."""
    return pa.schema([validated_schema(source).field(name) for name in source.columns])


def _labels(typed: pa.Table, spec: UseCase) -> Iterator[tuple[slice, pa.Array]]:
    start = 0
    with spill.duckdb_engine() as connection:
        connection.register("typed", typed)
        with evaluating_labels(spec):
            # the spec's own expression, evaluated as in `include.features.labels`
            sql = f"SELECT CAST(({spec.labels.sql}) AS VARCHAR) AS label FROM typed"  # noqa: S608
            for batch in connection.sql(sql).to_arrow_reader(spill.BATCH):
                yield slice(start, start + batch.num_rows), batch.column(0)
                start += batch.num_rows


def _row_count_reason(
    contract: Contract, sparse: bool, total: int, valid: int, summary: Callable[[], str]
) -> tuple[str, str] | None:
    """Return what is required and found where too many rows are quarantined, or too few are left."""
    if sparse and not total:
        return None
    if contract.exceeded(total - valid, total):
        tolerated = contract.tolerated_rows if contract.tolerance else 0
        or_rows = f", or {tolerated:,} row{'s' * (tolerated > 1)}" if tolerated else ""
        share, limit = figure_and_limit((total - valid) / total, contract.tolerance, 1, "{:.#%}")
        return f"at most {limit} of rows quarantined{or_rows}", f"{share} of {total:,} rows: {summary()}"
    if contract.min_rows <= valid <= (contract.max_rows or valid):
        return None
    others = f" of {total:,}, the others quarantined: {summary()}" if valid < total else ""
    most = f"{contract.max_rows:,}" if contract.max_rows else "any number of"
    return f"{contract.min_rows:,} to {most} rows", f"{valid:,}{others}"
