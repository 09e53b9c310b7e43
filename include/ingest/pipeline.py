"""Ingest a source's partitions, one or many: fetch what isn't kept, then make the tables from what is kept.

The tables are a function of the kept snapshots, the spec and the code, so a run that was killed is run again
and a partition that stands is left alone. Each partition's row in ``partitions`` is written last and says
that it is done. A partition that can't be had or is refused is recorded and never raises: the partition goes
on without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa

from include.environment import Connect, code_version
from include.errors import (
    CircuitOpen,
    EvergreenError,
    PartitionError,
    PartitionRefused,
    SourceUnavailable,
    SpecError,
)
from include.ingest.breaker import Breaker
from include.ingest.connectors.registry import open_source
from include.ingest.connectors.request import Fetcher, NotAvailableYet, Request, request
from include.ingest.parsing.parse import parse
from include.ingest.parsing.types import clean_text
from include.ingest.publish import in_partitions, publish_validated, up_to_date, validated_digest
from include.ingest.publish import lineage as inputs
from include.ingest.snapshots import Snapshot, manifest_keys, read_parts, snapshots, store_snapshot
from include.ingest.validation.contract import check_contract
from include.ingest.validation.expectations import validate_expectation
from include.ingest.validation.rows import RawRows, RowRange
from include.spec import UseCase
from include.spec.clock import day_of
from include.storage import spill
from include.storage.lake import Lake
from include.storage.schemas import QUARANTINE, validated_schema

THREADS = 8


def fetch_snapshots(
    lake: Lake,
    spec: UseCase,
    source: str,
    partitions: Sequence[str],
    connect: Connect,
    known: Callable[[str], datetime],
    *,
    anew: bool,
) -> dict[str, EvergreenError]:
    """Fetch and keep partitions, and return the error of each that could not be had.

    Parameters
    ----------
    known : from a partition to the knowledge time of a new revision.
    anew : other content than what is kept is a new revision.

    Raises
    ------
    SettingError, SpecError
        for a connection or a declaration with which nothing can be fetched.
    """
    if not partitions:
        return {}
    declared = spec.sources[source]
    fetcher = open_source(declared, connect(declared.connection))
    breaker = Breaker(lake, source, declared.fetch)

    def one(partition: str) -> EvergreenError | None:
        return _kept(
            lake, request(spec, source, partition), source, fetcher, breaker, partial(known, partition), anew
        )

    # the first alone: where the circuit is open it is the probe, whose success lets the others in
    errors = [one(partitions[0])]
    with ThreadPoolExecutor(THREADS) as pool:
        errors += pool.map(one, partitions[1:])
    return {
        partition: error for partition, error in zip(partitions, errors, strict=True) if error is not None
    }


def _kept(
    lake: Lake,
    asked: Request,
    source: str,
    fetcher: Fetcher,
    breaker: Breaker,
    known: Callable[[], datetime],
    anew: bool,
) -> EvergreenError | None:
    try:
        breaker.admit(asked.subject)
        parts = list(fetcher(asked))
    except CircuitOpen as error:
        return error
    except (NotAvailableYet, PartitionRefused) as error:  # it answered
        breaker.succeeded()
        return error
    except SourceUnavailable as error:
        breaker.failed()
        return error
    breaker.succeeded()
    store_snapshot(lake, source, asked.source, asked.partition, parts, known, anew=anew)
    return None


@dataclass(frozen=True)
class _Read:
    """A snapshot's rows, cleaned, and how many came from each part."""

    text: pa.Table
    sizes: Sequence[tuple[str, int]] = ()
    refused: PartitionRefused | None = None


def read_snapshots(
    lake: Lake, spec: UseCase, source: str, units: Sequence[Snapshot]
) -> tuple[RawRows, dict[int, PartitionRefused]]:
    """Return the rows of snapshots, and the error of each (by its place) whose bytes can't be read."""
    shape, runs, refused = _shape(spec, source), list[RowRange](), dict[int, PartitionRefused]()

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(units), THREADS):  # so many are held, whoever waits for the others
            found = pool.map(lambda unit: _parsed(lake, spec, source, unit), units[start : start + THREADS])
            for number, one in enumerate(found, start):
                runs.extend(RowRange(number, name, size) for name, size in one.sizes)
                refused.update({number: one.refused} if one.refused else {})
                yield one.text

    with ThreadPoolExecutor(THREADS) as pool:
        if len(units) == 1:  # a second copy would take its time
            (text,) = tables()
        else:
            text = spill.spill_table(shape, (batch for table in tables() for batch in table.to_batches()))
    days = [day_of(request(spec, source, unit.partition).day) for unit in units]
    return RawRows(text, runs, units, days), refused


def _shape(spec: UseCase, source: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in spec.sources[source].columns])


def _parsed(lake: Lake, spec: UseCase, source: str, unit: Snapshot) -> _Read:
    asked, shape = request(spec, source, unit.partition, unit.revision), _shape(spec, source)
    sizes = list[tuple[str, int]]()

    def batches() -> Iterator[pa.RecordBatch]:
        for name, data in read_parts(lake, unit):
            size = 0
            for table in parse(asked, name, data):
                size += table.num_rows
                yield from clean_text(table, asked.source).to_batches()
            sizes.append((name, size))

    try:
        return _Read(spill.spill_table(shape, batches(), spill.SHARE), sizes)
    except PartitionRefused as error:
        return _Read(shape.empty_table(), refused=error)


