"""What the feature SQL sees: what was known at each night's decision, and nothing further back than declared.

For every source there are two views:

``<source>``
    its rows with ``night``, ``revision``, ``known_at`` and ``known_until``, from which a later one stands.
``known_<source>``
    its rows once for each asked night that may see them: ``for_night``, ``decision_time`` and ``ago`` (nights
    back) before the source's columns. Revisions are settled and the lookback is kept, so SQL that joins on
    ``for_night`` can't leak and can't depend on which other nights are asked for at the same time.

``spine`` holds the rows to score with ``decision_time``; ``calendar`` pairs each asked night with those it
may see. For a single night the views themselves end at its decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import duckdb
import pyarrow as pa

from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake

AsOf = Literal["then", "now"]


def read_sources(lake: Lake, spec: UseCase, nights: Sequence[str]) -> dict[str, pa.Table]:
    """Return each source's rows that the features of ``nights`` may see, none if it was never published."""
    first, last = min(nights), max(nights)
    found = {}
    for name, source in spec.sources.items():
        seen = spec.nights(name, spec.clock.shift(first, -spec.features.back(name)), last)
        rows = lake.read(f"validated_{name}", {"night": seen}) if seen else None
        # the lake's rows come in no order, and a sum of floats or a rank among ties would depend on it
        found[name] = spill.sort_rows(
            conform(rows, schemas.validated_schema(source)), ("night", "revision", *source.key)
        )
    return found


def conform(rows: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """Return rows in a declared shape: nulls for a column that they were published without."""
    if rows is None:
        return schema.empty_table()
    have = set(rows.column_names)
    columns = [
        rows[f.name].cast(f.type) if f.name in have else pa.nulls(rows.num_rows, f.type) for f in schema
    ]
    return pa.table(columns, schema=schema)


def create_views(
    spec: UseCase, rows: Mapping[str, pa.Table], nights: Sequence[str], as_of: AsOf, until: datetime
) -> duckdb.DuckDBPyConnection:
    """Return an engine with the views of ``nights``, made from rows that were known by ``until``."""
    connection = spill.duckdb_engine()
    connection.register("calendar", decision_calendar(spec, nights))
    # what is pasted are names that the spec's own patterns allow, and quoted columns
    for name, source in spec.sources.items():
        connection.register(f"_{name}", rows[name])
        connection.execute(f'CREATE VIEW "{name}" AS {_settled(name, source.key, rows[name], as_of, until)}')
        connection.execute(
            f"""CREATE VIEW "known_{name}" AS
            SELECT c.for_night, c.decision_time, c.ago, s.*
            FROM "{name}" s JOIN calendar c ON s.night = c.night
            WHERE c.ago <= {spec.features.back(name)}
              AND s.known_at <= c.decision_time AND c.decision_time < s.known_until"""  # noqa: S608
        )
    connection.execute(
        f"""CREATE TABLE spine AS
        SELECT * EXCLUDE (for_night, ago, known_until) FROM "known_{spec.features.spine}" WHERE ago = 0"""  # noqa: S608
    )
    return connection


def decision_calendar(spec: UseCase, nights: Sequence[str]) -> pa.Table:
    """Return each asked night's decision time and the nights of its lookback, with how far back they are."""
    clock, back = spec.clock, spec.features.lookback
    keys = clock.keys(clock.shift(min(nights), -back), max(nights))
    place = {key: i for i, key in enumerate(keys)}
    moments = {night: clock.moment(night) for night in nights}
    pairs = [
        {"for_night": n, "decision_time": moments[n], "night": keys[place[n] - ago], "ago": ago}
        for n in nights
        for ago in range(back + 1)
    ]
    kinds = [
        ("for_night", pa.string()),
        ("decision_time", schemas.TIME),
        ("night", pa.string()),
        ("ago", pa.int32()),
    ]
    return pa.Table.from_pylist(pairs, schema=pa.schema(kinds))


def _settled(name: str, key: Sequence[str], rows: pa.Table, as_of: AsOf, until: datetime) -> str:
    """Return the SQL of a source's view: until when each row stood or, as of now, the one that stands."""
    same = ", ".join(f'"{column}"' for column in ("night", *key))
    if as_of == "now":
        stood = "'infinity'::TIMESTAMPTZ"
        revised = "* REPLACE (min(known_at) OVER (PARTITION BY night) AS known_at)"
        only = f"QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY revision DESC) = 1"
    else:
        # most nights have one revision: the window over all rows is worth its time only where there are more
        several = len(rows["revision"].unique()) > 1
        later = f"lead(known_at) OVER (PARTITION BY {same} ORDER BY revision)" if several else "NULL"
        stood, revised, only = f"coalesce({later}, 'infinity'::TIMESTAMPTZ)", "*", ""
    inner = f'SELECT {revised}, {stood} AS known_until FROM "_{name}" {only}'  # noqa: S608 (names, as above)
    return f"SELECT * FROM ({inner}) WHERE known_at <= TIMESTAMPTZ '{until.isoformat()}'"  # noqa: S608
