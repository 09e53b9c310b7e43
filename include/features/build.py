"""Builds features as they could have been known at each partition's decision time.

A backfill of an old partition therefore computes the same features as the scheduled run did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import duckdb
import pandas as pd
import pyarrow as pa

from include.errors import InsufficientData, SpecError
from include.features import point_in_time
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake

BLOCK, BLOCK_ROWS = 90, 1 << 20  # partitions whose features are computed at once, and about how many rows
FROM_SQL = "features"  # what the SQL's result is called for Python; no source may have this name


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
    tables = [*(f"validated_{name}" for name in spec.sources), "partitions"]
    key = ("features", spec, tuple(requested))
    return lake.cached(key, tables, lambda: _features(lake, spec, requested))


def _features(lake: Lake, spec: UseCase, requested: list[str]) -> pa.Table:
    tables = (
        compute_features(spec, point_in_time.read_sources(lake, spec, block), block)
        for block in blocks(row_counts(lake, spec.features.spine, requested), BLOCK)
    )
    return collect(schema(spec), tables)


def row_counts(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, int]:
    """Return how many rows a source has by partition; 0 where none is recorded, or if there is only one."""
    where = {"product": source, "partition": list(partitions)}
    status = lake.read("partitions", where, ["partition", "rows"]) if len(partitions) > 1 else None
    recorded = {} if status is None else {row["partition"]: row["rows"] or 0 for row in status.to_pylist()}
    return {partition: recorded.get(partition, 0) for partition in partitions}


def blocks(counts: Mapping[str, int], most: int | None = None) -> Iterator[list[str]]:
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


def collect(table_schema: pa.Schema, tables: Iterable[pa.Table]) -> pa.Table:
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
    cutoff = until or spec.clock.decision_time(partitions[-1])
    with point_in_time.create_views(spec, rows, partitions, cutoff) as engine:
        if (sql := spec.sql) or not spec.features.python:
            try:
                _register_result(engine, sql, FROM_SQL if spec.features.python else "result")
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
    with point_in_time.create_views(spec, rows, [partition], spec.clock.decision_time(partition)) as engine:
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
    except spill.SQL_ERRORS as error:
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
    message, alternative = " ".join(str(error).split()), ""
    read = re.findall(r"\b(?:from|join)\s+(\w+)", spec.sql, re.IGNORECASE)
    views = [f"known_{name}" for name in spec.sources if name in read]
    if views and re.search(r'column (named )?"(for_partition|decision_time|ago)"', message):
        alternative = f"read {' or '.join(views)}, which has for_partition, decision_time and ago; or "
    return _features_error(spec, "one SELECT that DuckDB can run", message, alternative)


def _result_error(spec: UseCase, error: Exception) -> SpecError:
    """Return the error of reading the result: of the SQL, which runs only then, or of Python's types."""
    if not spec.features.python:
        return _sql_error(spec, error)
    required = "numbers, texts and the spine's types as declared"
    return _features_error(spec, required, " ".join(str(error).split()))


def _features_error(spec: UseCase, required: str, found: str, alternative: str = "") -> SpecError:
    return SpecError(
        f"{spec.name}: features",
        required=required,
        found=found,
        where=str(spec.features_file),
        remedy=f"{alternative}correct the {'Python' if spec.features.python else 'SQL'}, or "
        "features.numeric and features.categorical in usecase.yaml",
    )


def known_too_late(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> dict[str, datetime]:
    """Return the partitions whose spine rows all became known after the decision, and when the first did."""
    columns = ["partition", "known_at"]
    rows = lake.read(f"validated_{spec.features.spine}", {"partition": list(partitions)}, columns)
    if rows is None:
        return {}
    earliest = rows.group_by("partition").aggregate([("known_at", "min")]).to_pylist()
    moments = {str(row["partition"]): row["known_at_min"] for row in earliest}
    return {key: moment for key, moment in sorted(moments.items()) if moment > spec.clock.decision_time(key)}


def require_timely_spine(lake: Lake, spec: UseCase, subject: str, partitions: Sequence[str]) -> None:
    """Refuse partitions that have no rows to learn from because the spine became known after the decision.

    Raises
    ------
    InsufficientData
        if that is so on one of them.
    """
    late = known_too_late(lake, spec, partitions)
    if not late:
        return
    last = max(late)
    decision = spec.clock.decision_time(last)
    raise InsufficientData(
        f"{spec.name}: {subject}",
        required=f"labeled partitions on which the spine {spec.features.spine} is known by the decision",
        found=f"{len(late)} of {len(partitions)} on which it was known only later, such as "
        f"{last}: known from {late[last]:%Y-%m-%d %H:%M} UTC on, decision at {decision:%Y-%m-%d %H:%M} UTC",
        where=f"schedule.batch = {spec.schedule.batch!r}",
        remedy=remedy_too_late(spec, last),
    )


def remedy_too_late(spec: UseCase, partition: str) -> str:
    """Return what to change if a partition's spine rows became known only after its decision."""
    spine = spec.features.spine
    available_at = spec.sources[spine].available_at
    if spec.clock.local(partition, available_at) <= spec.clock.decision_time(partition):
        # of a first revision the stored time is the one that was declared when it was ingested
        return (
            f"move schedule.batch to a later time, when {spine} has arrived; or, if schedule.timezone or "
            f"sources.{spine}.available_at was changed after the rows were ingested, ingest into a new lake, "
            "because stored rows keep their time"
        )
    later = f"{available_at} or later" if ":" in available_at else f"{available_at[1:-1]} minutes later"
    return (
        f"move schedule.batch to {later}; or, if the rows are available earlier, declare it "
        f"in sources.{spine}.available_at and ingest into a new lake, because stored rows keep their time"
    )
