"""A task's connections come from Airflow: to a source, or to where alerts go."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from evergreen.alert_channels import sender
from evergreen.operators.base import BaseTaskOperator, connect
from include.errors import SettingError


def test_a_missing_connection_fails_at_once_and_says_where_to_declare_it() -> None:
    """Another try finds none either."""
    wanted = (
        "connection shop_of_nobody: expected a connection in Airflow, but found none; "
        ".*AIRFLOW_CONN_SHOP_OF_NOBODY"
    )
    with (
        pytest.raises(AirflowFailException, match=wanted),
        BaseTaskOperator(task_id="t").fail_without_retry(),
    ):
        connect("shop_of_nobody")


def test_alerts_to_a_missing_connection_say_where_to_declare_it() -> None:
    """As a source's do, and not in Airflow's own words."""
    with pytest.raises(SettingError, match=r"connection duty_of_nobody: .*AIRFLOW_CONN_DUTY_OF_NOBODY"):
        sender({})("duty_of_nobody", {"sentence": "An alarm."})
