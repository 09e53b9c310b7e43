"""The label of a multiclass problem is one of its declared classes, or the row is set aside at the door.

Else it would be learnt as something that it isn't, or stop a training weeks later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include import spool
from include.errors import SpecError
from include.ingest.rows import Aside
from include.spec import UseCase


def strange(typed: pa.Table, spec: UseCase, source: str, aside: Aside) -> None:
    """Set the rows aside whose label is no declared class; a missing one is none.

    Raises
    ------
    SpecError
        when ``labels.sql`` can't be answered.
    """
    classes = spec.problem.classes
    if not classes or source != spec.labels.source or not typed.num_rows:
        return
    known = pa.array(classes, pa.string())
    words = set(re.findall(r"\w+", spec.labels.sql.lower()))
    about = [name for name in typed.column_names if name.lower() in words]
    rule = f"class(one of {', '.join(classes)})"
    for place, label in _labels(typed, spec, source):
        other = np.asarray(pc.and_(label.is_valid(), pc.invert(pc.is_in(label, value_set=known))), bool)
        columns = about or spec.sources[source].key
        aside.add(~aside.out[place] & other, rule, *columns, start=place.start)


def _labels(typed: pa.Table, spec: UseCase, source: str) -> Iterator[tuple[slice, pa.Array]]:
    start = 0
    with spool.engine() as connection:
        connection.register("brought", typed)
        try:
            # the spec's own expression, as `include.features.build` asks for it
            sql = f"SELECT CAST(({spec.labels.sql}) AS VARCHAR) AS label FROM brought"  # noqa: S608
            for batch in connection.sql(sql).to_arrow_reader(spool.BATCH):
                yield slice(start, start + batch.num_rows), batch.column(0)
                start += batch.num_rows
        except (duckdb.Error, OSError, pa.ArrowException) as error:  # of DuckDB's, while it is read
            spool.starved(error)
            raise SpecError(
                f"{spec.name}: labels.sql",
                required=f"an expression over {source}'s columns: {', '.join(typed.column_names)}",
                found=" ".join(str(error).split()),
                where=str(spec.folder / "usecase.yaml"),
            ) from None
