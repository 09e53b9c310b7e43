"""Builds features and labels as they could have been known at each partition's decision time.

A backfill of an old partition therefore computes the same features as the scheduled run did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import SpecError
from include.features import point_in_time
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake

BLOCK, BLOCK_ROWS = 90, 1 << 20  # partitions whose features are computed at once, and about so many rows
FROM_SQL = "features"  # what the SQL's result is called for Python; no source may have this name

# features


def features(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> pa.Table:
    """Return the point-in-time correct features of the partitions' rows, as of each decision time.

    Parameters
    ----------
    partitions : keys of partitions of the spine; one without published rows has no features.

    Returns
    -------
    pa.Table
        The spine's key, ``partition``, and `spec.features.columns` (float64 and string, with nulls), sorted
        by partition and key. A partition's rows don't depend on which other partitions are requested.

    Raises
    ------
    SpecError
        if the SQL can't run, or doesn't return exactly the declared columns for exactly the spine's rows.
    """
    requested = sorted(set(partitions))
    tables = [f"validated_{name}" for name in spec.sources]
    key = ("features", spec, tuple(requested))
    return lake.keep(key, tables, lambda: _features(lake, spec, requested))


def _features(lake: Lake, spec: UseCase, requested: list[str]) -> pa.Table:
    tables = (
        compute_features(spec, point_in_time.read_sources(lake, spec, block), block)
        for block in _blocks(_row_counts(lake, spec.features.spine, requested), BLOCK)
    )
    return _collect(schema(spec), tables)


def _row_counts(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, int]:
    """Return how many rows a source has by partition; 0 where none is recorded, or if there is only one."""
    where = {"product": source, "partition": list(partitions)}
    status = lake.read("partitions", where, ["partition", "rows"]) if len(partitions) > 1 else None
    recorded = {} if status is None else {row["partition"]: row["rows"] or 0 for row in status.to_pylist()}
    return {partition: recorded.get(partition, 0) for partition in partitions}


def _blocks(counts: Mapping[str, int], most: int | None = None) -> Iterator[list[str]]:
    """Yield consecutive partitions: they are independent, so a long history is computed in blocks.

    Parameters
    ----------
    counts : the number of rows by partition; a block has about `BLOCK_ROWS`.
    most : partitions in a block, at most.
    """
    block: list[str] = []
    rows = 0
    for partition, count in counts.items():
        if block and (len(block) == most or rows + count > BLOCK_ROWS):
            yield block
            block, rows = [], 0
        block.append(partition)
        rows += count
    if block:
        yield block


def _collect(table_schema: pa.Schema, tables: Iterable[pa.Table]) -> pa.Table:
    """Return the rows of tables that are computed one at a time, in one chunk if they are few."""
    rows = spill.spill_table(table_schema, (batch for table in tables for batch in table.to_batches()))
    return rows.combine_chunks() if rows.nbytes <= spill.MEMORY_LIMIT else rows


def compute_features(
    spec: UseCase,
    rows: Mapping[str, pa.Table],
    partitions: Sequence[str],
    *,
    until: datetime | None = None,
) -> pa.Table:
    """Return the features of sorted ``partitions`` from the sources' rows.

    Parameters
    ----------
    rows : of each source, from `point_in_time.read_sources`.
    until : rows that became known later are ignored; by default the last partition's decision time.
    """
    cutoff = until or spec.clock.moment(partitions[-1])
    with point_in_time.create_views(spec, rows, partitions, cutoff) as engine:
        if spec.sql:
            try:
                _register_result(engine, spec.sql, FROM_SQL if spec.features.python else "result")
            except duckdb.Error as error:
                spill.raise_if_out_of_memory(error)
                raise _sql_error(spec, error) from None
        if spec.features.python:
            _register_python_result(spec, engine)
        expected = schema(spec)
        _require_declared_columns(spec, engine, expected.names)
        # the result is streamed, so DuckDB doesn't keep it, and is often sorted already
        unsorted = spill.spill_table(expected, _result_batches(spec, engine, expected))
        result = spill.sort_rows(unsorted, ("partition", *spec.key))
        _require_spine_rows(spec, engine, result)
        return result


def rows_without_features(spec: UseCase, rows: Mapping[str, pa.Table], partition: str) -> pa.Table:
    """Return a partition's rows as `compute_features` does, but with null for each feature, sorted by key.

    Parameters
    ----------
    rows : of each source, from `point_in_time.read_sources`.
    """
    expected = schema(spec)
    keys = pa.schema([field for field in expected if field.name in (*spec.key, "partition")])
    with point_in_time.create_views(spec, rows, [partition], spec.clock.moment(partition)) as engine:
        spine = spill.sort_rows(_spine_keys(engine, keys), spec.key)
    columns = [
        spine[field.name] if field.name in keys.names else pa.nulls(spine.num_rows, field.type)
        for field in expected
    ]
    return pa.table(columns, schema=expected)


def schema(spec: UseCase) -> pa.Schema:
    """Return the schema of the features: key, partition, numeric (float64) and categorical (string) columns.

    A key column that is also a feature occurs once, with the key's type.
    """
    source = spec.sources[spec.features.spine]
    types: dict[str, pa.DataType] = dict.fromkeys(spec.features.categorical, pa.string())
    types |= dict.fromkeys(spec.features.numeric, pa.float64())
    types |= {name: schemas.column_type(source.columns[name]) for name in spec.key}
    types |= {"partition": pa.string()}
    names = dict.fromkeys((*spec.key, "partition", *spec.features.columns))
    return pa.schema([(name, types[name]) for name in names])


def _register_result(engine: duckdb.DuckDBPyConnection, sql: str, name: str) -> None:
    """Create ``name`` from the SQL, as a view that streams its rows where possible."""
    try:
        engine.execute(f"CREATE VIEW {name} AS {sql}")
    except duckdb.Error:  # such as PIVOT without names, which can't be a view; invalid SQL fails again
        engine.execute(f"CREATE TABLE {name} AS {sql}")


def _register_python_result(spec: UseCase, engine: duckdb.DuckDBPyConnection) -> None:
    """Register as ``result`` what the use case's function makes of the tables."""
    code = spec.code("features.python", "features", spec.features.python or "")
    assert code is not None  # reading the declaration requires a module
    function = code.load()
    names = [name for source in spec.sources for name in (source, f"known_{source}")]
    names += ["spine", "calendar", *([FROM_SQL] if spec.sql else [])]
    tables = {name: engine.table(name) for name in names}
    required = "a function of the tables that returns Arrow, pandas or a relation"

    def run() -> object:
        try:
            result = function(tables)
            if isinstance(result, pd.DataFrame):
                return pa.Table.from_pandas(result, preserve_index=False)
            if isinstance(result, duckdb.DuckDBPyRelation):  # it is computed only now
                reader = result.to_arrow_reader(spill.BATCH)
                return spill.spill_table(reader.schema, reader)
        except (duckdb.Error, OSError) as error:
            spill.raise_if_out_of_memory(error)
            raise
        return result

    result = code.call(required, run)
    if not isinstance(result, pa.Table):
        code.fail(required, f"type {type(result).__name__}", function)
    # DuckDB doesn't have all types of Arrow's, such as float16
    code.call(required, lambda: engine.register("result", result).execute("DESCRIBE result"))


