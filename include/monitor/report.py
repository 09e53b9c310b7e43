"""The drift report of one partition: Evidently's page, drawn from samples and labeled as such.

Decisions rest on the profiles of all rows; this page shows the distributions behind them. It draws only the
columns nearest to or beyond their thresholds, because Evidently takes 0.05 to 0.2 s for each column, and 2 to
5 s for its preset. It is drawn when a person opens it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

import numpy as np
import pyarrow as pa

from include.errors import NotPublished
from include.features.build import features, row_counts
from include.monitor.context import Finding, PartitionContext, findings_from_rows
from include.monitor.state import PublishedState
from include.spec import UseCase
from include.stats.drift_measures import NAMES
from include.storage.lake import Lake

MAX_COLUMNS = 5  # besides the predictions
REBUILT = 2  # rows whose features are rebuilt for each one that is drawn, unless one partition has more
ID_MARGIN = 5000  # characters after the data, and at the page's end, that repeat its ids
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[47][0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def drift_report(lake: Lake, spec: UseCase, partition: str) -> str:
    """Return a partition's page as HTML; without a sample it has no charts.

    Raises
    ------
    NotPublished
        when the partition isn't monitored.
    """
    rows = lake.rows("findings", {"partition": partition})
    if not rows:
        raise NotPublished(
            f"{spec.name}: drift report of {partition}",
            required="a monitored partition",
            found="no findings",
            remedy=f"run {spec.name}__batch for that partition",
        )
    context = PartitionContext(lake, spec, PublishedState(lake, spec, partition), partition)
    drift = [finding for finding in findings_from_rows(rows) if finding.check == "drift"]
    reference = context.reference
    if reference is None or partition not in context.window:
        page = _without_charts(spec, partition, drift[0].note, drift)
    elif reference.sample is None:
        page = _without_charts(spec, partition, "the rows that the model was fitted on are gone", drift)
    else:
        page = _with_charts(context, reference.sample, reference.rows, drift)
    measures = lake.read("drift", {"partition": partition}, order=["column", "measure"])
    end = "</ul></details></section>"  # of the banner; Evidently's scripts before it have a section too
    table = _measures_table(measures) if measures is not None else ""
    return page.replace(end, f"</ul></details>{table}</section>", 1)


def _without_charts(spec: UseCase, partition: str, reason: str, drift: Sequence[Finding]) -> str:
    banner = _banner(spec, partition, f"There are no charts: {reason}.", drift)
    head = '<head><meta charset="utf-8"></head>'
    return f'<!DOCTYPE html>\n<html lang="en">{head}<body>{banner}</body></html>\n'


def _with_charts(
    context: PartitionContext, sample: pa.Table, sampled_rows: int, drift: Sequence[Finding]
) -> str:
    """Return the page with charts of samples of the window and of the reference."""
    spec, partition = context.spec, context.partition
    current, rows, rebuilt = window_sample(context.lake, spec, partition, context.window)
    columns = _columns_to_draw(spec, drift, sample, current)
    text = (
        f"The charts are drawn from samples: {current.num_rows:,} of the {rows:,} rows of "
        f"{rebuilt} partition{'s' * (rebuilt != 1)} up to {partition}, and {sample.num_rows:,} of the "
        f"{sampled_rows:,} rows of the partitions that the model was fitted on, rows without a label among "
        "them, with predictions of held-out rows. They show "
        f"{len(columns)} of {len(drift)} columns: the predictions and the columns nearest to their "
        "thresholds. Evidently judges the sample by a fixed threshold. Evergreen's findings below use all "
        "rows, and account for how far the training's own partitions are apart."
    )
    if not columns:
        return _without_charts(spec, partition, "no column has values on both sides", drift)
    page = _charts(spec, columns, sample, current)
    return page.replace("<body>", f"<body>{_banner(spec, partition, text, drift)}", 1)


def window_sample(
    lake: Lake, spec: UseCase, partition: str, window: Sequence[str]
) -> tuple[pa.Table, int, int]:
    """Return a seeded sample of features and predictions, and how many rows and partitions it is from.

    Features are rebuilt where the page is opened, which is in the API server. So partitions are drawn, too,
    until they have `REBUILT` times the rows of the sample.
    """
    random = np.random.default_rng([spec.training.seed, seed_of(partition)])
    counts = row_counts(lake, "predictions", random.permutation(list(window)).tolist())
    before = accumulate(counts.values(), initial=0)
    limit = REBUILT * spec.monitoring.report_rows
    drawn = [key for key, rows in zip(counts, before, strict=False) if rows < limit]
    keys = [*spec.key, "partition"]
    served = lake.read("predictions", {"partition": drawn}, [*keys, *spec.problem.outputs])
    assert served is not None
    order = [(name, "ascending") for name in ("partition", *spec.key)]
    rows = features(lake, spec, drawn).join(served, keys, join_type="inner").sort_by(order)
    size = min(spec.monitoring.report_rows, rows.num_rows)
    return rows.take(np.sort(random.choice(rows.num_rows, size, replace=False))), rows.num_rows, len(drawn)


def seed_of(partition: str) -> int:
    """Return the digits of a partition's key, with which its sample is drawn."""
    return int(re.sub(r"\D", "", partition))


