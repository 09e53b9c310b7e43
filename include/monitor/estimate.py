"""What a night's predictions are worth before their labels come, or why that can't be told.

The estimate is as good as it proved to be: beside it stands its error over the newest nights with labels, the
gate's test nights at first and then the champion's own. Nothing is decided by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import stdtrit

from include import outputs, tables
from include.digits import beside
from include.lake import Lake
from include.monitor.expect import expected, told
from include.monitor.findings import Finding
from include.monitor.held import Held, Night, Pair, held
from include.monitor.realise import marked
from include.monitor.state import REALISED, State
from include.promote.grow import Row
from include.spec import UseCase

PRODUCT = "estimates"
NEWEST = 28  # nights with labels that the error is measured on
LEAST = 7  # of them, or there is no error
CHANCE = 0.05  # on either side of the interval
LOSSES = (
    "log_loss",
    "brier",
    "mae",
    "rmse",
    "quantile_loss",
)  # every other metric is at most 1, none below 0
OUTSIDE = ("unseen", "missing")  # checks of a feature whose alarm says that the held-out rows tell nothing


def publish(
    lake: Lake, spec: UseCase, night: str, state: State, found: Sequence[Finding], inputs: Mapping[str, Any]
) -> None:
    """Publish the night's rows of `estimates`, one a metric, and then the row in `partitions`.

    Parameters
    ----------
    found : the night's other findings.
    inputs : what they, and so the estimates, depend on.
    """
    rows = _rows(lake, spec, night, state, found) if state.champion(night) else []
    made = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["metric"])), schema=tables.ESTIMATES)
    lake.publish(PRODUCT, made, {"night": night})
    given = sum("value" in row for row in rows)
    note = f"{given} of {len(rows)} metrics estimated" if rows else "no model was promoted yet"
    done = pa.Table.from_pylist([marked(spec, PRODUCT, night, made, inputs, note)], schema=tables.PARTITIONS)
    lake.publish("partitions", done, {"product": PRODUCT, "night": night})


def _rows(
    lake: Lake, spec: UseCase, night: str, state: State, found: Sequence[Finding]
) -> list[dict[str, Any]]:
    champion = state.champion(night)
    assert champion is not None
    learnt = held(lake, spec, champion)
    served = _served(lake, spec, [night]).get(night)
    why = _outside(learnt, served, str(champion["model"]), found)
    guess = _guess(spec, learnt, served, str(champion["model"]))
    same = {"night": night, "model": champion["model"], "version": champion["version"]}
    size = 0 if served is None else served.num_rows
    if learnt is None:
        return [{**same, "metric": name, "rows": size, "reason": why} for name in told(spec)]
    nights = [*learnt.nights, *_lived(lake, spec, night, state, learnt)]
    return [{**same, **judged(name, size, guess.get(name), nights, why)} for name in told(spec)]


def judged(
    metric: str, rows: int, guess: float | None, nights: Sequence[Night], why: str = ""
) -> dict[str, Any]:
    """Return an estimate beside its error, as columns of `estimates`; or no value, and the reason.

    Parameters
    ----------
    rows : of the night that is estimated.
    guess : what is expected of it, None where they can't give it.
    nights : those with labels, oldest first.
    why : a reason that there is already.
    """
    known = [one for one in nights if metric in one.pairs][-NEWEST:]
    row = {"metric": metric, "rows": rows, "unchecked": guess, **_error(known, metric)}
    why = why or _poor(row, known)
    if why or guess is None:
        return {**row, "reason": why}
    reach = float(stdtrit(len(known) - 1, 1 - CHANCE)) * row["error"]
    most = math.inf if metric.partition("@")[0] in LOSSES else 1.0
    low, high = max(guess - reach, 0.0), min(guess + reach, most)
    return {**row, "value": guess, "low": low, "high": high, "reason": ""}


def _outside(learnt: Held | None, served: pa.Table | None, champion: str, found: Sequence[Finding]) -> str:
    """Return why no metric of the night can be told, empty where that isn't so."""
    if served is None:
        return "nothing was predicted for this night"
    if other := served.num_rows - pc.sum(pc.equal(served["model"], champion)).as_py():
        return f"{other} of {served.num_rows} rows weren't served by the champion"
    if learnt is None:
        return "the rows of the gate's test nights are gone, or it was promoted without a gate"
    alarms = [f for f in found if f.outcome == "alarm"]
    if columns := sorted({f.subject for f in alarms if f.check in OUTSIDE}):
        return f"values that the champion didn't learn from, or none: {', '.join(columns)}"
    if concept := sorted({f.subject for f in alarms if f.check == "concept"}):
        return f"labels follow another rule by now: {', '.join(concept)}"
    return ""


