"""Evidently's page on the partition's drift, for eyes: drawn from samples, and it says so.

What is decided rests on the profiles of all rows; this page shows the shapes behind it. It draws the
columns nearest to their thresholds or beyond, since Evidently takes 0.05 to 0.2 s for each, 2 to 5 s for
its preset.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift

from include.features.build import features
from include.monitor.findings import Finding
from include.monitor.reference import Reference
from include.spec import UseCase
from include.stats.drift_measures import NAMES
from include.storage.lake import Lake

SHOWN = 5  # columns beside the prediction
NEAR = 5000  # characters after the data, and at the page's end, that name its ids once more
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[47][0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def draw_drift_report(
    lake: Lake,
    spec: UseCase,
    partition: str,
    window: Sequence[str],
    learnt: Reference | None,
    found: Sequence[Finding],
    compared: pa.Table,
) -> None:
    """Store a partition's page as ``reports/monitor/<partition>.html``.

    Without a sample, one that says so.
    """
    drift = [f for f in found if f.check == "drift"]
    if learnt is None or partition not in window:
        page = _without_charts(spec, partition, drift[0].note, drift)
    elif learnt.sample is None:
        page = _without_charts(spec, partition, "the rows that the model learnt from are gone", drift)
    else:
        page = _with_charts(lake, spec, partition, window, learnt, learnt.sample, drift)
    end = "</ul></details></section>"  # of the banner: Evidently's scripts before it have a section as well
    page = page.replace(end, f"</ul></details>{_measures(compared)}</section>", 1)
    lake.replace(f"reports/monitor/{partition}.html", page.encode())


def _without_charts(spec: UseCase, partition: str, why: str, drift: Sequence[Finding]) -> str:
    banner = _banner(spec, partition, f"There are no charts: {why}.", drift)
    head = '<head><meta charset="utf-8"></head>'
    return f'<!DOCTYPE html>\n<html lang="en">{head}<body>{banner}</body></html>\n'


def _with_charts(
    lake: Lake,
    spec: UseCase,
    partition: str,
    window: Sequence[str],
    learnt: Reference,
    sample: pa.Table,
    drift: Sequence[Finding],
) -> str:
    current, rows = _window(lake, spec, partition, window)
    columns = _chosen(spec, drift, sample, current)
    said = (
        f"Drawn from a sample: {current.num_rows} of the {rows} rows of {len(window)} partition(s) up to "
        f"{partition}, beside {sample.num_rows} of the {learnt.rows} rows that the model was fitted on, with "
        f"predictions of rows that it wasn't. Shown are {len(columns)} of {len(drift)} columns, the "
        "prediction and those nearest to their thresholds. Evidently judges the sample by a fixed threshold; "
        "Evergreen's findings, below, take all rows and how far the training's own partitions are apart."
    )
    if not columns:
        return _without_charts(spec, partition, "no column has values on both sides", drift)
    page = _charts(spec, columns, sample, current)
    return page.replace("<body>", f"<body>{_banner(spec, partition, said, drift)}", 1)


def _window(lake: Lake, spec: UseCase, partition: str, window: Sequence[str]) -> tuple[pa.Table, int]:
    """Return a seeded sample of the window's features and predictions, and of how many rows it is."""
    keys = [*spec.key, "partition"]
    served = lake.read("predictions", {"partition": list(window)}, [*keys, *spec.problem.outputs])
    assert served is not None
    order = [(name, "ascending") for name in ("partition", *spec.key)]
    rows = features(lake, spec, window).join(served, keys, join_type="inner").sort_by(order)
    random = np.random.default_rng([spec.training.seed, int(partition.replace("-", ""))])
    size = min(spec.monitoring.report_rows, rows.num_rows)
    return rows.take(np.sort(random.choice(rows.num_rows, size, replace=False))), rows.num_rows


def _chosen(spec: UseCase, drift: Sequence[Finding], reference: pa.Table, current: pa.Table) -> list[str]:
    """Return the columns to draw, those with values: the prediction, then the nearest to their thresholds."""
    near = {f.subject: f.value / f.threshold for f in drift if f.value is not None and f.threshold}
    ranked = sorted(spec.features.columns, key=lambda name: (-near.get(name, 0.0), name))
    have = [c for c in ranked if _values(reference, c) and _values(current, c)][:SHOWN]
    return [c for c in spec.problem.outputs if _values(reference, c) and _values(current, c)] + have


def _values(rows: pa.Table, name: str) -> bool:
    # a feature that was declared since isn't in the sample of what the champion learnt
    return name in rows.column_names and rows[name].null_count < rows.num_rows


def _charts(spec: UseCase, columns: Sequence[str], reference: pa.Table, current: pa.Table) -> str:
    """Return Evidently's page, the same for the same rows: its random ids are replaced."""
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
    """Number the ids that Evidently draws at random, by the order in which they appear."""
    first = page.index("var metric_")
    last = page.index("</script>", first) + NEAR
    # the megabytes between are Evidently's own JavaScript, which has none of them
    data, script, end = page[:last], page[last:-NEAR], page[-NEAR:]
    for place, found in enumerate(dict.fromkeys(_UUID.findall(data[first:]))):
        fixed = blake2b(str(place).encode(), digest_size=16).hexdigest()
        data, end = data.replace(found, fixed), end.replace(found, fixed)
    return data + script + end


def _banner(spec: UseCase, partition: str, said: str, drift: Sequence[Finding]) -> str:
    rows = "".join(f"<li><b>{html.escape(f.outcome)}</b> {html.escape(f.note)}</li>" for f in drift)
    title = html.escape(f"{spec.name}: drift on the partition of {partition}")
    return (
        "<section style='font:15px/1.5 sans-serif;max-width:60em;margin:1.5em auto;padding:0 1em'>"
        f"<h1 style='font-size:1.4em'>{title}</h1><p>{html.escape(said)}</p>"
        f"<details><summary>Evergreen's findings</summary><ul>{rows}</ul></details></section>"
    )


def _measures(compared: pa.Table) -> str:
    """Return the partition's rows of `drift` as a table, a line a column; empty of none."""
    if not compared.num_rows:
        return ""
    lines: dict[str, dict[str, float | None]] = {}
    for row in compared.to_pylist():
        lines.setdefault(row["column"], {})[row["measure"]] = row["value"]
    head = "".join(f"<th align=right>{NAMES[measure]}</th>" for measure in NAMES)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td align=right>{_figure(values.get(measure))}</td>" for measure in NAMES)
        + "</tr>"
        for name, values in lines.items()
    )
    table = f"<table cellpadding=4><tr><th align=left>column</th>{head}</tr>{body}</table>"
    return f"<details><summary>Every measure, of all rows</summary>{table}</details>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