def _columns_to_draw(
    spec: UseCase, drift: Sequence[Finding], reference: pa.Table, current: pa.Table
) -> list[str]:
    """Return the columns with values to draw: the predictions, then those nearest to their thresholds."""
    ratios = {f.subject: f.value / f.threshold for f in drift if f.value is not None and f.threshold}
    ranked = sorted(spec.features.columns, key=lambda name: (-ratios.get(name, 0.0), name))
    drawable = [name for name in ranked if _has_values(reference, name) and _has_values(current, name)]
    predictions = [
        name for name in spec.problem.outputs if _has_values(reference, name) and _has_values(current, name)
    ]
    return predictions + drawable[:MAX_COLUMNS]


def _has_values(rows: pa.Table, name: str) -> bool:
    # a feature that was declared after the champion's training isn't in its sample
    return name in rows.column_names and rows[name].null_count < rows.num_rows


def _charts(spec: UseCase, columns: Sequence[str], reference: pa.Table, current: pa.Table) -> str:
    """Return Evidently's page, deterministic for the same rows: its random ids are replaced."""
    from evidently import DataDefinition, Dataset, Report  # seconds, which only a page with charts needs
    from evidently.metrics import ValueDrift

    numeric = [c for c in columns if c not in spec.features.categorical]
    definition = DataDefinition(
        numerical_columns=numeric, categorical_columns=[c for c in columns if c not in numeric]
    )
    sides = [
        Dataset.from_pandas(rows.select(list(columns)).to_pandas(), data_definition=definition)
        for rows in (current, reference)
    ]
    metrics = [ValueDrift(column=c, method="psi", threshold=spec.monitoring.psi) for c in columns]
    page = str(Report(metrics, include_tests=False).run(*sides).get_html_str(as_iframe=False))
    return _fixed_ids(page)


def _fixed_ids(page: str) -> str:
    """Replace the ids that Evidently draws at random by numbers in order of appearance."""
    first = page.index("var metric_")
    last = page.index("</script>", first) + ID_MARGIN
    # the megabytes between are Evidently's own JavaScript, which has no ids
    data, script, end = page[:last], page[last:-ID_MARGIN], page[-ID_MARGIN:]
    for index, uuid in enumerate(dict.fromkeys(_UUID.findall(data[first:]))):
        fixed = blake2b(str(index).encode(), digest_size=16).hexdigest()
        data, end = data.replace(uuid, fixed), end.replace(uuid, fixed)
    return data + script + end


def _banner(spec: UseCase, partition: str, text: str, drift: Sequence[Finding]) -> str:
    rows = "".join(f"<li><b>{html.escape(f.outcome)}</b> {html.escape(f.note)}</li>" for f in drift)
    title = html.escape(f"{spec.name}: drift in partition {partition}")
    return (
        "<section style='font:15px/1.5 sans-serif;max-width:60em;margin:1.5em auto;padding:0 1em'>"
        f"<h1 style='font-size:1.4em'>{title}</h1><p>{html.escape(text)}</p>"
        f"<details><summary>Evergreen's findings</summary><ul>{rows}</ul></details></section>"
    )


def _measures_table(measures: pa.Table) -> str:
    """Return the partition's rows of `drift` as an HTML table with a line per column; empty without rows."""
    if not measures.num_rows:
        return ""
    lines: dict[str, dict[str, float | None]] = {}
    for row in measures.to_pylist():
        lines.setdefault(row["column"], {})[row["measure"]] = row["value"]
    head = "".join(f"<th align=right>{NAMES[measure]}</th>" for measure in NAMES)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td align=right>{_figure(values.get(measure))}</td>" for measure in NAMES)
        + "</tr>"
        for name, values in lines.items()
    )
    table = f"<table cellpadding=4><tr><th align=left>column</th>{head}</tr>{body}</table>"
    return f"<details><summary>All measures, on all rows</summary>{table}</details>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
