"""Features and labels as they could have been seen: a backfilled partition sees what that partition saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import SpecError
from include.features import point_in_time
from include.features.point_in_time import AsOf
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake


def register_result(engine: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Let the SQL stand for ``result``: as a view, whose rows come as they are made, where it can be one."""
    try:
        engine.execute(f"CREATE VIEW result AS {sql}")
    except duckdb.Error:  # PIVOT without its names can't be a view; of a wrong SQL the table tells as well
        engine.execute(f"CREATE TABLE result AS {sql}")


def _column(field: pa.Field, key: bool) -> str:
    name = f'"{field.name}"'
    if pa.types.is_floating(field.type) and not key:
        # NaN and infinity come from a division in the SQL, and mean that there is no value
        return f"CASE WHEN isfinite(CAST({name} AS DOUBLE)) THEN CAST({name} AS DOUBLE) END AS {name}"
    return name if key else f"CAST({name} AS VARCHAR) AS {name}"


def require_declared_columns(spec: UseCase, engine: duckdb.DuckDBPyConnection, need: Sequence[str]) -> None:
    """Refuse a result without exactly the declared columns."""
    have = [row[0] for row in engine.execute("SELECT column_name FROM (DESCRIBE result)").fetchall()]
    missing, extra = [c for c in need if c not in have], [c for c in have if c not in need]
    if missing or extra:
        parts = {"missing": missing, "not declared": extra}
        found = "; ".join(f"{what} {', '.join(which)}" for what, which in parts.items() if which)
        raise _refused(spec, f"the columns {', '.join(need)}", found)


def result_batches(
    spec: UseCase, engine: duckdb.DuckDBPyConnection, shape: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the result in its declared shape."""
    # what is pasted are quoted names
    names = ", ".join(_column(field, field.name in spec.key) for field in shape)
    try:
        for batch in engine.sql(f"SELECT {names} FROM result").to_arrow_reader(spill.BATCH):  # noqa: S608
            yield batch.cast(shape)
    except (duckdb.Error, OSError, pa.ArrowException) as error:  # Arrow's reader has an OSError for DuckDB's
        spill.raise_if_out_of_memory(error)
        raise sql_error(spec, error) from None


def require_spine_rows(spec: UseCase, engine: duckdb.DuckDBPyConnection, found: pa.Table) -> None:
    """Refuse sorted rows that aren't exactly the spine's."""
    names = ("partition", *spec.key)
    by = ", ".join(f'"{c}"' for c in names)
    keys = found.select(names)
    empty = [name for name in names if keys[name].null_count]  # a null is like no other
    read = engine.sql(f"SELECT {by} FROM spine").to_arrow_reader(spill.BATCH)  # noqa: S608 (quoted names)
    spine = spill.spill_table(keys.schema, (batch.cast(keys.schema) for batch in read))
    if not empty and (spine.equals(keys) or spill.sort_rows(spine, names).equals(keys)):
        return
    engine.register("given", keys)
    met = f"SELECT count(*) FROM spine SEMI JOIN given USING ({by})"  # noqa: S608 (quoted names)
    there = engine.execute(met).fetchall()[0][0]
    said = f"{keys.num_rows} rows for {spine.num_rows} of the spine, of which {there} are there"
    said += f"; some have none in {', '.join(empty)}" if empty else ""
    raise _refused(spec, "exactly one row for each row of the spine", said)


def sql_error(spec: UseCase, error: Exception) -> SpecError:
    """Return the refusal of a SQL that DuckDB can't run."""
    return _refused(spec, "one SELECT that DuckDB can run", " ".join(str(error).split()))


def _refused(spec: UseCase, required: str, found: str) -> SpecError:
    return SpecError(
        f"{spec.name}: features",
        required=required,
        found=found,
        where=str(spec.folder / spec.features.sql),
        remedy="correct the SQL, or features.numeric and features.categorical in usecase.yaml",
    )


BLOCK = 90  # partitions that are computed at once


def features(lake: Lake, spec: UseCase, partitions: Sequence[str], *, as_of: AsOf = "then") -> pa.Table:
    """Return the features of the partitions' rows, as of each partition's decision time.

    Parameters
    ----------
    partitions : keys of the spine's partitions; one without published rows gives none.
    as_of : "then": as each partition saw it. "now": rows that were revised later count as if they had been
        right at once.

    Returns
    -------
    pa.Table
        The spine's key, ``partition``, then `spec.features.columns` (float64 and string, with nulls), sorted
        by partition and key. A partition's rows are the same whichever other partitions are asked for.

    Raises
    ------
    SpecError
        The SQL can't run, or doesn't give exactly the declared columns for exactly the spine's rows.
    """
    wanted = sorted(set(partitions))
    # a partition's rows don't depend on the others: a long history goes block by block, and memory stays
    # bounded
    blocks = [wanted[i : i + BLOCK] for i in range(0, len(wanted), BLOCK)]
    parts = [
        compute_features(spec, point_in_time.read_sources(lake, spec, block), block, as_of=as_of)
        for block in blocks
    ]
    return pa.concat_tables([schema(spec).empty_table(), *parts]).combine_chunks()


def compute_features(
    spec: UseCase,
    rows: Mapping[str, pa.Table],
    partitions: Sequence[str],
    *,
    as_of: AsOf = "then",
    until: datetime | None = None,
    watch: Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]] = iter,
) -> pa.Table:
    """Return the features of sorted ``partitions`` from rows cut at ``until``.

    The last decision unless given.

    Parameters
    ----------
    watch : sees the batches as they come, before they are sorted and before it is known that they are right.
    """
    with point_in_time.create_views(
        spec, rows, partitions, as_of, until or spec.clock.moment(partitions[-1])
    ) as engine:
        try:
            register_result(engine, spec.sql)
        except duckdb.Error as error:
            spill.raise_if_out_of_memory(error)
            raise sql_error(spec, error) from None
        shape = schema(spec)
        require_declared_columns(spec, engine, shape.names)
        # what is asked for comes as it is made: DuckDB needn't keep it, and the order is the spine's if the
        # SQL does nothing but join
        came = spill.spill_table(shape, watch(result_batches(spec, engine, shape)))
        found = spill.sort_rows(came, ("partition", *spec.key))
        require_spine_rows(spec, engine, found)
        return found


