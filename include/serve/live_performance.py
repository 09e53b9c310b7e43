"""What labels say of online predictions, once a source of the use case has ingested the log."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import SpecError
from include.features.build import schema as features_schema
from include.features.labels import labels
from include.models import outputs
from include.monitor.performance import performance_metrics
from include.spec import UseCase
from include.spec.metrics import metric_names
from include.storage import schemas
from include.storage.lake import Lake

STEP, ROW = ("served_by", "served_version"), "request_row"


def live_performance(lake: Lake, spec: UseCase, source: str) -> list[dict[str, Any]]:
    """Return the realized performance of the logged predictions, one row per step and version.

    A prediction counts as often as it was asked for. One without its key has no label.

    Parameters
    ----------
    source : which ingests the log.

    Returns
    -------
    list of dict
        ``served_by`` (``shadow`` for predictions that were never answers), ``version``, ``partitions``,
        ``rows`` with a label that is known now, ``unlabeled``, and each metric of the rows with labels.

    Raises
    ------
    SpecError
        if there is no such source, or it lacks a column of the log.
    """
    keys, texts = list(spec.key), ("for_partition", *STEP, ROW)
    columns = [*texts, *keys, *spec.problem.outputs]
    declared = spec.sources[source].columns if source in spec.sources else {}
    if missing := [name for name in columns if name not in declared]:
        raise SpecError(
            f"{spec.name}: source {source}",
            required="a source that ingests the log of `serve`",
            found=f"no column {missing[0]}" if declared else "no such source",
            remedy="declare it as docs/how-to/serve-online.md says",
        )
    types = {field.name: field.type for field in features_schema(spec)}
    types |= dict.fromkeys(texts, pa.string()) | dict.fromkeys(spec.problem.outputs, pa.float64())
    read = lake.read(f"validated_{source}", columns=[*columns, "revision"])
    rows = schemas.align_to_schema(read, pa.schema([(name, types[name]) for name in columns]))
    rows = rows.append_column("revision", read["revision"] if read is not None else pa.array([], pa.int32()))
    newest = rows.group_by(ROW).aggregate([("revision", "max")]).rename_columns([ROW, "revision"])
    rows = rows.join(newest, [ROW, "revision"], join_type="inner")  # a revision repeats the rows before it
    names = ["partition" if name == "for_partition" else name for name in rows.column_names]
    rows = rows.rename_columns(names)
    partitions = [str(key) for key in rows["partition"].unique().to_pylist()]
    target = spec.problem.target
    joined = rows.join(labels(lake, spec, partitions, as_of=None), [*keys, "partition"])
    steps = list(zip(*(pc.fill_null(joined[name], "").to_pylist() for name in STEP), strict=True))
    result = []
    for step in sorted(set(steps)):
        group = joined.filter(pa.array([other == step for other in steps], pa.bool_()))
        labeled = group.filter(group[target].is_valid())
        counts = {"partitions": len(group["partition"].unique()), "rows": labeled.num_rows}
        values = dict.fromkeys(metric_names(spec))
        if labeled.num_rows:
            actual, predicted = labeled[target].to_numpy(), outputs.from_columns(spec, labeled)
            values = performance_metrics(spec, actual, predicted)
        unlabeled = {"unlabeled": group.num_rows - labeled.num_rows}
        result.append({"served_by": step[0], "version": step[1], **counts, **unlabeled, **values})
    return result
