"""The page of one column: its distribution then and now; drift, missing and unseen values over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from evergreen.view.access import Opened
from evergreen.view.html import page

if TYPE_CHECKING:
    from include.reports.page_charts import Series
    from include.spec import UseCase
    from include.stats.profiles import Profile
    from include.storage.lake import Lake, Row

router = APIRouter()
MAX_ROWS = 14  # partitions in the table


@router.get("/column/{usecase}/{column:path}")
def column(request: Request, opened: Opened, column: str) -> HTMLResponse:
    """Show one feature, the predictions or the labels."""
    spec = opened.spec
    products = columns_of(spec)
    if column not in products:
        raise HTTPException(
            404, f"{spec.name} has no column {column[:100]!r}: choose one of {', '.join(products)}."
        )
    return page(
        request,
        "column.html",
        usecase=spec.name,
        column=column,
        product=products[column],
        columns=list(products),
        window=spec.monitoring.window,
        units={
            name: unit
            for name, source in spec.sources.items()
            if column in source.columns and (unit := source.columns[column].unit)
        },
        **column_data(opened.lake, spec, column, products[column]),
    )


def columns_of(spec: UseCase) -> dict[str, str]:
    """Return the columns that are profiled on each partition, with the product that each is in."""
    columns = dict.fromkeys(spec.features.columns, "features")
    return columns | dict.fromkeys(spec.problem.outputs, "predictions") | {spec.problem.target: "labels"}


def column_data(lake: Lake, spec: UseCase, column: str, product: str) -> dict[str, Any]:
    """Return what the page shows of a column.

    Only the column's own rows are read, and sketches of the newest partitions alone.

    Parameters
    ----------
    product : which product's profiles have the column.
    """
    from include.promote import ledger
    from include.reports.history import MAX_PARTITIONS
    from include.stats.profiles import merge_profiles

    where = {"product": product, "column": column}
    names = ["partition", "kind", "count", "missing", "total"]
    rows = lake.rows("profiles", where, names, order=["partition"])[-MAX_PARTITIONS:]
    if not rows:
        return {"partitions": 0}
    newest = rows[-1]
    rows = [row for row in rows if row["kind"] == newest["kind"]]
    span = [row["partition"] for row in rows]
    window = span[-spec.monitoring.window :]
    profiles = lake.rows("profiles", {**where, "partition": window})
    now = merge_profiles(row for row in profiles if row["kind"] == newest["kind"])[column]
    switches = ledger.switches(lake)
    champion = ledger.serving_of(switches, newest["partition"]).champion
    then = _reference(lake, spec, column, champion)
    findings = _findings(lake, column, span[0])
    measures = _measures(lake.rows("drift", {"column": column}), span[0])
    charts = _charts(spec, column, rows, measures, findings, _switches(switches, span), then, now)
    return {
        "partitions": len(span),
        "first": span[0],
        "last": span[-1],
        "window_partitions": window,
        "champion": champion,
        "then": then,
        "now": now,
        "measures": _newest_measures(spec, newest["kind"], measures, findings),
        "findings": [newest for check in findings.values() if (newest := check[max(check)])],
        "charts": [Markup(svg) for svg in charts if svg],  # noqa: S704  # matplotlib has escaped every text
        "rows": [
            {
                **row,
                "unseen": findings.get("unseen", {}).get(row["partition"]),
                "drift": findings.get("drift", {}).get(row["partition"]),
                "alarms": [check for check, of in findings.items() if _is_alarm(of.get(row["partition"]))],
            }
            for row in reversed(rows[-MAX_ROWS:])
        ],
    }


def _reference(lake: Lake, spec: UseCase, column: str, champion: Mapping[str, Any] | None) -> Profile | None:
    """Return the column's profile in the training of a champion, None if its training published none."""
    from include.train.monitoring_baselines import champion_profiles

    return champion_profiles(lake, spec, champion, column).get(column) if champion else None


def _switches(switches: Iterable[Row], span: list[str]) -> list[str]:
    """Return the partitions from which another champion served, and with it another reference."""
    effective_from = {row["effective_from"] for row in switches if row["role"] == "champion"}
    return sorted(key for key in effective_from if span[0] < key <= span[-1])


def _findings(lake: Lake, column: str, first: str) -> dict[str, dict[str, Row]]:
    """Return the column's findings from a partition on, by check and partition."""
    names = ["partition", "check", "value", "threshold", "outcome", "note"]
    findings: dict[str, dict[str, Row]] = {}
    for row in lake.rows("findings", {"subject": column}, names):
        if row["partition"] >= first:
            findings.setdefault(row["check"], {})[row["partition"]] = row
    return {check: dict(sorted(rows.items())) for check, rows in sorted(findings.items())}


def _measures(rows: Iterable[Row], first: str) -> dict[str, dict[str, float]]:
    """Return the column's drift from a partition on, by measure and partition."""
    measures: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["partition"] >= first and row["value"] is not None:
            measures.setdefault(row["measure"], {})[row["partition"]] = row["value"]
    return {measure: dict(sorted(values.items())) for measure, values in measures.items()}


def _is_alarm(finding: Row | None) -> bool:
    return finding is not None and finding["outcome"] == "alarm"


def _limit(spec: UseCase, decides: str, finding: Row | None) -> float | None:
    """Return the limit of the measure that decides: the one that was applied, else the declared one."""
    return finding["threshold"] or None if finding else getattr(spec.monitoring, decides, None)


