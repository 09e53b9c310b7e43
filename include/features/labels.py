"""Joins labels to the partitions whose rows they are about, as known by a partition; and training sets.

A training set is the features of rows beside their labels, both point-in-time. Labels become known on the
partition that brings them, and again on each later one that changes them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import accumulate

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import SpecError
from include.features import point_in_time
from include.features.build import blocks, collect, features, row_counts, schema
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake
from include.storage.windows import window_start

_LABEL_PARTITIONS = pa.schema([("partition", pa.string()), ("spine_partition", pa.string())])


def matured(lake: Lake, spec: UseCase, as_of: str | None) -> list[str]:
    """Return the spine's partitions whose labels were published by a partition (None: by now), sorted."""
    published = set(lake.published(spec.labels.source))
    last = max((key for key in published if as_of is None or key <= as_of), default="")
    if not last:
        return []
    # pairing the keys by position is faster than shifting each one
    keys = spec.clock.keys(spec.schedule.start, last)
    pairs = zip(keys, keys[spec.labels.delay :], strict=False)
    return [spine_key for spine_key, label_key in pairs if label_key in published]


def labels(lake: Lake, spec: UseCase, partitions: Sequence[str], *, as_of: str | None) -> pa.Table:
    """Return the labels of the partitions' rows, as known by partition ``as_of`` (None: as known now).

    Returns
    -------
    pa.Table
        Key, ``partition`` (the spine's) and the target: float64, null if there will never be a label; for a
        multiclass problem the position of the class among the declared ones. A partition whose labels weren't
        published by then has no rows.

    Raises
    ------
    SpecError
        if DuckDB can't evaluate the expression, or it returns a class that isn't declared.
    """
    available = sorted(set(partitions) & set(matured(lake, spec, as_of)))
    key = ("labels", spec, tuple(available), as_of or "")
    tables = [f"validated_{spec.labels.source}", "partitions"]
    return lake.cached(key, tables, lambda: _labels(lake, spec, available, as_of))


def _labels(lake: Lake, spec: UseCase, available: list[str], as_of: str | None) -> pa.Table:
    fields = [*list(schema(spec))[: len(spec.key) + 1], pa.field(spec.problem.target, pa.float64())]
    expected = pa.schema(fields)
    spine_partitions = {spec.clock.shift(key, spec.labels.delay): key for key in available}
    for key, moment in point_in_time.emptied_at(lake, spec.labels.source, list(spine_partitions)).items():
        if as_of is None or moment <= spec.clock.decision_time(as_of):
            del spine_partitions[key]
    # at least one, so that SQL that can't run is refused before there are any labels
    label_blocks = list(blocks(row_counts(lake, spec.labels.source, list(spine_partitions)))) or [[]]
    tables = (
        _compute_labels(lake, spec, {key: spine_partitions[key] for key in block}, as_of, expected)
        for block in label_blocks
    )
    return collect(expected, tables)


def _compute_labels(
    lake: Lake, spec: UseCase, spine_partitions: dict[str, str], as_of: str | None, expected: pa.Schema
) -> pa.Table:
    """Return the labels that some partitions of their source have, sorted.

    Parameters
    ----------
    spine_partitions : for each of them the partition whose rows it labels.
    """
    source = spec.sources[spec.labels.source]
    where = {"partition": list(spine_partitions)}
    rows = lake.read(f"validated_{spec.labels.source}", where) if spine_partitions else None
    condition = (
        "true"
        if as_of is None
        else f"known_at <= TIMESTAMPTZ '{spec.clock.decision_time(as_of).isoformat()}'"
    )
    with spill.duckdb_engine() as engine:
        engine.register("label_rows", schemas.align_to_schema(rows, schemas.validated_schema(source)))
        pairs = {"partition": list(spine_partitions), "spine_partition": list(spine_partitions.values())}
        engine.register("label_partitions", pa.table(pairs, schema=_LABEL_PARTITIONS))
        key = ", ".join(f'"{column}"' for column in spec.key)
        label = f"CAST(({spec.labels.sql}) AS {'VARCHAR' if spec.problem.classes else 'DOUBLE'})"
        if not spec.problem.classes:  # as for features: 0 / 0 isn't a number, and 1 / 0 can't be fitted
            label = f"CASE WHEN isfinite({label}) THEN {label} END"
        # the SQL consists of quoted names, the spec's own expression, and moments that the clock computed
        sql = f"""SELECT {key}, spine_partition AS partition, {label} AS "{spec.problem.target}"
            FROM (SELECT * FROM label_rows WHERE {condition}
                  QUALIFY rank() OVER (PARTITION BY partition ORDER BY revision DESC) = 1)
            JOIN label_partitions USING (partition) ORDER BY spine_partition, {key}"""  # noqa: S608
        return spill.spill_table(expected, _label_batches(spec, engine, sql, expected))


