"""The label of a multiclass problem is one of its declared classes, or the row is set aside at the door.

Else it would be learnt as something that it isn't, or stop a training weeks later.
"""

from __future__ import annotations

import re

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    with duckdb.connect(config={"threads": 1, "enable_external_access": False}) as connection:
        connection.register("brought", typed)
        try:
            # the spec's own expression, as `include.features.build` asks for it
            sql = f"SELECT CAST(({spec.labels.sql}) AS VARCHAR) AS label FROM brought"  # noqa: S608
            label = connection.sql(sql).to_arrow_table()["label"]
        except duckdb.Error as error:
            raise SpecError(
                f"{spec.name}: labels.sql",
                required=f"an expression over {source}'s columns: {', '.join(typed.column_names)}",
                found=" ".join(str(error).split()),
                where=str(spec.folder / "usecase.yaml"),
            ) from None
    known = pc.is_in(label, value_set=pa.array(classes, pa.string()))
    other = np.asarray(pc.and_(label.is_valid(), pc.invert(known)).to_numpy(), bool)
    words = set(re.findall(r"\w+", spec.labels.sql.lower()))
    about = [name for name in typed.column_names if name.lower() in words]
    rule = f"class(one of {', '.join(classes)})"
    aside.add(~aside.out & other, rule, *(about or spec.sources[source].key))
