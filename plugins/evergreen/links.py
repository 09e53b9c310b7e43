"""A button on a task that leads to what the task made, so that nobody has to know an address.

The worker asks for a link after `execute` and keeps it as an XCom, so a link costs the partition a few
milliseconds and what it shows is what that try made. A failed task has nothing to show: no button.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from airflow.sdk import BaseOperatorLink, conf

from include.environment import setting
from include.reports.paths import page_place

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

PREFIX = "/evergreen"  # below Airflow's own address


def address(path: str) -> str:
    """Return the path of one of Evergreen's pages, the same on whatever host a browser reached Airflow by."""
    return _root() + PREFIX + path


def inside(path: str) -> str:
    """Return the path of a page shown inside Airflow's own frame, with its navigation beside it."""
    return f"{_root()}/plugin/evergreen{address(path)}"


def report_address(usecase: str, partition: str) -> str:
    """Return the whole address of a partition's report, for those who aren't in Airflow."""
    return whole(_report(usecase, partition))


def usecase_address(usecase: str) -> str:
    """Return the whole address of a use case's page, for those who aren't in Airflow."""
    return whole(_usecase(usecase))


def whole(path: str) -> str:
    """Return the whole address of a path on Airflow's server, or the path where none is configured."""
    return urljoin(conf.get("api", "base_url", fallback=""), path)


def _usecase(usecase: str) -> str:
    return inside(f"/usecase/{quote(usecase)}")


def _report(usecase: str, partition: str) -> str:
    return inside(f"/report/{quote(usecase)}/monitor/{quote(partition)}.html")


def _root() -> str:
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


def _returned(ti_key: TaskInstanceKey) -> dict[str, Any]:
    """Return the reference that the task returned, or nothing where it failed."""
    # the worker hands over the task instance itself; asking for what a failed one returned would end its log
    # with a second, misleading error
    if getattr(ti_key, "state", "success") != "success":
        return {}
    from airflow.sdk.execution_time.xcom import XCom  # importing it asks for the XCom backend

    value = XCom.get_value(ti_key=ti_key, key="return_value")
    return value if isinstance(value, dict) else {}


class PageLink(BaseOperatorLink):
    """A button to a page; a task's log has its address too, as Airflow shows buttons under *Details*."""

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the path of the page, empty while there is none; ``returned`` is the task's reference."""
        raise NotImplementedError

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of what the task returned."""
        return self.path(operator, _returned(ti_key))


class OverviewLink(PageLink):
    """To the use case's page: who is champion and why, the last partitions, the last attempts."""

    name = "Overview"

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the page of the operator's use case."""
        return _usecase(operator.usecase)  # type: ignore[attr-defined]  # Evergreen's operators


class ReportLink(PageLink):
    """From a monitor task to Evidently's report of its partition."""

    name = "Drift report"

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the report's page, empty while there is none."""
        partition = returned.get("partition")
        usecase = operator.usecase  # type: ignore[attr-defined]  # Evergreen's operators have it
        return _report(usecase, partition) if partition else ""


class VerdictLink(PageLink):
    """From a judge or promote task to the page on what the verdict rests on."""

    name = "Verdict report"

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the page of the verdict that the task gave, or was given; empty while there is none."""
        verdict = getattr(operator, "verdict", None)
        if not isinstance(verdict, dict):
            verdict = returned
        if not verdict:
            return ""
        usecase = operator.usecase  # type: ignore[attr-defined]  # Evergreen's operators have it
        path = page_place(verdict["partition"], verdict["uri"])
        return inside(f"/report/{quote(usecase)}/{quote(path)}")


class MlflowLink(PageLink):
    """From a train task to its run in MLflow, at the address of ``EVERGREEN_MLFLOW_UI``."""

    name = "MLflow run"

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the run's page, empty where there is no run or no address."""
        run, ui = returned.get("uri"), setting("EVERGREEN_MLFLOW_UI", "").rstrip("/")
        return f"{ui}/#/runs/{quote(run)}" if run and ui else ""
