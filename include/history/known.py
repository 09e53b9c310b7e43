"""What the page on a year shows, read from the tables alone: the last nights that were watched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np

from include.lake import Lake
from include.promote import ledger
from include.promote.interval import bounds
from include.spec import UseCase

NIGHTS = 371  # of a daily use case a year and a week
WEEK = 7  # nights that are pooled
ALPHA = 0.05  # on either side, so that an interval is one of 90 %
DRIFT = "drift"  # the check that is no alert: a season moves columns as well
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Mean:
    """A mean over a week's nights, and where it lies at 90 %; None of a single night."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Week:
    """What the models that served lost a row in a week, and the baseline on the same rows.

    Parameters
    ----------
    middle : the week's middle night.
    gain : what they lost less than the baseline, paired by night.
    """

    middle: str
    served: Mean
    baseline: float
    gain: Mean


@dataclass(frozen=True)
class Episode:
    """Alarms of one check on one subject, each less than ``monitoring.jumps.quiet`` nights after another."""

    check: str
    subject: str
    first: str
    last: str
    nights: int
    note: str  # of the last night


@dataclass(frozen=True)
class Known:
    """The nights, oldest first, and what there is to say of them.

    Parameters
    ----------
    metric, required : the first required metric, and from where on it is too low or too high.
    realised : that metric by night.
    estimated : what was told of it before the labels came, and its interval of 90 %, by night.
    moved : by night the column with the largest population stability index, and the index.
    alarms : rows of `findings`.
    asked : nights that asked for a training.
    judged : night and verdict of each training.
    switches : rows of `deployments` of champions and challengers.
    """

    spec: UseCase
    nights: tuple[str, ...]
    weeks: tuple[Week, ...]
    metric: str
    required: float | None
    realised: Mapping[str, float]
    estimated: Mapping[str, Mean]
    moved: Mapping[str, tuple[str, float]]
    alarms: tuple[Row, ...]
    asked: tuple[str, ...]
    judged: tuple[tuple[str, str], ...]
    switches: tuple[Row, ...]

    def alarmed(self, check: str = "") -> set[str]:
        """Return the nights with an alarm of a check; of any check but drift unless one is given."""
        return {
            str(row["night"])
            for row in self.alarms
            if (row["check"] == check if check else row["check"] != DRIFT)
        }

    def episodes(self) -> list[Episode]:
        """Return the alarms as episodes, the newest first."""
        place, quiet = {night: i for i, night in enumerate(self.nights)}, self.spec.monitoring.jumps.quiet
        by: dict[tuple[str, str], list[list[Row]]] = {}
        for row in self.alarms:
            runs = by.setdefault((row["check"], row["subject"]), [])
            if not runs or place[row["night"]] - place[runs[-1][-1]["night"]] >= quiet:
                runs.append([])
            runs[-1].append(row)
        found = [
            Episode(*key, run[0]["night"], run[-1]["night"], len(run), run[-1]["note"])
            for key, runs in by.items()
            for run in runs
        ]
        return sorted(found, key=lambda one: (one.last, one.first, one.check, one.subject), reverse=True)


def known(lake: Lake, spec: UseCase) -> Known:
    """Read what is known of the last `NIGHTS` nights."""
    watched = lake.read("partitions", {"product": "monitor"}, ["night"])
    nights = sorted(set(watched["night"].to_pylist()) if watched is not None else ())[-NIGHTS:]
    rules = spec.monitoring.requirements
    metric = rules[0].metric if rules else spec.gate.objective
    limit = (rules[0].at_least if rules[0].at_most is None else rules[0].at_most) if rules else None
    attempts = _rows(lake, "attempts", {}, ["night", "verdict", "recorded"], nights)
    found = _rows(lake, "findings", {"outcome": "alarm"}, ["night", "check", "subject", "note"], nights)
    decided = _rows(lake, "decisions", {}, ["night", "cause"], nights)
    return Known(
        spec=spec,
        nights=tuple(nights),
        weeks=tuple(_weeks(_losses(lake, nights), nights)),
        metric=metric,
        required=limit,
        realised=_realised(lake, metric, nights),
        estimated=_estimated(lake, metric, nights),
        moved=_moved(lake, nights),
        alarms=tuple(sorted(found, key=lambda row: (row["night"], row["check"], row["subject"]))),
        asked=tuple(sorted(row["night"] for row in decided if row["cause"])),
        judged=tuple(
            (row["night"], row["verdict"]) for row in sorted(attempts, key=lambda row: int(row["recorded"]))
        ),
        switches=tuple(row for row in ledger.switches(lake) if row["role"] != "baseline"),
    )