def _require_declared_columns(
    spec: UseCase, engine: duckdb.DuckDBPyConnection, declared: Sequence[str]
) -> None:
    """Reject a result without exactly the declared columns."""
    names = [row[0] for row in engine.execute("SELECT column_name FROM (DESCRIBE result)").fetchall()]
    missing = [name for name in declared if name not in names]
    undeclared = [name for name in names if name not in declared]
    if missing or undeclared:
        differences = {"missing": missing, "not declared": undeclared}
        found = "; ".join(
            f"{label} {', '.join(columns)}" for label, columns in differences.items() if columns
        )
        raise _features_error(spec, f"the columns {', '.join(declared)}", found)


def _result_batches(
    spec: UseCase, engine: duckdb.DuckDBPyConnection, expected: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the result in the declared schema."""
    columns = ", ".join(_select_column(field, field.name in spec.key) for field in expected)
    query = f"SELECT {columns} FROM result"  # noqa: S608 - the names are quoted
    try:
        for batch in engine.sql(query).to_arrow_reader(spill.BATCH):
            yield batch.cast(expected)
    except (
        duckdb.Error,
        OSError,
        pa.ArrowException,
    ) as error:  # Arrow's reader has OSError for DuckDB's errors
        spill.raise_if_out_of_memory(error)
        raise _result_error(spec, error) from None


def _select_column(field: pa.Field, is_key: bool) -> str:
    name = f'"{field.name}"'
    if pa.types.is_floating(field.type) and not is_key:
        # NaN and infinity come from divisions in the SQL, and mean that there is no value
        return f"CASE WHEN isfinite(CAST({name} AS DOUBLE)) THEN CAST({name} AS DOUBLE) END AS {name}"
    return name if is_key else f"CAST({name} AS VARCHAR) AS {name}"


def _require_spine_rows(spec: UseCase, engine: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    """Reject sorted rows that aren't exactly the spine's."""
    names = ("partition", *spec.key)
    keys = rows.select(names)
    with_nulls = [name for name in names if keys[name].null_count]  # a null is equal to no other
    spine = _spine_keys(engine, keys.schema)
    if not with_nulls and (spine.equals(keys) or spill.sort_rows(spine, names).equals(keys)):
        return
    engine.register("keys", keys)
    columns = ", ".join(f'"{name}"' for name in names)
    query = f"SELECT count(*) FROM spine SEMI JOIN keys USING ({columns})"  # noqa: S608 - the names are quoted
    matching = engine.execute(query).fetchall()[0][0]
    found = f"{keys.num_rows} rows, for {matching} of the {spine.num_rows} rows of the spine"
    found += f"; null values in {', '.join(with_nulls)}" if with_nulls else ""
    raise _features_error(spec, "exactly one row for each row of the spine", found)


def _spine_keys(engine: duckdb.DuckDBPyConnection, keys: pa.Schema) -> pa.Table:
    """Return the key and the partition of each row of the spine."""
    columns = ", ".join(f'"{name}"' for name in keys.names)
    query = f"SELECT {columns} FROM spine"  # noqa: S608 - the names are quoted
    reader = engine.sql(query).to_arrow_reader(spill.BATCH)
    return spill.spill_table(keys, (batch.cast(keys) for batch in reader))


def _sql_error(spec: UseCase, error: Exception) -> SpecError:
    return _features_error(spec, "one SELECT that DuckDB can run", " ".join(str(error).split()))


def _result_error(spec: UseCase, error: Exception) -> SpecError:
    """Return the error of reading the result: of the SQL, which runs only then, or of Python's types."""
    if not spec.features.python:
        return _sql_error(spec, error)
    required = "numbers, texts and the spine's types as declared"
    return _features_error(spec, required, " ".join(str(error).split()))


def _features_error(spec: UseCase, required: str, found: str) -> SpecError:
    return SpecError(
        f"{spec.name}: features",
        required=required,
        found=found,
        where=str(spec.features_file),
        remedy=f"correct the {'Python' if spec.features.python else 'SQL'}, or features.numeric and "
        "features.categorical in usecase.yaml",
    )


def known_too_late(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> dict[str, datetime]:
    """Return the partitions whose spine rows all became known after the decision, and when the first did."""
    columns = ["partition", "known_at"]
    rows = lake.read(f"validated_{spec.features.spine}", {"partition": list(partitions)}, columns)
    if rows is None:
        return {}
    earliest = rows.group_by("partition").aggregate([("known_at", "min")]).to_pylist()
    moments = {str(row["partition"]): row["known_at_min"] for row in earliest}
    return {key: moment for key, moment in sorted(moments.items()) if moment > spec.clock.moment(key)}


def remedy_too_late(spec: UseCase, partition: str) -> str:
    """Return what to change if a partition's spine rows became known only after its decision."""
    spine = spec.features.spine
    available_at = spec.sources[spine].available_at
    if spec.clock.local(partition, available_at) <= spec.clock.moment(partition):
        return f"move schedule.batch to a later time, when {spine} has arrived"
    later = f"{available_at} or later" if ":" in available_at else f"{available_at[1:-1]} minutes later"
    return (
        f"move schedule.batch to {later}; or, if the rows are available earlier, declare it "
        f"in sources.{spine}.available_at and ingest into a new lake, because stored rows keep their time"
    )


# labels

_LABEL_PARTITIONS = pa.schema([("partition", pa.string()), ("spine_partition", pa.string())])


def matured(lake: Lake, spec: UseCase, known_by: str | None) -> list[str]:
    """Return the spine's partitions whose labels were published by a partition (None: by now), sorted."""
    where = {"product": spec.labels.source, "outcome": "published"}
    rows = lake.read("partitions", where, ["partition"])
    published = set() if rows is None else set(rows["partition"].to_pylist())
    last = max((key for key in published if known_by is None or key <= known_by), default="")
    if not last:
        return []
    # pairing the keys by position is faster than shifting each one
    keys = spec.clock.keys(spec.schedule.start, last)
    pairs = zip(keys, keys[spec.labels.delay :], strict=False)
    return [spine_key for spine_key, label_key in pairs if label_key in published]


def labels(lake: Lake, spec: UseCase, partitions: Sequence[str], *, known: str | None) -> pa.Table:
    """Return the labels of the partitions' rows, as known by partition ``known`` (None: as known now).

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
    available = sorted(set(partitions) & set(matured(lake, spec, known)))
    key = ("labels", spec, tuple(available), known or "")
    return lake.keep(key, [f"validated_{spec.labels.source}"], lambda: _labels(lake, spec, available, known))


def _labels(lake: Lake, spec: UseCase, available: list[str], known: str | None) -> pa.Table:
    fields = [*list(schema(spec))[: len(spec.key) + 1], pa.field(spec.problem.target, pa.float64())]
    expected = pa.schema(fields)
    spine_partitions = {spec.clock.shift(key, spec.labels.delay): key for key in available}
    # at least one, so that SQL that can't run is refused before there are any labels
    blocks = list(_blocks(_row_counts(lake, spec.labels.source, list(spine_partitions)))) or [[]]
    tables = (
        _compute_labels(lake, spec, {key: spine_partitions[key] for key in block}, known, expected)
        for block in blocks
    )
    return _collect(expected, tables)


def _compute_labels(
    lake: Lake, spec: UseCase, spine_partitions: dict[str, str], known: str | None, expected: pa.Schema
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
        "true" if known is None else f"known_at <= TIMESTAMPTZ '{spec.clock.moment(known).isoformat()}'"
    )
    with spill.duckdb_engine() as engine:
        engine.register("label_rows", point_in_time.conform(rows, schemas.validated_schema(source)))
        pairs = {"partition": list(spine_partitions), "spine_partition": list(spine_partitions.values())}
        engine.register("label_partitions", pa.table(pairs, schema=_LABEL_PARTITIONS))
        key = ", ".join(f'"{column}"' for column in spec.key)
        sql_type = "VARCHAR" if spec.problem.classes else "DOUBLE"
        # the SQL consists of quoted names, the spec's own expression, and moments that the clock computed
        sql = f"""SELECT {key}, spine_partition AS partition,
            CAST(({spec.labels.sql}) AS {sql_type}) AS "{spec.problem.target}"
            FROM (SELECT * FROM label_rows WHERE {condition}
                  QUALIFY row_number() OVER (PARTITION BY partition, {key} ORDER BY revision DESC) = 1)
            JOIN label_partitions USING (partition) ORDER BY spine_partition, {key}"""  # noqa: S608
        return spill.spill_table(expected, _label_batches(spec, engine, sql, expected))


def _label_batches(
    spec: UseCase, engine: duckdb.DuckDBPyConnection, sql: str, expected: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the labels in their declared schema."""
    try:
        for batch in engine.sql(sql).to_arrow_reader(spill.BATCH):
            rows = pa.Table.from_batches([batch])
            if spec.problem.classes:
                rows = _encode_classes(spec, rows)
            elif spec.problem.codes:
                _require_zeros_and_ones(spec, rows)
            yield from point_in_time.conform(rows, expected).to_batches()
    except (
        duckdb.Error,
        OSError,
        pa.ArrowException,
    ) as error:  # Arrow's reader has OSError for DuckDB's errors
        spill.raise_if_out_of_memory(error)
        source = spec.labels.source
        required = f"an expression over {source}'s columns: {', '.join(spec.sources[source].columns)}"
        raise _labels_error(spec, required, " ".join(str(error).split())) from None


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


def _labels_error(spec: UseCase, required: str, found: str, remedy: str = "") -> SpecError:
    where = str(spec.folder / "usecase.yaml")
    return SpecError(f"{spec.name}: labels.sql", required=required, found=found, where=where, remedy=remedy)


# both


def partition_before(lake: Lake, spec: UseCase, partition: str, count: int) -> str:
    """Return the partition that is ``count`` before another one, or the first that there is.

    Partitions without a row don't count if the spine is sparse.
    """
    if not spec.sparse:
        return spec.clock.shift(partition, -count)
    return key_before(partitions_with_rows(lake, spec), partition, count)


def key_before(keys: Sequence[str], partition: str, count: int) -> str:
    """Return the one of ascending keys that is ``count`` before a partition, or the first; or itself."""
    return ([key for key in keys if key < partition][-count:] or [partition])[0] if count else partition


def window_start(lake: Lake, spec: UseCase, partition: str) -> str:
    """Return the first partition that a training may use, empty if all may be used."""
    window = spec.training.window
    return partition_before(lake, spec, partition, window) if window else ""


def partitions_with_rows(lake: Lake, spec: UseCase) -> list[str]:
    """Return the partitions whose spine was published with rows, ascending."""
    where = {"product": spec.features.spine, "outcome": "published"}
    rows = lake.read("partitions", where, ["partition", "rows"])
    return [] if rows is None else sorted(row["partition"] for row in rows.to_pylist() if row["rows"])


def training_set(lake: Lake, spec: UseCase, partition: str) -> pa.Table:
    """Return features and target of the rows whose label was known by ``partition``, within the window."""
    first = window_start(lake, spec, partition)
    partitions = [key for key in matured(lake, spec, partition) if key >= first]
    return join_labels(lake, spec, features(lake, spec, partitions), partition)


def join_labels(lake: Lake, spec: UseCase, rows: pa.Table, known_by: str) -> pa.Table:
    """Return the rows whose label was known by a partition, with the label, sorted by partition and key.

    Parameters
    ----------
    rows : from `features`; if they have the target already, as of a later partition, it is replaced.
    """
    target, keys = spec.problem.target, [*spec.key, "partition"]
    places = _places(rows)
    labeled = labels(lake, spec, list(places), known=known_by)
    labeled = spill.filter_rows(labeled, labeled[target].is_valid())
    label_places = _places(labeled)
    rows = rows.drop_columns([target]) if target in rows.column_names else rows
    order = [(name, "ascending") for name in ("partition", *spec.key)]

    def joined() -> Iterator[pa.Table]:
        # both are sorted by partition, so the rows of a block of partitions lie together
        counts = {name: of.stop - of.start for name, of in places.items() if name in label_places}
        for block in _blocks(counts):
            parts = (
                table.slice(of[block[0]].start, of[block[-1]].stop - of[block[0]].start)
                for table, of in ((rows, places), (labeled, label_places))
            )
            yield next(parts).join(next(parts), keys, join_type="inner").sort_by(order)

    return _collect(rows.schema.append(labeled.schema.field(target)), joined())


def _places(rows: pa.Table) -> dict[str, slice]:
    """Return where each partition's rows lie in rows that are sorted by it."""
    counts = pc.value_counts(rows["partition"]).to_pylist()
    ends = accumulate(one["counts"] for one in counts)
    return {one["values"]: slice(end - one["counts"], end) for one, end in zip(counts, ends, strict=True)}