def _label_batches(
    spec: UseCase, engine: duckdb.DuckDBPyConnection, sql: str, expected: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the labels in their declared schema."""
    with evaluating_labels(spec):
        for batch in engine.sql(sql).to_arrow_reader(spill.BATCH):
            rows = pa.Table.from_batches([batch])
            if spec.problem.classes:
                rows = _encode_classes(spec, rows)
            elif spec.problem.codes:
                _require_zeros_and_ones(spec, rows)
            yield from schemas.align_to_schema(rows, expected).to_batches()


@contextmanager
def evaluating_labels(spec: UseCase) -> Iterator[None]:
    """Raise a SpecError if DuckDB can't evaluate ``labels.sql`` in this block."""
    try:
        yield
    except spill.SQL_ERRORS as error:
        spill.raise_if_out_of_memory(error)
        source = spec.labels.source
        required = f"an expression over {source}'s columns: {', '.join(spec.sources[source].columns)}"
        remedy = "correct labels.sql in usecase.yaml, or declare the column under the source"
        raise _labels_error(spec, required, " ".join(str(error).split()), remedy) from None


def _require_zeros_and_ones(spec: UseCase, rows: pa.Table) -> None:
    labels = rows[spec.problem.target]
    other = labels.filter(pc.invert(pc.is_in(labels, pa.array([*spec.problem.codes, None]))))
    if len(other):
        required, found = "0, 1 or null, for a binary problem", f"{other[0].as_py():g}"
        raise _labels_error(spec, required, found, "write a condition, as `minutes > 15`")


def _encode_classes(spec: UseCase, rows: pa.Table) -> pa.Table:
    """Return the rows with each class as its position. Ingest has quarantined undeclared classes."""
    target, classes = spec.problem.target, spec.problem.classes
    positions = pc.index_in(rows[target], value_set=pa.array(classes, pa.string()))
    if positions.null_count > rows[target].null_count:
        undeclared = pc.unique(rows[target].filter(pc.is_null(positions))).to_pylist()
        raise _labels_error(
            spec,
            f"one of the declared classes {', '.join(classes)}, or null",
            ", ".join(sorted(str(label) for label in undeclared if label is not None)[:5]),
            f"declare it under problem.classes or map it in labels.sql, then run ingest of "
            f"{spec.labels.source} for those partitions, which quarantines rows of undeclared classes",
        )
    return rows.set_column(rows.column_names.index(target), target, positions.cast(pa.float64()))


def _labels_error(spec: UseCase, required: str, found: str, remedy: str) -> SpecError:
    where = str(spec.folder / "usecase.yaml")
    return SpecError(f"{spec.name}: labels.sql", required=required, found=found, where=where, remedy=remedy)


def training_set(lake: Lake, spec: UseCase, partition: str) -> pa.Table:
    """Return features and target of the rows whose label was known by ``partition``, within the window."""
    first = window_start(lake, spec, partition)
    partitions = [key for key in matured(lake, spec, partition) if key >= first]
    return join_labels(lake, spec, features(lake, spec, partitions), partition)


def join_labels(lake: Lake, spec: UseCase, rows: pa.Table, as_of: str) -> pa.Table:
    """Return the rows whose label was known by a partition, with the label, sorted by partition and key.

    Parameters
    ----------
    rows : from `features`; if they have the target already, as of a later partition, it is replaced.
    """
    target, keys = spec.problem.target, [*spec.key, "partition"]
    slices = _partition_slices(rows)
    labeled = labels(lake, spec, list(slices), as_of=as_of)
    labeled = spill.filter_rows(labeled, labeled[target].is_valid())
    label_slices = _partition_slices(labeled)
    rows = rows.drop_columns([target]) if target in rows.column_names else rows
    order = [(name, "ascending") for name in ("partition", *spec.key)]

    def joined() -> Iterator[pa.Table]:
        # both are sorted by partition, so the rows of a block of partitions lie together
        counts = {name: of.stop - of.start for name, of in slices.items() if name in label_slices}
        for block in blocks(counts):
            parts = (
                table.slice(of[block[0]].start, of[block[-1]].stop - of[block[0]].start)
                for table, of in ((rows, slices), (labeled, label_slices))
            )
            yield next(parts).join(next(parts), keys, join_type="inner").sort_by(order)

    return collect(rows.schema.append(labeled.schema.field(target)), joined())


def _partition_slices(rows: pa.Table) -> dict[str, slice]:
    """Return where each partition's rows lie in rows that are sorted by it."""
    counts = pc.value_counts(rows["partition"]).to_pylist()
    ends = accumulate(one["counts"] for one in counts)
    return {one["values"]: slice(end - one["counts"], end) for one, end in zip(counts, ends, strict=True)}


@dataclass(frozen=True)
class LabelArrival:
    """When a partition's labels became known.

    Parameters
    ----------
    partitions : those on which labels arrived or were revised, ascending; none if there are no labels yet.
    next : the moment of a revision that becomes known after the last of these; empty without one.
    early : how many labels were known before the partition's own decision: a clock is wrong, or they leak.
    """

    partitions: tuple[str, ...]
    next: str
    early: int


def label_arrivals(
    lake: Lake, spec: UseCase, partitions: Sequence[str], until: str
) -> dict[str, LabelArrival]:
    """Return for each partition when its labels became known, up to the partition ``until``.

    Parameters
    ----------
    partitions : whose labels are due by ``until``.
    """
    if not partitions:
        return {}
    clock, delay = spec.clock, spec.labels.delay
    decision_time = cache(clock.decision_time)
    keys = clock.keys(min(partitions), until)
    position_of = dict(zip(keys, range(delay, len(keys)), strict=False))
    where = {"partition": [keys[position_of[key]] for key in partitions]}
    rows = lake.read(f"validated_{spec.labels.source}", where, ["partition", "known_at"])
    counts: dict[str, dict[datetime, int]] = defaultdict(dict)
    if rows is not None:
        for row in rows.group_by(["partition", "known_at"]).aggregate([([], "count_all")]).to_pylist():
            counts[row["partition"]][row["known_at"]] = row["count_all"]
    for key, moment in point_in_time.emptied_at(lake, spec.labels.source, list(counts)).items():
        counts[key][moment] = 0
    arrivals = {}
    for partition in partitions:
        later = keys[position_of[partition] :]
        moments = dict(sorted(counts[later[0]].items()))
        positions = {at: bisect_left(later, at, key=decision_time) for at in moments}
        after = [at.isoformat() for at, index in positions.items() if index == len(later)]
        arrivals[partition] = LabelArrival(
            partitions=tuple(dict.fromkeys(later[i] for i in positions.values() if i < len(later))),
            next=after[0] if after else "",
            early=sum(count for at, count in moments.items() if at < decision_time(partition)),
        )
    return arrivals


def known_on(lake: Lake, spec: UseCase, partitions: Sequence[str], until: str) -> dict[str, tuple[str, ...]]:
    """Return for each partition those up to ``until`` on which its labels became known or changed, ascending.

    Parameters
    ----------
    partitions : as in `label_arrivals`.
    """
    arrivals = label_arrivals(lake, spec, partitions, until)
    return {key: arrival.partitions for key, arrival in arrivals.items()}


def labels_known_on(
    lake: Lake, spec: UseCase, arrivals: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str, pa.Table]]:
    """Yield partition, partition on which they were known, and the labels, for each pair in ``arrivals``.

    Labels that arrived at once are read together, and each revision by itself.
    """
    at_once: dict[str, list[str]] = defaultdict(list)
    for partition, arrived_on in arrivals.items():
        for as_of in arrived_on:
            at_once[as_of if len(arrived_on) > 1 else ""].append(partition)
    for as_of, partitions in at_once.items():
        last = as_of or max(arrivals[partition][0] for partition in partitions)
        rows = labels(lake, spec, partitions, as_of=last)
        for partition in partitions:
            own = rows.filter(pc.equal(rows["partition"], partition))
            yield partition, as_of or arrivals[partition][0], own