def schema(spec: UseCase) -> pa.Schema:
    """Return the shape of the features.

    Key, partition, float64 for numeric columns, string for categorical ones.

    A key column that is a feature as well stands once, with the key's type.
    """
    source = spec.sources[spec.features.spine]
    kinds = {name: schemas.column_type(source.columns[name]) for name in spec.key} | {
        "partition": pa.string()
    }
    kinds = dict.fromkeys(spec.features.numeric, pa.float64()) | kinds
    kinds = dict.fromkeys(spec.features.categorical, pa.string()) | kinds
    order = dict.fromkeys((*spec.key, "partition", *spec.features.columns))
    return pa.schema([(name, kinds[name]) for name in order])


def matured(lake: Lake, spec: UseCase, known: str | None) -> list[str]:
    """Return the spine's partitions whose labels were published by partition ``known`` (None.

    By now), sorted.
    """
    rows = lake.rows("partitions", {"product": spec.labels.source})
    brought = {row["partition"] for row in rows if row["outcome"] == "published"}
    last = max((partition for partition in brought if known is None or partition <= known), default="")
    if not last:
        return []
    # keys are paired by their place in the clock's own sequence, which costs less than a shift for each
    keys = spec.clock.keys(spec.schedule.start, last)
    return [n for n, label in zip(keys, keys[spec.labels.delay :], strict=False) if label in brought]


def labels(lake: Lake, spec: UseCase, partitions: Sequence[str], *, known: str | None) -> pa.Table:
    """Return what had come true of the partitions' rows by partition ``known`` (None: as it is known now).

    Returns
    -------
    pa.Table
        Key, ``partition`` (the spine's) and the target: float64, null where no label will ever come; of a
        multiclass problem the class's place among the declared. A partition whose labels weren't published by
        then gives no rows.

    Raises
    ------
    SpecError
        when the expression can't be answered, or gives a class that isn't declared.
    """
    source = spec.sources[spec.labels.source]
    wanted = sorted(set(partitions) & set(matured(lake, spec, known)))
    brings = {spec.clock.shift(partition, spec.labels.delay): partition for partition in wanted}
    read = lake.read(f"validated_{spec.labels.source}", {"partition": list(brings)}) if brings else None
    until = "true" if known is None else f"known_at <= TIMESTAMPTZ '{spec.clock.moment(known).isoformat()}'"
    with spill.duckdb_engine() as engine:
        engine.register("brought", point_in_time.conform(read, schemas.validated_schema(source)))
        engine.register(
            "brings", pa.table({"partition": list(brings), "spine": list(brings.values())}, _BRINGS)
        )
        key = ", ".join(f'"{column}"' for column in spec.key)
        kind = "VARCHAR" if spec.problem.classes else "DOUBLE"
        # what is pasted are quoted names, the spec's own expression, and moments that the clock made
        sql = f"""SELECT {key}, spine AS partition,
            CAST(({spec.labels.sql}) AS {kind}) AS "{spec.problem.target}"
            FROM (SELECT * FROM brought WHERE {until}
                  QUALIFY row_number() OVER (PARTITION BY partition, {key} ORDER BY revision DESC) = 1)
            JOIN brings USING (partition) ORDER BY spine, {key}"""  # noqa: S608
        shape = [*list(schema(spec))[: len(spec.key) + 1], pa.field(spec.problem.target, pa.float64())]
        return spill.spill_table(pa.schema(shape), _came(spec, engine, sql, pa.schema(shape)))


