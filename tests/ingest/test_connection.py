"""A task's connection to a source comes from Airflow."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.base import StoreOperator, connect


def test_a_missing_connection_fails_at_once_and_says_where_to_declare_it() -> None:
    """Another try finds none either."""
    wanted = "connection shop_of_nobody: required one in Airflow, found none; .*AIRFLOW_CONN_SHOP_OF_NOBODY"
    with pytest.raises(AirflowFailException, match=wanted), StoreOperator(task_id="t").one_try():
        connect("shop_of_nobody")
