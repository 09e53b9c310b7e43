"""A night's rows in parts by the order of their key, so that several tasks can share one night.

Each part runs the declared SQL of the whole night and is handed its own rows of the result. A filter that
DuckDB pushed down into the SQL would save some of its joins, but give it a plan of its own, which may add up
floats in another order than the whole night's: the filter is kept outside by a limit that nothing reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

SAMPLE = 10_000  # rows of the spine, about, by which ends are found: parts differ by a few per cent
ALL = (1 << 63) - 1  # more rows than there can be


@dataclass
class Range:
    """One of several parts: the rows whose key is between two marks that every part finds alike.

    Parameters
    ----------
    number, of : which part, from 0, of how many.
    whole : the rows of the whole night, once the SQL was cut.
    """

    number: int
    of: int
    whole: int = 0
    _inside: str = ""

    def cut(self, engine: duckdb.DuckDBPyConnection, key: Sequence[str], sql: str) -> str:
        """Return the SQL of a part's rows.

        The marks are keys of a sample by hash: it depends on the rows alone, in whatever order they are. A
        row without a key may be in no part, and is missed when the parts are counted.
        """
        names = ", ".join(f'"{column}"' for column in key)
        self.whole = engine.execute("SELECT count(*) FROM spine").fetchall()[0][0]
        every = max(1, self.whole // SAMPLE)
        # what is pasted are quoted names and our own numbers; no source's view can begin with two underlines
        engine.execute(
            f"""CREATE TABLE __marks AS
            SELECT row({names}) AS mark, row_number() OVER (ORDER BY {names}) - 1 AS place
            FROM spine WHERE hash({names}) % {every} = 0"""  # noqa: S608
        )
        marks = engine.execute("SELECT count(*) FROM __marks").fetchall()[0][0]
        inside = ["true"]
        for side, end in ((">=", self.number), ("<", self.number + 1)):
            if 0 < end < self.of:
                mark = f"(SELECT mark FROM __marks WHERE place = {marks * end // self.of})"  # noqa: S608
                engine.execute(f"SET VARIABLE __mark{end} = {mark}")
                inside.append(f"row({names}) {side} getvariable('__mark{end}')")
        self._inside = " AND ".join(inside)
        # the line's end, since a comment may be the last thing in a file
        return f"SELECT * FROM (SELECT * FROM ({sql}\n) LIMIT {ALL}) WHERE {self._inside}"  # noqa: S608

    def keep(self, engine: duckdb.DuckDBPyConnection) -> None:
        """Leave in ``spine`` the part's rows, once the result was read."""
        engine.execute("ALTER TABLE spine RENAME TO __spine")
        engine.execute(f"CREATE VIEW spine AS SELECT * FROM __spine WHERE {self._inside}")  # noqa: S608
