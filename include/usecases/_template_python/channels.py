"""An alert channel: posts the message's lines to a chat."""

from __future__ import annotations

from typing import Any

from include.environment import Endpoint
from include.monitor.alerts import Message, message_lines, post_json


def send(endpoint: Endpoint, message: Message, context: Any) -> None:
    """Send a message to the address of the Airflow connection, or raise."""
    post_json(endpoint, {"text": "\n".join(message_lines(message))})
