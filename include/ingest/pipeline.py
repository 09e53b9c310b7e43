"""The ingest pipeline: fetches a source's partitions that aren't stored yet, validates and publishes them.

The tables are a function of the stored snapshots, the spec and the code. Ingesting is therefore idempotent: a
run that was killed can be repeated, and a partition that is up to date is left alone. A partition's row in
``partitions`` is written last and marks it as complete. An unavailable source and a refused partition are
recorded instead of raised, so that the use case can continue without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import pyarrow as pa

from include.environment import Connect, code_version
from include.errors import (
    CircuitOpen,
    EvergreenError,
    PartitionError,
    PartitionRefused,
    SourceUnavailable,
    SpecError,
    unstable,
)
from include.ingest.breaker import Breaker
from include.ingest.connectors import open_source
from include.ingest.connectors.request import Fetcher, NotAvailableYet, request
from include.ingest.erasure import erase_new, filter_parts
from include.ingest.parsing.parse import parse
from include.ingest.parsing.types import clean_text
from include.ingest.publish import (
    current_partitions,
    lineage,
    publish_validated,
    split_sorted,
    validated_digest,
)
from include.ingest.validation.contract import check_contract
from include.ingest.validation.expectations import validate_expectations
from include.ingest.validation.rows import RawRows, RowRange
from include.spec import UseCase
from include.spec.clock import day_of
from include.storage import spill
from include.storage.erasures import ERASURES_TABLE, Erasures, read_erasures
from include.storage.lake import Lake, Row, Where
from include.storage.schedule import record_schedule, require_schedule
from include.storage.schemas import QUARANTINE, validated_schema
from include.storage.snapshots import Snapshot, manifest_keys, read_parts, snapshots, store_snapshot

THREADS = 8  # partitions that are fetched or parsed at once
MAX_ROUNDS = 10  # far more often than concurrent runs add revisions of a partition while it is published
# `inputs` of an unavailable partition whose source answered that it had no data yet; a later outage keeps it
NOTHING_YET = json.dumps({"answer": "nothing yet"})


@dataclass(frozen=True)
class Outcome:
    """The result of ingesting one partition of one source.

    Parameters
    ----------
    product : the source.
    outcome : ``published``, ``refused`` or ``unavailable``.
    rows, quarantined, duplicates : the number of published, quarantined and dropped rows.
    digest : of the published rows, empty if there are none.
    note : one sentence for people.
    """

    product: str
    partition: str
    outcome: str
    rows: int = 0
    quarantined: int = 0
    duplicates: int = 0
    digest: str = ""
    note: str = ""
    error: EvergreenError | None = field(default=None, compare=False, repr=False)

    def raise_for_outcome(self) -> None:
        """Raise the partition's error, unless it was published.

        Raises
        ------
        PartitionRefused, SourceUnavailable, CircuitOpen
            with the note as message.
        """
        if self.error is not None:
            raise self.error
        if self.outcome == "refused":
            raise PartitionRefused(self.note)
        if self.outcome == "unavailable":
            raise SourceUnavailable(self.note)


def ingest(
    lake: Lake,
    spec: UseCase,
    source: str,
    partitions: list[str],
    connect: Connect,
    *,
    refetch: bool = False,
    arrived_on: str | None = None,
    now: datetime | None = None,
) -> list[Outcome]:
    """Ingest partitions of a source, and return the outcome of each, in order.

    Parameters
    ----------
    connect : returns a connection's endpoint by its name; called only if something is fetched.
    refetch : request the source even for partitions that are stored; different content becomes the next
        revision.
    arrived_on : the partition on which late data arrived; its rows are known at ``available_at`` of that
        partition.
    now : the time, with a time zone. A partition whose data can't be available yet is refused, and a new
        revision of a published partition is known from then on. So is what a source other than the spine
        didn't have yet at the partition's `scoring.deadline`.

    Raises
    ------
    PartitionError
        for a partition that is not in the schedule or still in the future, or for `refetch` of a published
        partition without `now`.
    SpecError, SettingError
        for a declaration or connection that can't be used.
    """
    return _IngestRun(lake, spec, source, sorted(set(partitions)), connect, refetch, arrived_on, now).run()


@dataclass(frozen=True)
class _IngestRun:
    """One call of `ingest`, whose parameters these are."""

    lake: Lake
    spec: UseCase
    source: str
    partitions: Sequence[str]
    connect: Connect
    refetch: bool
    arrived_on: str | None
    now: datetime | None

    def run(self) -> list[Outcome]:
        """Fetch what is missing, and publish what is stored."""
        self._check_arguments()
        require_schedule(self.lake, self.spec)
        erasures = read_erasures(self.lake)
        keys_known_now = self._published_partitions() if self.refetch else set[str]()
        stored = {} if self.refetch else manifest_keys(self.lake, self.source, self.partitions)
        missing = [one for one in self.partitions if one not in stored]
        errors = self._fetch(missing, keys_known_now | self._late_partitions(missing), erasures)
        outcomes = self._publish_until_stable(errors)
        while self.lake.version(ERASURES_TABLE) != erasures.version:  # rows were erased meanwhile
            erasures = erase_new(self.lake, self.spec, self.source, self.partitions)
            outcomes = self._publish_until_stable(errors)
        return outcomes

    def _check_arguments(self) -> None:
        """Reject unusable sources, partitions and contracts, before anything is requested or written."""
        spec = self.spec
        if self.source not in spec.sources:
            required = f"one of {', '.join(spec.sources)}"
            remedy = "name one of these, or declare it under sources in usecase.yaml"
            raise SpecError(f"{spec.name}: source {self.source!r}", required=required, remedy=remedy)
        declared = spec.sources[self.source]
        for partition in self.partitions:
            spec.clock.decision_time(partition)
        if self.now is not None and self.now.tzinfo is not None:
            for partition in self.partitions:
                available_at = spec.clock.local(partition, declared.available_at)
                if available_at > self.now:
                    raise PartitionError(
                        f"{spec.name}/{self.source}/{partition}",
                        required="a partition whose data can be available",
                        found=f"one that is still to come: {available_at:%Y-%m-%d %H:%M} UTC",
                        remedy="wait until then: what is fetched first is kept as this partition's data",
                    )
        subject = f"{spec.name}/{self.source}"
        validate_expectations(subject, declared.contract.expectations, declared.columns)

    def _published_partitions(self) -> set[str]:
        """Return the published partitions: a new revision of one needs a time at which it is known."""
        rows = self._partition_rows()
        published = {partition for partition, row in rows.items() if row["outcome"] == "published"}
        if published and (self.now is None or self.now.tzinfo is None):
            raise PartitionError(
                f"{self.spec.name}/{self.source}/{min(published)}",
                required="the time at which a new revision of a published partition becomes known",
                remedy="pass `now` with a time zone",
            )
        return published

    def _late_partitions(self, missing: Sequence[str]) -> set[str]:
        """Return the partitions whose deadline passed before the source had usable data.

        The spine has none: nothing was scored without it. A refused partition counts if it was scored.
        """
        if self.now is None or self.arrived_on or not missing or self.source == self.spec.features.spine:
            return set()
        rows = self._partition_rows()
        refused = [partition for partition, row in rows.items() if row["outcome"] == "refused"]
        where: Where = {"product": "predictions", "partition": refused}
        scored = {row["partition"] for row in self.lake.rows("partitions", where)} if refused else set()
        return {
            partition
            for partition, row in rows.items()
            if (row["inputs"] == NOTHING_YET or partition in scored)
            and self.spec.clock.local(partition, self.spec.scoring.deadline) < self.now
        }

    def _partition_rows(self) -> dict[str, Row]:
        """Return the current rows in ``partitions``."""
        rows = self.lake.rows("partitions", {"product": self.source, "partition": list(self.partitions)})
        return {row["partition"]: row for row in rows}

    # fetch

    def _fetch(
        self, partitions: Sequence[str], keys_known_now: set[str], erasures: Erasures
    ) -> dict[str, EvergreenError]:
        """Fetch and store partitions, and return the error of each that could not be fetched.

        Parameters
        ----------
        keys_known_now : those whose content is known from now on, and not as the spec declares.
        """
        if not partitions:
            return {}
        declared = self.spec.sources[self.source]
        fetcher = open_source(declared, self.connect(declared.connection))
        breaker = Breaker(self.lake, self.source, declared.fetch)
        fetch_one = partial(self._fetch_one, fetcher, breaker, keys_known_now, erasures)
        # the first one alone: if the circuit is open it is the probe, whose success admits the others
        results = [fetch_one(partitions[0])]
        with ThreadPoolExecutor(THREADS) as pool:
            results += pool.map(fetch_one, partitions[1:])
        pairs = zip(partitions, results, strict=True)
        return {partition: error for partition, error in pairs if error is not None}

    def _fetch_one(
        self, fetcher: Fetcher, breaker: Breaker, keys_known_now: set[str], erasures: Erasures, partition: str
    ) -> EvergreenError | None:
        partition_request = request(self.spec, self.source, partition)
        try:
            breaker.admit(partition_request.subject)
            parts = list(fetcher(partition_request))
        except CircuitOpen as error:
            return error
        except (NotAvailableYet, PartitionRefused) as error:  # the source itself works
            breaker.record_success()
            return error
        except SourceUnavailable as error:
            breaker.record_failure()
            return error
        breaker.record_success()
        parts = filter_parts(erasures, self.spec, self.source, partition, parts)
        known_at = partial(self._known_at, partition, partition in keys_known_now)
        store_snapshot(
            self.lake, self.spec, self.source, partition, parts, known_at, add_revision=self.refetch
        )
        return None

    def _known_at(self, partition: str, is_known_now: bool) -> datetime:
        """Return when a new revision is known: now, or as the spec declares."""
        if self.now is not None and is_known_now:
            return self.now
        return self.spec.clock.local(
            self.arrived_on or partition, self.spec.sources[self.source].available_at
        )

    # publish

    def _publish_until_stable(self, errors: Mapping[str, EvergreenError]) -> list[Outcome]:
        """Publish what is stored, and repeat if a concurrent run stored more in the meantime.

        Otherwise tables built from fewer snapshots could replace those that the concurrent run built from
        all.
        """
        for _ in range(MAX_ROUNDS):
            stored = snapshots(self.lake, self.source, self.partitions)
            outcomes = self._update_tables(stored, errors)
            latest = manifest_keys(self.lake, self.source, self.partitions)
            if all(len(keys) == len(stored.get(partition, ())) for partition, keys in latest.items()):
                return outcomes
        raise unstable(f"{self.spec.name}/{self.source}", "snapshots", MAX_ROUNDS)

    def _update_tables(
        self, stored: Mapping[str, Sequence[Snapshot]], errors: Mapping[str, EvergreenError]
    ) -> list[Outcome]:
        """Bring the tables up to date with the stored snapshots, and return the outcomes."""
        before = self._partition_rows()
        current = current_partitions(self.lake, self.spec, self.source, before, stored)
        outdated = {
            partition: revisions for partition, revisions in stored.items() if partition not in current
        }
        validated = self._validate(outdated)
        unavailable = {
            partition: self._row_without_data(partition, error, before.get(partition))
            for partition, error in errors.items()
            if partition not in stored and (self._is_empty(error) or not _is_published(before.get(partition)))
        }
        changed = [
            row
            for partition, row in {**validated.partition_rows, **unavailable}.items()
            if partition in outdated or row != before.get(partition)
        ]
        if validated.rows.num_rows:
            record_schedule(self.lake, self.spec)
        publish_validated(
            self.lake, self.spec, self.source, outdated, validated.rows, validated.quarantine, changed
        )
        after = {**before, **validated.partition_rows, **unavailable}
        failed = {
            partition: error
            for partition, error in errors.items()
            if partition in stored or not self._is_empty(error)
        }
        return [
            _outcome(
                self.source,
                partition,
                after.get(partition),
                failed.get(partition) or validated.refused.get(partition),
            )
            for partition in self.partitions
        ]

    def _validate(self, revisions: Mapping[str, Sequence[Snapshot]]) -> _Validated:
        """Read and validate all revisions of partitions."""
        declared = self.spec.sources[self.source]
        flat = [snapshot for partition in sorted(revisions) for snapshot in revisions[partition]]
        if not flat:
            return _Validated(validated_schema(declared).empty_table(), QUARANTINE.empty_table())
        raw_rows, unreadable = read_snapshots(self.lake, self.spec, self.source, flat)
        result = check_contract(raw_rows, self.spec, self.source)
        refused = {
            **result.refused,
            **unreadable,
        }  # an unreadable snapshot has no rows, but that isn't the reason
        tables = split_sorted(result.valid)
        validated = _Validated(result.valid, result.quarantine)
        for partition, snapshots_of_partition in revisions.items():
            numbers = {number for number, one in enumerate(flat) if one.partition == partition}
            newest = max(numbers)
            served = max(numbers - refused.keys(), default=newest)  # the newest revision that isn't refused
            table = tables.get(partition)
            row = {
                **self._empty_row(partition, lineage(self.source, snapshots_of_partition)),
                "outcome": "refused" if served in refused else "published",
                "revision": flat[served].revision,
                "rows": int(result.rows[served]),
                "quarantined": int(result.quarantined[served]),
                "duplicates": int(result.duplicates[served]),
                "digest": "" if table is None else validated_digest(table, declared),
            }
            if newest in refused:
                validated.refused[partition] = refused[newest]
            row["note"] = _note(row, refused.get(newest))
            validated.partition_rows[partition] = row
        return validated

    def _empty_row(self, partition: str, inputs: str) -> Row:
        """Return the row in ``partitions`` for a partition without data, but for its outcome and note."""
        counts = {"revision": 0, "rows": 0, "quarantined": 0, "duplicates": 0, "digest": ""}
        versions = {"inputs": inputs, "spec": self.spec.digest_of(self.source), "code": code_version()}
        return {"product": self.source, "partition": partition, **counts, **versions}

    def _row_without_data(self, partition: str, error: EvergreenError, before: Row | None) -> Row:
        """Return the row of a partition without a snapshot, which records that the source had no data yet."""
        outcome = "refused" if isinstance(error, PartitionRefused) else "unavailable"
        nothing_yet = isinstance(error, NotAvailableYet) or (
            before is not None and before["inputs"] == NOTHING_YET
        )
        row = self._empty_row(partition, NOTHING_YET if nothing_yet else "{}")
        if self._is_empty(error):
            note = "0 rows: the source has no data for this partition"
            return {**row, "outcome": "published", "note": note}
        return {**row, "outcome": outcome, "note": str(error)}

    def _is_empty(self, error: EvergreenError | None) -> bool:
        """Return whether an error says no more than that a partition of a sparse source has no rows."""
        return isinstance(error, NotAvailableYet) and self.spec.sources[self.source].sparse


@dataclass(frozen=True)
class _Validated:
    """Validated and quarantined rows, rows of the table `partitions`, and refusals of newest revisions."""

    rows: pa.Table
    quarantine: pa.Table
    partition_rows: dict[str, Row] = field(default_factory=dict)
    refused: dict[str, PartitionRefused] = field(default_factory=dict)


def _is_published(row: Row | None) -> bool:
    """Return whether a partition was published; without a snapshot, as one without rows."""
    return row is not None and row["outcome"] == "published"


def _note(row: Row, refusal: PartitionRefused | None) -> str:
    if row["outcome"] == "refused":
        return str(refusal)
    note = f"{row['rows']:,} rows" + (f" of revision {row['revision']}" if row["revision"] else "")
    note += f", {row['quarantined']:,} quarantined" if row["quarantined"] else ""
    note += f", {row['duplicates']:,} exact duplicates dropped" if row["duplicates"] else ""
    return f"{note}; a newer revision was refused: {refusal}" if refusal else note


def _outcome(source: str, partition: str, row: Row | None, error: EvergreenError | None) -> Outcome:
    """Return a partition's outcome in this run: an error counts even if older rows stay published."""
    if row is None or (error is not None and row["outcome"] == "published"):
        outcome = "refused" if isinstance(error, PartitionRefused) else "unavailable"
        return Outcome(source, partition, outcome, note=str(error), error=error)
    names = ("outcome", "rows", "quarantined", "duplicates", "digest", "note")
    return Outcome(source, partition, **{name: row[name] for name in names}, error=error)


