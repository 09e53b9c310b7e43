"""The SQL connector: a partition is the result of one query, stored as canonical CSV.

Equal rows give equal bytes: all columns are text, and rows are sorted by all of them. Values are quoted where
needed, NULL is an empty field without quotes, and an empty string is ``""``. The query's parameters are bound
as text: ``:day`` as ``YYYY-MM-DD``, ``:hour`` and ``:minute`` in two digits, ``:partition`` as the partition
key, and ``:known_at`` as ``YYYY-MM-DD HH:MM:SS+00:00``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from include.environment import Endpoint, redact
from include.errors import SettingError, SpecError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.spec.source import BaseSource

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Engine, TextClause
    from sqlalchemy.exc import SQLAlchemyError

PART_NAME = "result.csv"
PARAMETERS = ("day", "hour", "minute", "partition", "known_at")
BATCH_ROWS = 20_000  # rows that are read from the cursor at once


class SqlSource(BaseSource):
    """The rows of one query; :day, :hour, :minute, :partition and :known_at are bound as parameters."""

    kind: Literal["sql"]
    query: str = Field(description="one SELECT; its columns are matched by name")


def open_source(source: SqlSource, endpoint: Endpoint) -> Fetcher:
    """Return a function that runs the query for a partition.

    A query without parameters runs once for all partitions.

    Raises
    ------
    SpecError
        for an unknown parameter.
    SettingError
        for an address that SQLAlchemy can't parse.
    """
    from sqlalchemy import text

    query = text(source.query)
    names = sorted(query.compile().params)
    unknown = [name for name in names if name not in PARAMETERS]
    if unknown:
        raise SpecError(
            f"query of connection {source.connection}: :{unknown[0]}",
            required=f"one of {', '.join(f':{name}' for name in PARAMETERS)}",
            remedy="write a literal colon as \\:",
        )
    engine = _create_engine(endpoint, source.fetch.timeout)
    shared_result: list[bytes] = []  # of a query without parameters, whose result every partition shares

    def fetch(request: Request) -> Iterator[Part]:
        if shared_result:
            yield PART_NAME, shared_result[0]
            return
        parameters = {
            "day": request.day,
            "hour": request.hour,
            "minute": request.minute,
            "partition": request.partition,
            "known_at": f"{request.known_at:%Y-%m-%d %H:%M:%S}+00:00",
        }
        values = {name: parameters[name] for name in names}
        result = with_retries(request, lambda: _run_query(engine, query, values, request), "the query")
        if not names:
            shared_result.append(result)
        yield PART_NAME, result

    return fetch


def _create_engine(endpoint: Endpoint, timeout: float) -> Engine:
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(endpoint.uri)
        if endpoint.login:
            url = url.set(username=endpoint.login)
        if endpoint.password:
            url = url.set(password=endpoint.password)
        if "@" in (url.host or ""):
            raise ValueError("an @ in the password, which would be shown as the host's name")
        timeouts: dict[str, dict[str, Any]] = {
            "sqlite": {"timeout": timeout},
            "mysql": {"connect_timeout": int(timeout) or 1, "read_timeout": int(timeout) or 1},
            "postgresql": {
                "connect_timeout": int(timeout) or 1,
                "options": f"-c statement_timeout={int(timeout * 1000)}",
            },
        }
        return create_engine(url, connect_args=timeouts.get(url.get_backend_name(), {}), hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ValueError, ImportError):
        # the address may hold a password, so it isn't shown
        raise SettingError(
            f"connection {endpoint.name}",
            required="a SQLAlchemy URL as its host, such as postgresql+psycopg2://host/database",
            found="an invalid URL, or a driver that is not installed",
            remedy=f"correct it in Airflow or in AIRFLOW_CONN_{endpoint.name.upper()}, or install the driver",
        ) from None


def _run_query(engine: Engine, query: TextClause, values: dict[str, str], request: Request) -> bytes:
    """Return the result as canonical CSV, or raise `TransientError`."""
    import pyarrow as pa
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with engine.connect() as connection:
            result = connection.execution_options(stream_results=True).execute(query, values)
            names, tables, size = list(result.keys()), [], 0
            for rows in result.partitions(BATCH_ROWS):
                tables.append(_to_text_table(names, rows))
                size += tables[-1].nbytes
                if size > request.source.fetch.max_bytes:
                    raise request.too_large("the query's result")
        request.require_rows(bool(tables), "the query's result")
    except SQLAlchemyError as error:
        raise TransientError(_error_message(error, engine)) from None
    return _canonical_csv(pa.concat_tables(tables) if tables else _to_text_table(names, []))


def _to_text_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    arrays = [
        pa.array([None if value is None else _to_text(value) for value in values], pa.string())
        for values in columns
    ]
    return pa.Table.from_arrays(arrays, names=list(names))


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return value.isoformat() if isinstance(value, date) else str(value)


def _canonical_csv(table: pa.Table) -> bytes:
    import pyarrow.csv

    order = [(f"c{number}", "ascending") for number in range(table.num_columns)]
    numbered = table.rename_columns([name for name, _ in order])  # two columns of a result may share a name
    out = io.BytesIO()
    pyarrow.csv.write_csv(
        numbered.sort_by(order).rename_columns(table.column_names),
        out,
        write_options=pyarrow.csv.WriteOptions(quoting_style="needed"),
    )
    return out.getvalue()


def _error_message(error: SQLAlchemyError, engine: Engine) -> str:
    """Return the first line of the driver's message, without parts of the address that may be secret."""
    lines = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines() or ["no reason"]
    url = engine.url
    query_values = (value for values in url.normalized_query.values() for value in values)
    text = redact(lines[0], str(url.password or ""), *query_values)
    return re.sub(rf"(?<!\w){re.escape(url.username)}(?!\w)", "***", text) if url.username else text
