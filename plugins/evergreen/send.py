"""Send a message to one connection: a webhook, Slack's, or a mail server by Airflow's own notifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from evergreen.operators.base import connect

if TYPE_CHECKING:
    from include.environment import Endpoint
    from include.monitor.alerts import Message


def sender(context: Any) -> Callable[[str, Message], None]:
    """Return what sends a message to the connection of a name, or raises."""

    def send(name: str, said: Message) -> None:
        from include.monitor.alerts import post_webhook

        endpoint = connect(name)
        if endpoint.kind == "smtp":
            _mail(endpoint, said, context)
        else:
            post_webhook(endpoint, said, slack=endpoint.kind.startswith("slack"))

    return send


def _mail(endpoint: Endpoint, said: Message, context: Any) -> None:
    """Send a message by Airflow's own notifier; the connection's extra says from_email and to."""
    from html import escape

    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    from include.errors import SettingError
    from include.monitor.alerts import message_lines

    if not endpoint.extra.get("to"):
        raise SettingError(
            f"connection {endpoint.name}",
            required='"to" and "from_email" in its extra',
            found="none",
            remedy='as {"from_email": "evergreen@example.org", "to": "team@example.org"}',
        )
    text = "<br>".join(escape(line) for line in message_lines(said))
    notifier = SmtpNotifier(
        to=endpoint.extra["to"], subject=said["sentence"][:200], html_content=text, smtp_conn_id=endpoint.name
    )
    notifier.notify(context)