def _came(
    spec: UseCase, engine: duckdb.DuckDBPyConnection, sql: str, shape: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield what came true in its declared shape."""
    try:
        for batch in engine.sql(sql).to_arrow_reader(spill.BATCH):
            rows = pa.Table.from_batches([batch])
            rows = _coded(spec, rows) if spec.problem.classes else rows
            yield from point_in_time.conform(rows, shape).to_batches()
    except (duckdb.Error, OSError, pa.ArrowException) as error:  # of DuckDB's, while it is read
        spill.raise_if_out_of_memory(error)
        source = spec.labels.source
        columns = f"an expression over {source}'s columns: {', '.join(spec.sources[source].columns)}"
        raise _no_label(spec, columns, " ".join(str(error).split())) from None


def _coded(spec: UseCase, rows: pa.Table) -> pa.Table:
    """Return the rows with each class's place in place of its name; ingest sets others aside, see `check`."""
    target, classes = spec.problem.target, spec.problem.classes
    places = pc.index_in(rows[target], value_set=pa.array(classes, pa.string()))
    if places.null_count > rows[target].null_count:
        others = pc.unique(rows[target].filter(pc.is_null(places))).to_pylist()
        raise _no_label(
            spec,
            f"one of the declared classes {', '.join(classes)}, or null",
            ", ".join(sorted(str(other) for other in others if other is not None)[:5]),
            f"declare it under problem.classes or map it in labels.sql, then run ingest of "
            f"{spec.labels.source} for those partitions: rows of no declared class are set aside",
        )
    return rows.set_column(rows.column_names.index(target), target, places.cast(pa.float64()))


def _no_label(spec: UseCase, required: str, found: str, remedy: str = "") -> SpecError:
    where = str(spec.folder / "usecase.yaml")
    return SpecError(f"{spec.name}: labels.sql", required=required, found=found, where=where, remedy=remedy)


def known_too_late(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> dict[str, datetime]:
    """Return the partitions whose rows to score were all known only after the decision.

    Each with their first.
    """
    read = lake.read(
        f"validated_{spec.features.spine}", {"partition": list(partitions)}, ["partition", "known_at"]
    )
    if read is None:
        return {}
    first = read.group_by("partition").aggregate([("known_at", "min")]).to_pylist()
    known = {str(row["partition"]): row["known_at_min"] for row in first}
    return {partition: at for partition, at in sorted(known.items()) if at > spec.clock.moment(partition)}


def remedy_too_late(spec: UseCase, partition: str) -> str:
    """Return what is to be changed where a partition's rows to score were known only after its decision."""
    name = spec.features.spine
    declared = spec.sources[name].available_at
    if spec.clock.local(partition, declared) <= spec.clock.moment(partition):
        return f"let schedule.batch be later, when {name} has come"
    return (
        f"let schedule.batch be at {declared} or later; or, if the rows are known sooner, declare that in "
        f"sources.{name}.available_at and ingest into a new lake, for what is there keeps its time"
    )


def training_set(lake: Lake, spec: UseCase, partition: str) -> pa.Table:
    """Return features and target of every row whose label was known on ``partition``, within the window."""
    first = spec.clock.shift(partition, -spec.training.window) if spec.training.window else ""
    partitions = [n for n in matured(lake, spec, partition) if n >= first]
    return join_labels(lake, spec, features(lake, spec, partitions), partition)


def join_labels(lake: Lake, spec: UseCase, seen: pa.Table, known: str) -> pa.Table:
    """Return those of the rows whose label was known on partition ``known``, with it.

    Sorted by partition and key.

    Parameters
    ----------
    seen : what `features` gave; a target that it has already, as of a later partition, is replaced.
    """
    target, by = spec.problem.target, [*spec.key, "partition"]
    came = labels(
        lake, spec, [str(partition) for partition in seen["partition"].unique().to_pylist()], known=known
    )
    came = came.filter(came[target].is_valid())
    seen = seen.drop_columns([target]) if target in seen.column_names else seen
    return seen.join(came, by, join_type="inner").sort_by(
        [(c, "ascending") for c in ("partition", *spec.key)]
    )


_BRINGS = pa.schema([("partition", pa.string()), ("spine", pa.string())])
