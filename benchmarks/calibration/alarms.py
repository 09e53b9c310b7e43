"""How often a column alarms without a fault, and how soon with one: measured on the lake's own partitions.

The limits are those that a training would have published: made from the partitions before, and anew every
four weeks. What they do on the four weeks that follow is counted, on the partitions as they were, with
whatever truly happened in them, and on made-up years that keep everything but trend and events. Then faults
are planted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import chi2

from benchmarks.calibration import page
from benchmarks.calibration.planted import REFIT, Walk, faults, walked
from include.errors import EvergreenError
from include.features.build import features
from include.reports.text import text_table
from include.spec import UseCase
from include.spec.stages import SuddenChanges
from include.stats import profiles as profile
from include.stats.alarms import WEEK, alert_starts, break_scores, persistent, resample_years
from include.stats.drift_measures import Binning
from include.storage.lake import Lake
from include.train.monitoring_baselines import count_by_partition

PLACE = "reports/alarms.html"
DAYS = 365.25
Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """Alerts a year, with the exact interval of 95 % of a Poisson count (Garwood 1936)."""

    found: int
    years: float

    @property
    def low(self) -> float:
        """The lower end."""
        return float(chi2.ppf(0.025, 2 * self.found)) / 2 / self.years if self.found else 0.0

    @property
    def high(self) -> float:
        """The upper end."""
        return float(chi2.ppf(0.975, 2 * self.found + 2)) / 2 / self.years

    def __str__(self) -> str:
        return f"{self.found / self.years:.1f} [{self.low:.1f}, {self.high:.1f}]"

    def plain(self) -> dict[str, float]:
        """Return plain values."""
        return {
            **asdict(self),
            "false_alarms_per_year": self.found / self.years,
            "low": self.low,
            "high": self.high,
        }


def calibrate(lake: Lake, spec: UseCase, years: int) -> tuple[dict[str, Any], str]:
    """Measure the rate of alerts on clean time, and the delay until a fault is found.

    Parameters
    ----------
    years : made-up ones.

    Returns
    -------
    dict, str
        The numbers as plain JSON, and the page, which is also stored as ``reports/alarms.html``.
    """
    began, rules = time.perf_counter(), spec.monitoring.sudden_changes
    partitions = _partitions(lake, spec)
    rows = features(lake, spec, partitions)
    start = max(len(partitions) // 3, rules.past + 3 * WEEK)
    cuts, spreads = _cuts(spec, rows.filter(pc.less(rows["partition"], partitions[start])))
    counts = {name: count_by_partition(rows, name, cut, partitions) for name, cut in cuts.items()}
    walk = walked(counts, rules, start, spec.training.seed)
    told = alert_starts(walk.alarm, rules.quiet)
    real = Rate(int(told.sum()), len(told) / DAYS)
    clean = _clean(counts, rules, start, years, spec.training.seed)
    found = {
        "sentence": _sentence(rules.false_alarms_per_year, real, clean),
        "usecase": spec.name,
        "spec": spec.digest,
        "promised": rules.false_alarms_per_year,
        "partitions": {
            "first": partitions[start],
            "last": partitions[-1],
            "judged": len(told),
            "before": start,
        },
        "as_it_was": real.plain(),
        "share_of_partitions": float(walk.alarm.mean()),
        "made_up": clean.plain(),
        "alerts": [_alert(walk, partitions, start + int(index)) for index in np.flatnonzero(told)],
        "faults": list(faults(rows, partitions, cuts, spreads, walk)),
    }
    html = page.alarms(found, partitions[start:], _heights(walk))
    lake.replace(PLACE, html.encode())
    return found | {"page": f"{lake.uri}/{PLACE}", "seconds": round(time.perf_counter() - began, 1)}, html


def text(found: dict[str, Any]) -> str:
    """Return the numbers as a person reads them in a terminal."""
    told = [{"partition": one["partition"], "columns": ", ".join(one["columns"])} for one in found["alerts"]]
    faults = [{**one, "found": f"{100 * one['found']:.0f} %"} for one in found["faults"]]
    lines = [found["sentence"], "", *text_table(told, ["partition", "columns"]), ""]
    lines += text_table(faults, ["fault", "size", "tried", "found", "partitions"])
    return "\n".join([*lines, "", f"{found['page']}  ({found['seconds']} s)"])


def _partitions(lake: Lake, spec: UseCase) -> list[str]:
    """Return the partitions on which there is something to judge."""
    rows = lake.rows("partitions", {"product": spec.features.spine})
    partitions = sorted(str(row["partition"]) for row in rows if row["outcome"] == "published")
    needed = spec.monitoring.sudden_changes.past + 3 * WEEK + REFIT
    if len(partitions) < needed:
        raise EvergreenError(
            f"{spec.name}: calibration of the alarms",
            required=f"{needed} partitions of {spec.features.spine}",
            found=str(len(partitions)),
            where=f"{lake.uri}/tables/partitions",
            remedy=f"python -m include run ingest {spec.name} --from PARTITION --until PARTITION",
        )
    return partitions


def _cuts(spec: UseCase, rows: pa.Table) -> tuple[dict[str, Binning], dict[str, float]]:
    """Return how each column is counted, and the standard deviation of the numeric ones."""
    made = profile.build_profile("calibration", "", rows, spec.features.numeric, spec.features.categorical)
    profiles = profile.merge_profiles(made.to_pylist())
    spreads = {name: profiles[name].std for name in spec.features.numeric if profiles[name].std > 0}
    return {name: Binning.of(of) for name, of in profiles.items()}, spreads


def _clean(counts: Mapping[str, Counts], rules: SuddenChanges, start: int, years: int, seed: int) -> Rate:
    """Return the rate of alerts in made-up years of the same partitions."""
    partitions = min(len(rows) for rows in counts.values())
    positions = resample_years(partitions, partitions, years, seed + 1)
    told = judged = 0
    for year in positions:
        walk = walked({name: rows[year] for name, rows in counts.items()}, rules, start, seed)
        told += int(alert_starts(walk.alarm, rules.quiet).sum())
        judged += len(walk.alarm)
    return Rate(told, judged / DAYS)


def _alert(walk: Walk, partitions: list[str], index: int) -> dict[str, Any]:
    columns = [name for name, high in walk.high.items() if persistent(high, walk.rules)[index]]
    return {"partition": partitions[index], "columns": columns}


def _heights(walk: Walk) -> tuple[Counts, Counts]:
    """Return for each judged partition the largest break in spreads, and the height of the limits."""
    most, height = [], []
    far = {name: np.log(break_scores(rows, walk.rules.past)) for name, rows in walk.counts.items()}
    for index in range(walk.start, len(walk.by)):
        made = walk.by[index]
        middle = made.median_log_score if made else {}
        scaled = [(far[n][index] - middle[n]) / made.log_score_spread[n] for n in middle] if made else []
        most.append(max(scaled, default=np.nan))
        height.append(made.spreads if made else np.nan)
    return np.array(most), np.array(height)


def _sentence(promised: float, real: Rate, clean: Rate) -> str:
    side = "more than" if clean.low > promised else "less than" if clean.high < promised else "as"
    return (
        f"In made-up clean years there were {clean} alerts a year, {side} the promised {promised:g}; on the "
        f"{round(real.years * DAYS)} partitions that were judged as they were, {real}."
    )