def _newest_measures(
    spec: UseCase, kind: str, measures: Mapping[str, Mapping[str, float]], findings: Mapping[str, Any]
) -> list[Row]:
    """Return each measure's newest value, and the limit of those that can raise an alarm.

    Those are the measure that decides and, by a check of its own, the rise of the missing values.
    """
    from include.stats.drift_measures import BY_KIND, NAMES

    decides, drift = getattr(spec.monitoring.measure, kind), findings.get("drift", {})
    shares = {
        "new": "share of the values in categories that training lacks",
        "vanished": "share of training's values in categories that the window lacks",
    }
    names = {**shares, "missing": "rise of the share of missing values, in percentage points"}
    newest = []
    for measure in BY_KIND[kind]:
        values = measures.get(measure)
        if not values:
            continue
        partition = max(values)
        value, limit = values[partition], None
        if measure == decides:
            limit = _limit(spec, decides, drift.get(partition))
        elif measure == "missing":
            value *= 100
            if rise := findings.get("missing", {}).get(partition):
                limit = 100 * rise["threshold"]
        newest.append(
            {
                "name": names.get(measure) or f"{NAMES[measure]} distance".replace("PSI distance", "PSI"),
                "is_share": measure in shares,
                "value": value,
                "partition": partition,
                "limit": limit,
                "decides": measure == decides,
            }
        )
    return newest


def _charts(
    spec: UseCase,
    column: str,
    rows: list[Row],
    measures: Mapping[str, Mapping[str, float]],
    findings: Mapping[str, Mapping[str, Row]],
    switches: list[str],
    then: Profile | None,
    now: Profile,
) -> list[str]:
    """Return the charts as SVG, empty text for one that has nothing to show."""
    from include.reports.page_charts import distribution_chart, time_chart

    comparable = then if then is not None and then.kind == now.kind else None
    drift = _relative_drift(spec, now.kind, measures, findings)
    shares, limits = _share_series(rows, findings)
    level = ""
    if now.kind == "numeric":
        level = time_chart(f"Mean of {column}", f"mean {column}", [_means(rows)], switches=switches)
    return [
        distribution_chart(f"Distribution of {column}, then and now", comparable, now),
        time_chart(
            "Drift against its limit",
            "multiples of the limit",
            drift,
            switches=switches,
            level=("limit", 1.0),
            log_scale=True,
        )
        if drift
        else "",
        time_chart("Missing and unseen values", "% of a partition's rows", shares, limits=limits),
        level,
    ]


def _means(rows: list[Row]) -> Series:
    from include.reports.page_charts import Series

    sizes = [row["count"] - row["missing"] for row in rows]
    means = [row["total"] / size if size else float("nan") for row, size in zip(rows, sizes, strict=True)]
    return Series("mean of a partition", [row["partition"] for row in rows], means)


def _relative_drift(
    spec: UseCase,
    kind: str,
    measures: Mapping[str, Mapping[str, float]],
    findings: Mapping[str, Mapping[str, Row]],
) -> list[Series]:
    """Return the measure that decides, and sudden changes, in multiples of their limits."""
    from include.reports.page_charts import Series
    from include.stats.drift_measures import NAMES

    decides, drift = getattr(spec.monitoring.measure, kind), findings.get("drift", {})
    series = []
    values = {
        key: value / limit
        for key, value in measures.get(decides, {}).items()
        if (limit := _limit(spec, decides, drift.get(key)))
    }
    if values:
        alarms = [index for index, key in enumerate(values) if _is_alarm(drift.get(key))]
        series.append(Series(NAMES[decides], list(values), list(values.values()), alarms))
    sudden = {
        key: row
        for key, row in findings.get("sudden_change", {}).items()
        if row["value"] is not None and row["threshold"]
    }
    if sudden:
        values = {key: row["value"] / row["threshold"] for key, row in sudden.items()}
        alarms = [index for index, row in enumerate(sudden.values()) if _is_alarm(row)]
        series.append(Series("sudden change", list(values), list(values.values()), alarms))
    return series


def _share_series(
    rows: list[Row], findings: Mapping[str, Mapping[str, Row]]
) -> tuple[list[Series], list[Series]]:
    """Return the shares of missing and of unseen values in percent, and their limits."""
    from include.reports.page_charts import Series

    shares = {row["partition"]: row["missing"] / row["count"] for row in rows if row["count"]}
    rises = {key: row for key, row in findings.get("missing", {}).items() if key in shares}
    unseen = {key: row for key, row in findings.get("unseen", {}).items() if row["value"] is not None}
    series = [_percent("missing", shares, rises), _percent("unseen", _column(unseen, "value"), unseen)]
    # the limit is on the rise since training
    missing = {
        key: shares[key] - row["value"] + row["threshold"]
        for key, row in rises.items()
        if row["value"] is not None
    }
    limits = [("limit of missing", missing), ("limit of unseen", _column(unseen, "threshold"))]
    return (
        [one for one in series if one.values],
        [
            Series(label, list(values), [100 * value for value in values.values()])
            for label, values in limits
            if values
        ],
    )


def _column(rows: Mapping[str, Row], name: str) -> dict[str, float]:
    return {key: row[name] for key, row in rows.items()}


def _percent(label: str, shares: Mapping[str, float], findings: Mapping[str, Row]) -> Series:
    from include.reports.page_charts import Series

    alarms = [index for index, key in enumerate(shares) if _is_alarm(findings.get(key))]
    return Series(label, list(shares), [100 * share for share in shares.values()], alarms)
