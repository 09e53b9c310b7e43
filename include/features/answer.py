"""What a use case's SQL answered beside what it declared: its columns, and one row for each of the spine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from include import spool
from include.errors import SpecError
from include.spec import UseCase


def stand(engine: duckdb.DuckDBPyConnection, sql: str) -> None:
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


def declared(spec: UseCase, engine: duckdb.DuckDBPyConnection, need: Sequence[str]) -> None:
    """Refuse a result without exactly the declared columns."""
    have = [row[0] for row in engine.execute("SELECT column_name FROM (DESCRIBE result)").fetchall()]
    missing, extra = [c for c in need if c not in have], [c for c in have if c not in need]
    if missing or extra:
        parts = {"missing": missing, "not declared": extra}
        found = "; ".join(f"{what} {', '.join(which)}" for what, which in parts.items() if which)
        raise _refused(spec, f"the columns {', '.join(need)}", found)


def asked(spec: UseCase, engine: duckdb.DuckDBPyConnection, shape: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the result in its declared shape."""
    # what is pasted are quoted names
    names = ", ".join(_column(field, field.name in spec.key) for field in shape)
    try:
        for batch in engine.sql(f"SELECT {names} FROM result").to_arrow_reader(spool.BATCH):  # noqa: S608
            yield batch.cast(shape)
    except (duckdb.Error, OSError, pa.ArrowException) as error:  # Arrow's reader has an OSError for DuckDB's
        spool.starved(error)
        raise wrong(spec, error) from None


def exact(spec: UseCase, engine: duckdb.DuckDBPyConnection, found: pa.Table) -> None:
    """Refuse sorted rows that aren't exactly the spine's."""
    names = ("night", *spec.key)
    by = ", ".join(f'"{c}"' for c in names)
    keys = found.select(names)
    empty = [name for name in names if keys[name].null_count]  # a null is like no other
    read = engine.sql(f"SELECT {by} FROM spine").to_arrow_reader(spool.BATCH)  # noqa: S608 (quoted names)
    spine = spool.held(keys.schema, (batch.cast(keys.schema) for batch in read))
    if not empty and (spine.equals(keys) or spool.ordered(spine, names).equals(keys)):
        return
    engine.register("given", keys)
    met = f"SELECT count(*) FROM spine SEMI JOIN given USING ({by})"  # noqa: S608 (quoted names)
    there = engine.execute(met).fetchall()[0][0]
    said = f"{keys.num_rows} rows for {spine.num_rows} of the spine, of which {there} are there"
    said += f"; some have none in {', '.join(empty)}" if empty else ""
    raise _refused(spec, "exactly one row for each row of the spine", said)


def wrong(spec: UseCase, error: Exception) -> SpecError:
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
