"""A use case's own alert channel sends to the recipients for which it is declared."""

from __future__ import annotations

import json
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from evergreen.alert_channels import sender
from include import extensions
from include.errors import SpecError
from include.monitor.alerts import CHANNELS, send_alerts
from include.storage.lake import Lake
from tests.extensions.conftest import Declare

OLD = "scoring: {"
OWN = {OLD: 'alerts: {to: [chat, hook], channels: {chat: "channels:send"}}\nscoring: {'}
CHANNEL = """
from pathlib import Path


def send(endpoint, message, context):
    Path(endpoint.extra["file"]).write_text(f"{endpoint.password}: {message['sentence']}")
"""
MESSAGE = {"usecase": "missed_visits", "partition": "2024-03-01", "decision": "alert", "sentence": "Look.",
           "findings": [], "report": ""}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the recipient's messages arrive."""
    connection = {
        "conn_type": "pager",
        "password": "hunter2hunter2",
        "extra": {"file": str(tmp_path / "sent")},
    }
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_CONN_HOOK", json.dumps({"conn_type": "pager"}))
    return tmp_path / "sent"


def test_a_recipient_is_sent_to_by_its_own_channel(declare: Declare, file: Path, tmp_path: Path) -> None:
    """The others are sent to by their connection's type, of which there is none here."""
    spec = declare(OWN, channels=CHANNEL)
    lake = Lake(spec.name, str(tmp_path / "lake"))
    outcomes = send_alerts(lake, MESSAGE, spec.alerts.to, sender({}, spec))
    assert file.read_text() == "hunter2hunter2: Look."
    assert outcomes["chat"].status == "sent"
    assert (
        "expected a connection of type http, slackwebhook, smtp, but found type pager"
        in outcomes["hook"].reason
    )


def test_a_failure_shows_its_line_and_no_secret(declare: Declare, file: Path, tmp_path: Path) -> None:
    """Only the type of what the channel raises is in the outcome, which is logged."""
    spec = declare(OWN, channels=CHANNEL + "    raise ValueError(endpoint.password)\n")
    outcome = send_alerts(Lake(spec.name, str(tmp_path)), MESSAGE, ["chat"], sender({}, spec))["chat"]
    assert "failed: missed_visits: alerts.channels.chat: expected" in str(outcome)
    assert f"found ValueError ({spec.folder}/channels.py:7)" in outcome.reason
    assert "hunter2" not in outcome.reason


def test_a_package_registers_a_type_of_connection(
    declare: Declare, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry point's name is the type; a type that is built in stays so."""
    names = {"pager": "channels:send", "http": "nothing:there"}
    monkeypatch.setattr(extensions, "registered", lambda kind: names)
    monkeypatch.setattr("include.spec.usecase.registered", lambda kind: names)
    spec = declare({OLD: "alerts: {to: [chat]}\nscoring: {"}, channels=CHANNEL)
    sender({}, spec)("chat", MESSAGE)
    assert file.read_text() == "hunter2hunter2: Look."


@pytest.mark.parametrize("kind", CHANNELS)
def test_each_built_in_type_has_a_function_that_sends(kind: str) -> None:
    """It takes the endpoint, the message and the context of what sends."""
    module, _, name = CHANNELS[kind].partition(":")
    assert list(signature(getattr(import_module(module), name)).parameters) == [
        "endpoint",
        "message",
        "context",
    ]


def test_a_channel_is_of_a_recipient_and_of_no_digest(declare: Declare) -> None:
    """No result depends on it; one for somebody who isn't notified is a mistake."""
    before = declare().digest
    assert declare(OWN, channels=CHANNEL).digest == before
    with pytest.raises(SpecError, match=r"'desk' is none of the recipients under to: chat, hook"):
        declare({OLD: OWN[OLD].replace("{chat:", "{desk:")})


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({OLD: OWN[OLD].replace("channels:send", "pager_duty")}, "alerts.channels.chat"),
        ({"objective: log_loss,": "objective: log_loss, checks: [enough_rows],"}, "gate.checks"),
        ({"lookback: 0,": "lookback: 0, python: build,"}, "features.python"),
    ],
)
def test_a_plain_name_that_nobody_registered_is_refused(
    declare: Declare, changes: dict[str, str], path: str
) -> None:
    """It would otherwise be left out in silence."""
    with pytest.raises(
        SpecError, match=rf"{path}: '\w+' is neither code as module:name nor a name that an inst"
    ):
        declare(changes)
