"""Whether a use case's model is fresh: one status, and the sentence that says why.

| status | meaning |
|---|---|
| broken | predictions are missing, or a constant made some of them |
| blind | nobody knows how good the predictions are, because monitoring or labels are behind |
| degraded | a requirement is missed, a source is missing, or a fallback serves |
| aging | scheduled trainings have passed without a newer model |
| fresh | none of these |

The first one that applies is the status.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from include.monitor.state import PERFORMANCE, without_labels
from include.promote import ledger
from include.spec import UseCase
from include.storage.lake import Row
from include.train.recipes import baseline_names

Status = Literal["broken", "blind", "degraded", "aging", "fresh"]
MAX_OVERDUE = 2  # partitions after the newest with labels that may lack them before the status is blind
MAX_TRAININGS = 2  # scheduled trainings without a newer model before the status is aging
# after the scoring; a monitor task that hasn't ended may be running, or be retried
MONITORING = timedelta(hours=1)
DEGRADING = ("performance", "concept")  # checks whose alarm says that the model is bad


@dataclass(frozen=True)
class Health:
    """The status of a use case.

    Parameters
    ----------
    reason : one sentence.
    age : partitions from the champion's training to the newest scored partition; None without either.
    """

    status: Status
    reason: str
    age: int | None = None


def health(
    spec: UseCase,
    now: datetime,
    *,
    partitions: Sequence[Row],
    switches: Sequence[Row],
    served_by: Mapping[str, int],
    findings: Sequence[Row],
    scored_at: datetime | None = None,
) -> Health:
    """Return the status of a use case.

    Parameters
    ----------
    partitions : rows of `partitions`.
    switches : rows of `switches`, oldest first.
    served_by : rows of the newest scored partition by step of the fallback chain.
    findings : those of the newest monitored partition.
    scored_at : when the newest partition was scored; None if that isn't known.
    """
    scored, champion = scored_partitions(partitions), ledger.live_champion(switches)
    age = None
    if champion and scored:
        age = max(len(spec.clock.keys(champion["judged_on"], scored[-1])) - 1, 0)
    problems = _problems(spec, now, scored, partitions, switches, served_by, findings, scored_at)
    status, reason = next(problems)
    return Health(status, reason, age)


def _problems(
    spec: UseCase,
    now: datetime,
    scored: Sequence[str],
    partitions: Sequence[Row],
    switches: Sequence[Row],
    served_by: Mapping[str, int],
    findings: Sequence[Row],
    scored_at: datetime | None,
) -> Iterator[tuple[Status, str]]:
    """Yield each status that applies with its sentence, the most urgent first, and "fresh" last."""
    if not scored:
        yield "blind", f"No partition has been scored yet: backfill {spec.name}__batch."
        return
    newest, rows = scored[-1], sum(served_by.values())
    products = {(row["product"], row["partition"]): row for row in partitions}
    published = {key for key, row in products.items() if row["outcome"] == "published"}

    if late := unscored(spec, partitions, now):
        remedy = f"backfill {spec.name}__batch"
        if is_over(spec, now) and spec.clock.keys(late[-1], newest)[1:] == [newest]:
            remedy += f", or withdraw {newest} if it was run by mistake"
        yield "broken", f"{_listed(late)} should have been scored by now: {remedy}."
    if constant := served_by.get("constant", 0):
        reason = ledger.why_no_champion(switches, newest) or "no model could predict them"
        yield "broken", f"A constant predicted {constant:,} of {rows:,} rows of {newest}: {reason}."

    if ("monitor", newest) not in published and (scored_at is None or now - scored_at > MONITORING):
        at = f" at {scored_at:%Y-%m-%d %H:%M} UTC" if scored_at else ""
        yield "blind", f"{newest} was scored{at}, but isn't monitored: clear its monitor task."
    labeled = max((key for product, key in published if product == PERFORMANCE), default="")
    due = {
        key: spec.clock.shift(key, spec.labels.delay)
        for key in scored
        if key > labeled and products["predictions", key]["rows"]
    }
    overdue = [key for key, at in due.items() if at <= newest and not without_labels(spec, products, at)]
    if len(overdue) > MAX_OVERDUE:
        yield "blind", f"The labels of {_listed(overdue)} are overdue."
    for alarm in findings:
        if (alarm["outcome"], alarm["check"], alarm["subject"]) == ("alarm", "labels", "overdue"):
            yield "blind", f"The {alarm['note']}."

    yield from _model_problems(spec, newest, products, switches, served_by, findings)


def _model_problems(
    spec: UseCase,
    newest: str,
    products: Mapping[tuple[str, str], Row],
    switches: Sequence[Row],
    served_by: Mapping[str, int],
    findings: Sequence[Row],
) -> Iterator[tuple[Status, str]]:
    """Yield what is wrong with what serves the newest partition, the most urgent first, and "fresh" last."""
    for alarm in findings:
        if alarm["outcome"] == "alarm" and alarm["check"] in DEGRADING:
            yield "degraded", f"{alarm['subject']}: {alarm['note']}."
    for name in spec.sources:
        source = products.get((name, newest), {})
        if source.get("outcome") != "published" and spec.partitions(name, newest, newest):
            note = source.get("note")
            yield "degraded", f"{newest} has no data of {name}{f': {note}' if note else ''}."
    rows = sum(served_by.values())
    if others := rows - served_by.get("champion", 0) - served_by.get("canary", 0):
        yield "degraded", f"Fallbacks predicted {others:,} of {rows:,} rows of {newest}, not the champion."
    champion = ledger.live_champion(switches)  # perhaps from the next partition on
    if champion is None:
        yield "degraded", f"{ledger.why_no_champion(switches, newest)}."
        return
    version, training = champion["version"], champion["judged_on"]
    if champion["kind"] in (ledger.REPLACED, ledger.BASELINE_ONLY):
        yield "degraded", f"Version {version} stands in: {champion['reason']}."
    replaced = ledger.replaced_since(ledger.champions(switches))
    if replaced and champion["recipe"] in baseline_names(spec):
        yield (
            "degraded",
            f"{champion['recipe']} stands in since {replaced}, for a champion that lost more, and no better "
            "recipe has come: see what changed in the labels, in the sources or in what is predicted.",
        )

    trainings = spec.trainings(training, newest)
    passed = sum(key > training for key in trainings)
    if passed >= MAX_TRAININGS:
        yield "aging", f"{passed} trainings since that of {training}, version {version}'s, were due."
    since = champion["effective_from"]
    yield "fresh", f"Version {version}, trained on {training}, serves from {since} on."


def is_over(spec: UseCase, now: datetime) -> bool:
    """Return whether the schedule has ended, so that nothing runs by itself any more."""
    return spec.end is not None and spec.end < spec.clock.newest(now)


def scored_partitions(partitions: Iterable[Row]) -> list[str]:
    """Return the partitions with predictions, in order.

    Parameters
    ----------
    partitions : rows of `partitions`.
    """
    rows = (row for row in partitions if row["product"] == "predictions")
    return sorted(row["partition"] for row in rows if row["outcome"] == "published")


def unscored(spec: UseCase, partitions: Sequence[Row], now: datetime) -> list[str]:
    """Return the partitions after the first scored one whose predictions were due by ``now`` and don't exist.

    After ``schedule.end`` nothing runs by itself, so what follows the newest scored partition isn't due.

    Parameters
    ----------
    partitions : rows of `partitions`.
    """
    scored = scored_partitions(partitions)
    if not scored:
        return []
    last = scored[-1] if is_over(spec, now) else spec.clock.newest(now)
    deadline = spec.scoring.deadline
    missing = sorted({*spec.clock.keys(scored[0], last)} - {*scored})
    return [key for key in missing if spec.clock.local(key, deadline) <= now]


def _listed(keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return keys[0]
    return f"{len(keys)} partitions, {keys[0]} to {keys[-1]},"
