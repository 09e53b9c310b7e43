"""Where and as whom comes from the environment, and a secret never leaves it in a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from include import environment
from include.errors import SettingError

SECRET = "hunter2-not-to-be-seen"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell has set is none of these tests' business."""
    for name in ("LAKE", "CODE", "HOME", "USECASES"):
        monkeypatch.delenv(f"EVERGREEN_{name}", raising=False)


def test_an_endpoint_is_read_from_airflows_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host holds the whole address; extra may be an object or JSON in a string, as Airflow exports it."""
    for extra in ({"region": "x"}, '{"region": "x"}'):
        value = {"host": "https://api.example.org/v1/", "login": "me", "password": SECRET, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_API", json.dumps(value))
        found = environment.endpoint("api")
        assert (found.uri, found.login, found.password) == ("https://api.example.org/v1", "me", SECRET)
        assert found.extra == {"region": "x"}


def test_an_endpoint_prints_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the password nor what extra holds can be seen in a log."""
    value = {"host": "h", "password": SECRET, "extra": {"token": SECRET}}
    monkeypatch.setenv("AIRFLOW_CONN_API", json.dumps(value))
    found = environment.endpoint("api")
    assert SECRET not in f"{found} {found!r}"
    assert "api" in repr(found)


@pytest.mark.parametrize(
    "value",
    [
        f"https://me:{SECRET}@host",
        f'{{"password": "{SECRET}"}}',
        f'["{SECRET}"]',
        f'"{SECRET}"',
        "null",
        f'{{"host": "h", "extra": "{SECRET}"}}',
        f'{{"host": "h", "extra": ["{SECRET}"]}}',
    ],
)
def test_a_bad_connection_is_refused_without_showing_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read is named by its variable; its content, and its cause, stay out of the message."""
    monkeypatch.setenv("AIRFLOW_CONN_API", value)
    with pytest.raises(SettingError) as caught:
        environment.endpoint("api")
    assert "AIRFLOW_CONN_API" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_connection_may_be_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka's has its servers in the extra, as Airflow's provider wants them, and no host."""
    value = {"conn_type": "kafka", "extra": {"bootstrap.servers": "kafka:9092"}}
    monkeypatch.setenv("AIRFLOW_CONN_API", json.dumps(value))
    endpoint = environment.endpoint("api")
    assert (endpoint.uri, endpoint.extra) == ("", value["extra"])


def test_a_missing_connection_is_refused_by_its_variable() -> None:
    """The error names the variable that would give it."""
    with pytest.raises(SettingError, match="AIRFLOW_CONN_NOT_THERE"):
        environment.endpoint("not_there")


def test_a_missing_setting_says_what_sets_it() -> None:
    """Without a lake the error says how to get one."""
    with pytest.raises(SettingError, match=r"EVERGREEN_LAKE.*python -m include doctor"):
        environment.lake_uri()


def test_settings_have_their_forms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lake has no slash at its end, home is absolute, and code that nobody named is unknown."""
    monkeypatch.setenv("EVERGREEN_LAKE", "s3://lake/")
    monkeypatch.chdir(tmp_path)
    assert environment.lake_uri() == "s3://lake"
    assert environment.home() == tmp_path / ".evergreen"
    assert environment.code_version() == "unknown"
