"""The page of a use case's open alerts, and of those that a person acknowledged or muted.

It only reads. Its buttons start the `operate` DAG by Airflow's API, as the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from evergreen.view.access import MayOperate, Opened
from evergreen.view.html import page

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

MAX_SILENCES = 50  # on the page

router = APIRouter()


@router.get("/alerts/{usecase}")
def alerts(request: Request, opened: Opened, may_operate: MayOperate) -> HTMLResponse:
    """Show the open alerts of a use case."""
    usecase = opened.spec.name
    data = alerts_data(opened.lake, opened.spec)
    return page(
        request, "alerts.html", usecase=usecase, dag=f"{usecase}__operate", may_operate=may_operate, **data
    )


def alerts_data(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Return the open alerts, each with its silence and who was notified, and the newest silences."""
    from include.monitor.alerts import alert_name, deliveries  # at the first request: it imports pyarrow
    from include.monitor.silences import ACKNOWLEDGED, AlertLog

    log = AlertLog(lake)
    newest = log.monitored[-1] if log.monitored else ""
    alerts = log.open_alerts()
    sent = deliveries(lake, {partition for alert in alerts for partition in alert.partitions})
    until = spec.clock.shift(newest, spec.alerts.quiet) if newest else ""
    rows = []
    for alert in alerts:
        silence = log.silenced_by(alert.key, newest)
        about = {"alert": alert_name(*alert.key)}
        actions = [("Acknowledge", {"action": "acknowledge", **about})]
        if silence and silence["action"] == ACKNOWLEDGED:
            actions = []
        actions.append((f"Mute until {until}", {"action": "mute", **about, "partition": until}))
        notified_on = {
            (delivery.recipient, delivery.outcome): partition
            for partition in alert.partitions
            for delivery in sent.get(partition, ())
            if alert.key in delivery.alerts
        }
        rows.append(
            {
                "check": alert.check,
                "subject": alert.subject,
                "note": alert.note,
                "since": alert.partitions[0],
                "partitions": len(alert.partitions),
                "notified": [(*pair, partition) for pair, partition in sorted(notified_on.items())],
                "silence": silence,
                "actions": actions,
            }
        )
    silences = [{**row, "alert": alert_name(row["check"], row["subject"])} for row in log.silences[::-1]]
    return {
        "newest": newest,
        "alerts": rows,
        "silences": silences[:MAX_SILENCES],
        "total": len(silences),
        "recipients": spec.alerts.to,
    }
