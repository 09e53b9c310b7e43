"""A partition is the result of one query, kept as a canonical CSV so that equal rows are equal bytes.

All columns are text, rows are sorted by all of them. A value is quoted, NULL is an empty field without
quotes, and an empty string is ``""``. The parameters are bound as text: ``:day`` and ``:partition`` as
``YYYY-MM-DD``, ``:known_at`` as ``YYYY-MM-DD HH:MM:SS+00:00``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv
from sqlalchemy import Engine, TextClause, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from include.environment import Endpoint, redact
from include.errors import SettingError, SpecError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.spec.source import Sql

NAME = "result.csv"
PARAMETERS = ("day", "partition", "known_at")
ROWS = 20_000  # read at a time


def open_source(source: Sql, endpoint: Endpoint) -> Fetcher:
    """Return a function that runs the query for a partition.

    One without parameters runs once for all partitions.

    Raises
    ------
    SpecError
        for a parameter other than :day, :partition and :known_at.
    SettingError
        for an address that SQLAlchemy can't read.
    """
    query = text(source.query)
    names = sorted(query.compile().params)
    unknown = [name for name in names if name not in PARAMETERS]
    if unknown:
        raise SpecError(
            f"query of connection {source.connection}: :{unknown[0]}",
            required="one of :day, :partition, :known_at",
            remedy="write a colon that is none as \\:",
        )
    engine = _engine(endpoint, source.fetch.timeout)

    shared: list[
        bytes
    ] = []  # without parameters every partition asks the same question: one answer serves all

    def fetch(asked: Request) -> Iterator[Part]:
        known = {
            "day": asked.day,
            "partition": asked.partition,
            "known_at": f"{asked.known_at:%Y-%m-%d %H:%M:%S}+00:00",
        }
        values = {name: known[name] for name in names}
        if shared:
            yield NAME, shared[0]
            return
        found = with_retries(asked, lambda: _result(engine, query, values, asked), "the query")
        if not names:
            shared.append(found)
        yield NAME, found

    return fetch


def _engine(endpoint: Endpoint, timeout: float) -> Engine:
    try:
        url = make_url(endpoint.uri)
        if endpoint.login:
            url = url.set(username=endpoint.login)
        if endpoint.password:
            url = url.set(password=endpoint.password)
        if "@" in (url.host or ""):
            raise ValueError("an @ in the password, which would be shown as the host's name")
        limits: dict[str, dict[str, Any]] = {
            "sqlite": {"timeout": timeout},
            "mysql": {"connect_timeout": int(timeout) or 1, "read_timeout": int(timeout) or 1},
            "postgresql": {
                "connect_timeout": int(timeout) or 1,
                "options": f"-c statement_timeout={int(timeout * 1000)}",
            },
        }
        return create_engine(url, connect_args=limits.get(url.get_backend_name(), {}), hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ValueError, ImportError):
        # the address may hold a password
        raise SettingError(
            f"connection {endpoint.name}",
            required="host with an SQLAlchemy address, as postgresql+psycopg2://host/database",
            found="something else, or a driver that is not installed",
        ) from None


def _result(engine: Engine, query: TextClause, values: dict[str, str], asked: Request) -> bytes:
    """Return the result as canonical CSV, or raise `Transient`."""
    try:
        with engine.connect() as connection:
            found = connection.execution_options(stream_results=True).execute(query, values)
            names, tables, size = list(found.keys()), [], 0
            for rows in found.partitions(ROWS):
                tables.append(_table(names, rows))
                size += tables[-1].nbytes
                if size > asked.source.fetch.max_bytes:
                    raise asked.too_large("the query's result")
    except SQLAlchemyError as error:
        raise TransientError(_reason(error, engine)) from None
    whole = pa.concat_tables(tables) if tables else _table(names, [])
    return _canonical(whole)


def _canonical(table: pa.Table) -> bytes:
    order = [(f"c{number}", "ascending") for number in range(table.num_columns)]
    numbered = table.rename_columns([name for name, _ in order])  # a result may name two columns alike
    out = io.BytesIO()
    pyarrow.csv.write_csv(
        numbered.sort_by(order).rename_columns(table.column_names),
        out,
        write_options=pyarrow.csv.WriteOptions(quoting_style="needed"),
    )
    return out.getvalue()


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.Table.from_arrays([_text(values) for values in columns], names=list(names))


def _text(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if value is None else _written(value) for value in values], pa.string())


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return value.isoformat() if isinstance(value, date) else str(value)


def _reason(error: SQLAlchemyError, engine: Engine) -> str:
    """Return the driver's first line, without what of the address it might repeat and may be a secret."""
    lines = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines() or ["no reason"]
    url = engine.url
    more = (one for values in url.normalized_query.values() for one in values)
    return redact(lines[0], str(url.password or ""), url.username or "", *more)
