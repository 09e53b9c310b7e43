"""A night's rows in parts by the order of their key, so that several tasks can share one night.

Each part runs the declared SQL of the whole night and keeps its own rows of the result. Letting DuckDB push
the cut down into the SQL was measured and left: of a million rows it saved 0.4 to 0.7 of 1.6 s of CPU, and a
plan of its own may add up floats in another order than the whole night's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

SAMPLE = 10_000  # rows of the spine, about, by which ends are found: parts differ by a few per cent


@dataclass
class Range:
    """One of several parts: the rows whose key is between two marks that every part finds alike.

    Parameters
    ----------
    number, of : which part, from 0, of how many.
    whole : the rows of the whole night, once it was cut.
    """

    number: int
    of: int
    whole: int = 0

    def cut(self, engine: duckdb.DuckDBPyConnection, key: Sequence[str]) -> None:
        """Leave in ``result`` only this part's rows.

        The marks are keys of a sample by hash: it depends on the rows alone, in whatever order they are.
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
        ends = [(">=", self.number)] if self.number else []
        ends += [("<", self.number + 1)] if self.number + 1 < self.of else []
        inside = [
            f"row({names}) {side} (SELECT mark FROM __marks WHERE place = {marks * end // self.of})"  # noqa: S608
            for side, end in ends
        ]
        engine.execute("ALTER TABLE result RENAME TO __whole")
        engine.execute(f"CREATE VIEW result AS SELECT * FROM __whole WHERE {' AND '.join(inside) or 'true'}")  # noqa: S608