@dataclass(frozen=True)
class Outcome:
    """One partition of one source.

    Parameters
    ----------
    product : the source.
    outcome : ``published``, ``refused`` or ``unavailable``.
    rows, quarantined, duplicates : published, set aside, and dropped as exact duplicates.
    digest : of the published rows, empty where there are none.
    note : the sentence a person reads.
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
        """Raise the partition's own error again, unless it was published.

        Raises
        ------
        PartitionRefused, SourceUnavailable, CircuitOpen
            with the note as their sentence.
        """
        if self.error is not None:
            raise self.error
        if self.outcome == "refused":
            raise PartitionRefused(self.note)
        if self.outcome == "unavailable":
            raise SourceUnavailable(self.note)


ROUNDS = 10  # far more than one partition gets revisions while it is published
NOTHING_YET = json.dumps({"answer": "nothing yet"})  # for ever: a later outage doesn't unsay it
Row = dict[str, Any]
Revisions = Mapping[str, Sequence[Snapshot]]


@dataclass(frozen=True)
class _Made:
    """Of partitions: their rows, their rows in ``partitions``, and the newest revisions' refusals."""

    good: pa.Table
    quarantine: pa.Table
    rows: dict[str, Row]
    refused: dict[str, PartitionRefused]


def ingest(
    lake: Lake,
    spec: UseCase,
    source: str,
    partitions: list[str],
    connect: Connect,
    *,
    fetch_anew: bool = False,
    seen_on: str | None = None,
    now: datetime | None = None,
) -> list[Outcome]:
    """Ingest partitions of a source, and return what became of each, in order.

    Parameters
    ----------
    connect : from a connection's name to its endpoint; called only if something is fetched.
    fetch_anew : ask the source even for partitions that are kept; other content enters as the next revision.
    seen_on : the partition on which the data came, if later than its own; it is known by the rule on that
        partition.
    now : the time (with a time zone): a partition whose data can't be known yet is refused, and a revision
        that
    comes after a published one is known from then on.

    Raises
    ------
    PartitionError
        for a partition that the schedule lacks or that is still to come, or `fetch_anew` of a published
        partition without `now`.
    SpecError, SettingError
        for a declaration or connection that can't be used.
    """
    partitions = sorted(set(partitions))
    _usable(spec, source, partitions, now)
    known = _rule(spec, source, _before(lake, source, partitions) if fetch_anew else {}, seen_on, now)
    kept = {} if fetch_anew else manifest_keys(lake, source, partitions)
    wanted = [partition for partition in partitions if partition not in kept]
    errors = fetch_snapshots(lake, spec, source, wanted, connect, known, anew=fetch_anew)
    return _settled(lake, spec, source, partitions, errors)


def _settled(
    lake: Lake, spec: UseCase, source: str, partitions: Sequence[str], errors: Mapping[str, EvergreenError]
) -> list[Outcome]:
    """Bring the tables to what is kept, and again where more was kept meanwhile.

    What was made of fewer snapshots may have replaced what a run beside this one had made of all.
    """
    for _ in range(ROUNDS):
        kept = snapshots(lake, source, partitions)
        outcomes = _brought(lake, spec, source, partitions, _before(lake, source, partitions), kept, errors)
        now = manifest_keys(lake, source, partitions)
        if all(len(now[partition]) == len(kept.get(partition, ())) for partition in now):
            return outcomes
    raise EvergreenError(
        f"{spec.name}/{source}",
        required="snapshots that hold still",
        found="new ones each time they are read",
        remedy="run it again when the runs beside it have ended",
    )


def _before(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, Row]:
    """Return the partitions' rows in ``partitions``."""
    rows = lake.rows("partitions", {"product": source, "partition": list(partitions)})
    return {row["partition"]: row for row in rows}


def _rule(
    spec: UseCase, source: str, before: Mapping[str, Row], seen_on: str | None, now: datetime | None
) -> Callable[[str], datetime]:
    """Return the knowledge time of new revisions: `now` beside published rows, else what the spec says."""
    published = {partition for partition, row in before.items() if row["outcome"] == "published"}
    if published and (now is None or now.tzinfo is None):
        raise PartitionError(
            f"{spec.name}/{source}/{min(published)}",
            required="the time at which a new revision of a published partition is known",
            remedy="give `now`, with its time zone",
        )

    def known(partition: str) -> datetime:
        if now is not None and partition in published:
            return now
        return spec.clock.local(seen_on or partition, spec.sources[source].available_at)

    return known


