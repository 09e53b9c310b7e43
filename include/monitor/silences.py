"""Open alerts, and silences: a person acknowledges or mutes an alert, in the append-only ledger `silences`.

An alert is open while its alarm is on the newest monitored partition. A partition that was scored without
rows ends no alarm, since it has little to judge. A silence applies from the partition that was the newest
when it was recorded: an acknowledgement for as long as the alarm persists, a mute until its last partition.
An alert's newest silence replaces those before it, so muting until an earlier partition ends a mute or an
acknowledgement.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import takewhile

from include.errors import EvergreenError
from include.monitor.alerts import Key, alert_key, alert_name
from include.monitor.registry import CHECKS
from include.monitor.state import PRODUCT
from include.promote.approval import require_person_and_reason
from include.spec import UseCase
from include.storage.lake import Lake, Row, Where
from include.storage.schemas import SILENCES

TABLE = "silences"
ACKNOWLEDGED, MUTED = "acknowledged", "muted"


def silence_text(row: Row) -> str:
    """Return a silence, or its end, as a sentence."""
    if row["action"] == MUTED and row["until"] < row["partition"]:
        return f"{alert_name(*alert_key(row))} no longer {MUTED}, by {row['by']}: {row['reason']}"
    until = f" until {row['until']}" if row["action"] == MUTED else ""
    return f"{alert_name(*alert_key(row))} {row['action']}{until} by {row['by']}: {row['reason']}"


@dataclass(frozen=True)
class OpenAlert:
    """An alarm on the newest monitored partition, of a check that alerts.

    Parameters
    ----------
    note : of the newest finding.
    partitions : the monitored partitions in a row that have the alarm, oldest first. Those without rows that
        don't have it are left out.
    """

    check: str
    subject: str
    note: str
    partitions: tuple[str, ...]

    @property
    def key(self) -> Key:
        """Its check and subject."""
        return self.check, self.subject


class AlertLog:
    """The alarms and silences of a use case, as they are when they are first read."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    @cached_property
    def silences(self) -> list[Row]:
        """Every row of `silences`, oldest first."""
        return self._lake.rows(TABLE, order=["recorded"])

    @cached_property
    def monitored(self) -> list[str]:
        """The monitored partitions, in order."""
        return self._lake.published(PRODUCT)

    @cached_property
    def _empty(self) -> set[str]:
        """The partitions that were scored without rows."""
        where: Where = {"product": "predictions", "outcome": "published"}
        rows = self._lake.rows("partitions", where, ["partition", "rows"])
        return {row["partition"] for row in rows if row["rows"] == 0}

    @cached_property
    def _alarms(self) -> dict[Key, set[str]]:
        """The partitions of each alarm that alerts."""
        where = {"outcome": "alarm", "check": [check.name for check in CHECKS if check.alerts]}
        alarms = defaultdict(set)
        for row in self._lake.rows("findings", where, ["partition", "check", "subject"]):
            alarms[alert_key(row)].add(row["partition"])
        return alarms

    def open_alerts(self) -> list[OpenAlert]:
        """Return the open alerts, in the order of the checks."""
        streaks: dict[Key, list[str]] = {}  # newest first
        for key, partitions in sorted(self._alarms.items()):
            empty = self._empty - partitions
            judged = (other for other in reversed(self.monitored) if other not in empty)
            if streak := list(takewhile(partitions.__contains__, judged)):
                streaks[key] = streak
        newest = sorted({streak[0] for streak in streaks.values()})
        rows = self._lake.rows("findings", {"partition": newest, "outcome": "alarm"}) if newest else []
        notes = {(alert_key(row), row["partition"]): str(row["note"]) for row in rows}
        alerts = [
            OpenAlert(*key, notes[key, streak[0]], tuple(reversed(streak))) for key, streak in streaks.items()
        ]
        order = [check.name for check in CHECKS]
        return sorted(alerts, key=lambda alert: order.index(alert.check))

    def silenced_by(self, key: Key, partition: str) -> Row | None:
        """Return the silence that applies to an alert on a partition, None if there is none."""
        silences = [row for row in self.silences if row["partition"] <= partition and alert_key(row) == key]
        newest = silences[-1] if silences else None
        if newest is None:
            return None
        if newest["action"] == MUTED:
            return newest if partition <= newest["until"] else None
        since = {other for other in self.monitored if newest["partition"] <= other <= partition}
        return newest if self._alarms[key] >= since - self._empty else None


def record_silence(
    lake: Lake,
    spec: UseCase,
    alert: str,
    by: str,
    reason: str,
    *,
    at: datetime,
    until: str = "",
    request: str = "",
) -> Row:
    """Acknowledge an alert, or mute it; the same request again returns its first row.

    Parameters
    ----------
    alert : its `alert_name`.
    at : when the person did so, UTC.
    until : the last partition of a mute; empty to acknowledge.
    request : what asks for it, as a run's id.

    Raises
    ------
    EvergreenError
        when the person or the reason is missing, or that alert is neither open nor was ever silenced.
    PartitionError
        when ``until`` isn't a partition of the schedule.
    """
    action = MUTED if until else ACKNOWLEDGED
    require_person_and_reason(f"{spec.name}: an alert to be {action}", by, reason)
    if until:
        spec.clock.decision_time(until)  # raises for a day without a partition
    log = AlertLog(lake)
    keys = [open_alert.key for open_alert in log.open_alerts()]
    keys += [alert_key(row) for row in log.silences]
    names = {alert_name(*key): key for key in keys}
    if alert not in names:
        found = f"open or silenced ones: {', '.join(names)}" if names else "no open alert"
        if (check := alert.partition(":")[0].strip()) in {check.name for check in CHECKS if not check.alerts}:
            found = f"an alarm of {check}, which raises no alert and notifies nobody; {found}"
        raise EvergreenError(
            f"{spec.name}: alert {alert!r}",
            required="an open alert",
            found=found,
            where=f"{lake.uri}/tables/findings",
            remedy=f"name one as the alerts page does, such as {next(iter(names))}"
            if names
            else "there is nothing to do until the alerts page lists one",
        )
    check, subject = names[alert]
    row = {"check": check, "subject": subject, "action": action, "until": until, "by": by, "at": at}
    row |= {"partition": log.monitored[-1], "reason": reason, "request": request}

    def decide_silence(rows: list[Row]) -> list[Row] | Row:
        earlier = next((other for other in rows if request and other["request"] == request), None)
        return earlier or [{**row, "recorded": len(rows) + 1}]

    return lake.append_compare_and_swap(TABLE, SILENCES, decide_silence)
