"""How alerts are sent: each recipient is an Airflow connection, whose type selects the channel.

To add a channel, write a function that sends a message to an endpoint, and name it as ``module:name`` under
``alerts.channels``; or add one line to `CHANNELS` in `include.monitor.alerts`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any

from evergreen.operators.base import connect

if TYPE_CHECKING:
    from include.environment import Endpoint
    from include.monitor.alerts import Key, Message
    from include.spec import UseCase
    from include.storage.lake import Lake


def send_mail(endpoint: Endpoint, message: Message, context: Any) -> None:
    """Send a message by Airflow's own notifier; the connection's extra has ``from_email`` and ``to``."""
    from html import escape

    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    from include.errors import SettingError
    from include.monitor.alerts import MAIL_EXTRA, message_lines

    if missing := [key for key in MAIL_EXTRA if not endpoint.extra.get(key)]:
        raise SettingError(
            f"connection {endpoint.name}",
            required='"to" and "from_email" in its extra',
            found=f'no "{missing[0]}"',
            remedy='set the extra to {"from_email": "evergreen@example.org", "to": "team@example.org"}',
        )
    notifier = SmtpNotifier(
        to=endpoint.extra["to"],
        subject=message["sentence"][:200],
        html_content="<br>".join(escape(line) for line in message_lines(message)),
        smtp_conn_id=endpoint.name,
    )
    notifier.notify(context)


def notify(
    lake: Lake, spec: UseCase, message: Message, context: Any, silenced: Collection[Key] = ()
) -> tuple[str, list[str]]:
    """Send a message to `alerts.to`; return what came of it, and the recipients that weren't reached.

    :param context: of the task or callback that sends.
    :param silenced: check and subject of the findings to leave out.
    """
    from include.monitor import alerts

    if not spec.alerts.to:
        return f"{message['sentence']}; no recipients are declared under alerts.to", []
    results = alerts.send_alerts(lake, message, spec.alerts.to, sender(context, spec), silenced)
    sent = [f"{name}: {result}" for name, result in results.items()]
    missed = [name for name, result in results.items() if result.status == "failed"]
    return "; ".join([message["sentence"], *sent]), missed


def sender(context: Any, spec: UseCase | None = None) -> Callable[[str, Message], None]:
    """Return a function that sends a message to a connection by name, or raises.

    :param context: of the task or callback that sends.
    :param spec: the use case, which may have channels of its own.
    """

    def send(name: str, message: Message) -> None:
        from include.monitor.alerts import CHANNELS, own_channel

        endpoint = connect(name)
        if code := own_channel(spec, endpoint):
            required = "a function that sends a message to an endpoint"
            code.call(required, code.load(), endpoint, message, context, has_secrets=True)
        else:
            module, _, function = CHANNELS[endpoint.kind].partition(":")
            getattr(import_module(module), function)(endpoint, message, context)

    return send
