"""An auth manager whose user `sales` may read one use case's DAGs only, as Airflow's FAB roles allow.

It fails on a name that PostgreSQL, where Airflow looks DAGs up, would fail on: the tests' SQLite takes any.
"""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser


class Narrow(SimpleAuthManager):
    """Airflow's simple one in everything else."""

    def is_authorized_dag(
        self, *, user: SimpleAuthManagerUser, details: DagDetails | None = None, **asked: Any
    ) -> bool:
        """Refuse `sales` every DAG but those of weekly_sales."""
        if details and details.id and "\0" in details.id:
            raise ValueError("A string literal cannot contain NUL (0x00) characters.")
        mine = bool(details and details.id and details.id.startswith("weekly_sales__"))
        allowed: bool = super().is_authorized_dag(user=user, details=details, **asked)
        return allowed and (user.username != "sales" or mine)