def _usable(spec: UseCase, source: str, partitions: Sequence[str], now: datetime | None) -> None:
    """Refuse a source, partition or contract that can't be used, before anything is asked or written."""
    if source not in spec.sources:
        raise SpecError(f"{spec.name}: source {source!r}", required=f"one of {', '.join(spec.sources)}")
    for partition in partitions:
        spec.clock.moment(partition)
    declared = spec.sources[source]
    moments = {partition: spec.clock.local(partition, declared.available_at) for partition in partitions}
    come = [partition for partition in partitions if now and now.tzinfo and moments[partition] > now]
    if come:
        raise PartitionError(
            f"{spec.name}/{source}/{come[0]}",
            required="a partition whose data can be known",
            found=f"one that is still to come: {moments[come[0]]:%Y-%m-%d %H:%M} UTC",
            remedy="run it then; what a source says before would be kept as that partition's for ever",
        )
    validate_expectation(f"{spec.name}/{source}", declared.contract.expectations, declared.columns)


def _brought(
    lake: Lake,
    spec: UseCase,
    source: str,
    partitions: Sequence[str],
    before: Mapping[str, Row],
    kept: Revisions,
    errors: Mapping[str, EvergreenError],
) -> list[Outcome]:
    """Bring the tables to what the kept snapshots make of them, and return the partitions' outcomes."""
    stand = up_to_date(lake, spec, source, before, kept)
    todo = {partition: many for partition, many in kept.items() if partition not in stand}
    made = _made(lake, spec, source, todo)
    absent = {
        partition: _absent(spec, source, partition, errors[partition], before.get(partition))
        for partition in errors
        if partition not in kept
    }
    news = {
        partition: row
        for partition, row in {**made.rows, **absent}.items()
        if partition in todo or row != before.get(partition)
    }
    publish_validated(
        lake, source, spec.sources[source], todo, made.good, made.quarantine, list(news.values())
    )
    rows = {**before, **made.rows, **absent}
    return [
        _outcome(source, partition, rows.get(partition), errors.get(partition) or made.refused.get(partition))
        for partition in partitions
    ]


def _made(lake: Lake, spec: UseCase, source: str, revisions: Revisions) -> _Made:
    """Read and check all revisions of partitions."""
    declared = spec.sources[source]
    units = [unit for partition in sorted(revisions) for unit in revisions[partition]]
    if not units:
        return _Made(validated_schema(declared).empty_table(), QUARANTINE.empty_table(), {}, {})
    text, unread = read_snapshots(lake, spec, source, units)
    found = check_contract(text, spec, source)
    refused = {**found.refused, **unread}  # what can't be read has no rows, which is not its reason
    tables = in_partitions(found.good)
    rows, newest = {}, {}
    for partition, many in revisions.items():
        places = {number for number, unit in enumerate(units) if unit.partition == partition}
        shown = max(places - refused.keys(), default=max(places))
        table = tables.get(partition)
        rows[partition] = {
            **_row(spec, source, partition, inputs(source, many)),
            "outcome": "refused" if shown in refused else "published",
            "revision": units[shown].revision,
            "rows": int(found.rows[shown]),
            "quarantined": int(found.quarantined[shown]),
            "duplicates": int(found.duplicates[shown]),
            "digest": "" if table is None else validated_digest(table, declared),
        }
        if max(places) in refused:
            newest[partition] = refused[max(places)]
        rows[partition]["note"] = _note(rows[partition], newest.get(partition))
    return _Made(found.good, found.quarantine, rows, newest)


def _row(spec: UseCase, source: str, partition: str, lineage: str) -> Row:
    nothing = {"revision": 0, "rows": 0, "quarantined": 0, "duplicates": 0, "digest": ""}
    made_by = {"inputs": lineage, "spec": spec.digest_of(source), "code": code_version()}
    return {"product": source, "partition": partition, **nothing, **made_by}


def _absent(spec: UseCase, source: str, partition: str, error: EvergreenError, before: Row | None) -> Row:
    """Return the row of a partition of which nothing is kept; it says whether the source had nothing once."""
    outcome = "refused" if isinstance(error, PartitionRefused) else "unavailable"
    said = isinstance(error, NotAvailableYet) or (before is not None and before["inputs"] == NOTHING_YET)
    lineage = NOTHING_YET if said else "{}"
    return {**_row(spec, source, partition, lineage), "outcome": outcome, "note": str(error)}


def _note(row: Row, refusal: PartitionRefused | None) -> str:
    if row["outcome"] == "refused":
        return str(refusal)
    said = f"{row['rows']} rows" + (f" of revision {row['revision']}" if row["revision"] else "")
    said += f", {row['quarantined']} set aside" if row["quarantined"] else ""
    said += f", {row['duplicates']} exact duplicates dropped" if row["duplicates"] else ""
    return f"{said}; a newer revision was refused: {refusal}" if refusal else said


def _outcome(source: str, partition: str, row: Row | None, error: EvergreenError | None) -> Outcome:
    """Return what became of a partition in this run.

    An error of this run counts even where older rows stand.
    """
    if row is None or (error is not None and row["outcome"] == "published"):
        outcome = "refused" if isinstance(error, PartitionRefused) else "unavailable"
        return Outcome(source, partition, outcome, note=str(error), error=error)
    figures = {name: row[name] for name in ("outcome", "rows", "quarantined", "duplicates", "digest", "note")}
    return Outcome(source, partition, **figures, error=error)