def _rows(
    lake: Lake, table: str, where: Mapping[str, str], columns: Sequence[str], nights: Sequence[str]
) -> list[Row]:
    """Return the nights' rows; the table is scanned once, which a list of nights would only slow down."""
    read, wanted = lake.read(table, where or None, columns), set(nights)
    return [row for row in read.to_pylist() if row["night"] in wanted] if read is not None else []


def _realised(lake: Lake, metric: str, nights: Sequence[str]) -> dict[str, float]:
    rows = _rows(lake, "performance", {"metric": metric}, ["night", "known", "value"], nights)
    newest = {row["night"]: row["value"] for row in sorted(rows, key=lambda row: str(row["known"]))}
    return {night: value for night, value in sorted(newest.items()) if value is not None}


def _estimated(lake: Lake, metric: str, nights: Sequence[str]) -> dict[str, Mean]:
    rows = _rows(lake, "estimates", {"metric": metric}, ["night", "value", "low", "high"], nights)
    told = sorted((row for row in rows if row["value"] is not None), key=lambda row: str(row["night"]))
    return {row["night"]: Mean(row["value"], row["low"], row["high"]) for row in told}


def _moved(lake: Lake, nights: Sequence[str]) -> dict[str, tuple[str, float]]:
    rows = _rows(lake, "drift", {"measure": "psi"}, ["night", "column", "value"], nights)
    rows = [row for row in rows if row["value"] is not None]
    ranked = sorted(rows, key=lambda row: (row["night"], row["value"], row["column"]))
    return {row["night"]: (row["column"], row["value"]) for row in ranked}


def _losses(lake: Lake, nights: Sequence[str]) -> dict[str, Any]:
    """Return by night the sums of rows, loss and baseline, as last known, shape (3,)."""
    columns = ["night", "known", "model", "rows", "loss", "baseline"]
    rows = sorted(_rows(lake, "losses", {}, columns, nights), key=lambda row: str(row["known"]))
    newest = {(row["night"], row["model"]): row for row in rows}
    sums: dict[str, Any] = {}
    for (night, _), row in sorted(newest.items()):
        sums[night] = sums.get(night, 0.0) + np.array([row["rows"], row["loss"], row["baseline"]], float)
    return {night: found for night, found in sums.items() if found[0]}


def _weeks(sums: Mapping[str, Any], nights: Sequence[str]) -> Iterable[Week]:
    """Pool the nights by calendar week, or as many of them where nights are further apart than days."""
    days = [date.fromisoformat(night).toordinal() for night in nights]
    step = min((later - day for day, later in pairwise(days)), default=1)
    weeks: dict[int, list[str]] = {}
    for night in sums:
        weeks.setdefault((date.fromisoformat(night).toordinal() - 1) // (WEEK * step), []).append(night)
    for _, own in sorted(weeks.items()):
        rows, lost, baseline = np.array([sums[night] for night in own]).T
        yield Week(
            middle=own[len(own) // 2],
            served=_mean(lost, rows),
            baseline=float(baseline.sum() / rows.sum()),
            gain=_mean(baseline - lost, rows),
        )


def _mean(sums: Any, rows: Any) -> Mean:
    """Return the mean a row; a week is too short for blocks, so its nights count as independent."""
    if len(rows) == 1:
        return Mean(float(sums[0] / rows[0]), None, None)
    alpha = np.asarray(ALPHA)
    mean, low = bounds(sums, rows, 1, alpha)
    return Mean(float(mean), float(low), -float(bounds(-sums, rows, 1, alpha)[1]))