def _poor(row: Mapping[str, Any], known: Sequence[Night]) -> str:
    """Return why one metric can't be told, empty where that isn't so."""
    if row["unchecked"] is None:
        return f"{row['rows']} rows can't give it"
    if len(known) < LEAST:
        return f"its error is known of {len(known)} nights, and {LEAST} are needed"
    usual = float(np.median([one.rows for one in known]))
    if 2 * row["rows"] < usual:
        return f"{row['rows']} rows, and its error was measured on nights of {usual:g}"
    if row["error"] >= row["naive"]:
        error, naive = beside(row["error"], row["naive"], 3)
        return f"its error, {error}, isn't below that of the gate's figure, {naive}"
    return ""


def _error(known: Sequence[Night], metric: str) -> dict[str, Any]:
    """Return the root mean square of estimate less realised, and that of the naive guess."""
    pairs = [one.pairs[metric] for one in known]
    if len(pairs) < LEAST:
        return {"nights": len(pairs)}
    apart = {
        "error": [one.estimate - one.realised for one in pairs],
        "naive": [one.naive - one.realised for one in pairs],
    }
    return {"nights": len(pairs), **{name: math.sqrt(np.mean(np.square(of))) for name, of in apart.items()}}


def _served(lake: Lake, spec: UseCase, nights: Sequence[str]) -> dict[str, pa.Table]:
    """Return the predictions of each night that has some, in one order."""
    columns = ["night", *spec.key, *spec.problem.outputs, "model"]
    read = lake.read("predictions", {"night": list(nights)}, columns) if nights else None
    if read is None:
        return {}
    read = read.sort_by([(name, "ascending") for name in spec.key])
    parts = {key: read.filter(pc.equal(read["night"], key)) for key in nights}
    return {key: part for key, part in parts.items() if part.num_rows}


def _guess(spec: UseCase, learnt: Held | None, served: pa.Table | None, champion: str) -> dict[str, float]:
    """Return what is expected of a night, nothing where the champion didn't serve all of it."""
    if learnt is None or served is None or served["model"].unique().to_pylist() != [champion]:
        return {}
    return expected(spec, learnt.map, outputs.array(spec, served))


def _lived(lake: Lake, spec: UseCase, night: str, state: State, learnt: Held) -> list[Night]:
    """Return the champion's newest nights whose labels were known by a night, and the estimates of them.

    A night that nobody watched then is estimated now: it would have been the same.
    """
    champion = state.champion(night)
    assert champion is not None
    since = [key for key in sorted(state.ever[REALISED]) if champion["effective"] <= key < night]
    nights = [key for key in since if state.known(key)[0] <= night][-NEWEST:]
    if not nights:
        return []
    mine = {"night": nights, "model": str(champion["model"])}
    said: dict[str, dict[str, float | None]] = {}
    for row in lake.rows(PRODUCT, mine):
        said.setdefault(row["night"], {})[row["metric"]] = row["unchecked"]
    for key, served in _served(lake, spec, [key for key in nights if key not in said]).items():
        said[key] = {**_guess(spec, learnt, served, str(champion["model"]))}
    came: dict[str, dict[str, Row]] = {}
    for row in sorted(lake.rows(REALISED, {"night": nights}), key=lambda row: str(row["known"])):
        if row["known"] <= night:
            came.setdefault(row["night"], {})[row["metric"]] = row
    return [_paired(key, said.get(key, {}), came[key], learnt.means) for key in nights if key in came]


def _paired(
    night: str, said: Mapping[str, float | None], came: Mapping[str, Row], means: Mapping[str, float]
) -> Night:
    pairs = {}
    for name, guess in said.items():
        realised = came[name]["value"] if name in came else None
        if guess is not None and realised is not None and name in means:
            pairs[name] = Pair(guess, float(realised), means[name])
    return Night(night, int(next(iter(came.values()))["rows"]), pairs)