def read_snapshots(
    lake: Lake, spec: UseCase, source: str, selected: Sequence[Snapshot]
) -> tuple[RawRows, dict[int, PartitionRefused]]:
    """Return the rows of snapshots, and the errors of those, by index, whose bytes can't be parsed."""
    ranges, refused = list[RowRange](), dict[int, PartitionRefused]()

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(selected), THREADS):  # bounds how many parsed snapshots wait in memory
            batch = selected[start : start + THREADS]
            for number, parsed in enumerate(pool.map(partial(_parse, lake, spec, source), batch), start):
                ranges.extend(RowRange(number, part, rows) for part, rows in parsed.part_rows)
                if parsed.error:
                    refused[number] = parsed.error
                yield parsed.text

    with ThreadPoolExecutor(THREADS) as pool:
        if len(selected) == 1:  # a second copy would only take time
            (text,) = tables()
        else:
            batches = (batch for table in tables() for batch in table.to_batches())
            text = spill.spill_table(_text_schema(spec, source), batches)
    days = [day_of(request(spec, source, snapshot.partition).day) for snapshot in selected]
    return RawRows(text, ranges, selected, days), refused


@dataclass(frozen=True)
class _Parsed:
    """The clean text of a snapshot and how many rows came from each part, or why it was refused."""

    text: pa.Table
    part_rows: Sequence[tuple[str, int]] = ()
    error: PartitionRefused | None = None


def _parse(lake: Lake, spec: UseCase, source: str, snapshot: Snapshot) -> _Parsed:
    snapshot_request = request(spec, source, snapshot.partition, snapshot.revision)
    part_rows = list[tuple[str, int]]()

    def batches() -> Iterator[pa.RecordBatch]:
        for name, data in read_parts(lake, snapshot):
            rows = 0
            for table in parse(snapshot_request, name, data):
                rows += table.num_rows
                yield from clean_text(table, snapshot_request.source).to_batches()
            part_rows.append((name, rows))

    schema = _text_schema(spec, source)
    try:
        return _Parsed(spill.spill_table(schema, batches(), spill.MEMORY_SHARES), part_rows)
    except PartitionRefused as error:
        return _Parsed(schema.empty_table(), error=error)


def _text_schema(spec: UseCase, source: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in spec.sources[source].columns])
