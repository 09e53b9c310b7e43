"""Links on a task to the page of its result: overview, drift report, verdict report, MLflow run.

The worker computes a link after `execute` and stores it as an XCom. So a link takes a few milliseconds and
shows the result of that try. A failed task has no link.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

from airflow.sdk import BaseOperatorLink, conf

from include.environment import setting
from include.reports.paths import drift_report_path, page_path

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

PREFIX = "/evergreen"  # relative to Airflow's own address


def address(path: str) -> str:
    """Return the path of one of Evergreen's pages, without a host: a browser may use any of Airflow's."""
    return _root() + PREFIX + path


def inside(path: str) -> str:
    """Return the path of a page inside Airflow's own frame, with its navigation."""
    return f"{_root()}/plugin/evergreen{address(path)}"


def report_address(usecase: str, partition: str) -> str:
    """Return the URL of a partition's report, for messages outside Airflow."""
    return absolute_url(_report(usecase, partition))


def usecase_address(usecase: str) -> str:
    """Return the URL of a use case's page, for messages outside Airflow."""
    return absolute_url(_usecase(usecase))


def runs_path(dag: str, partition: str) -> str:
    """Return the path of Airflow's own list of a DAG's runs of a partition."""
    return f"{_root()}/dags/{quote(dag)}/runs?partition_key_pattern={quote(partition)}"


def absolute_url(path: str) -> str:
    """Return the URL of a path on Airflow's server, or the path if api.base_url isn't configured."""
    return urljoin(conf.get("api", "base_url", fallback=""), path)


def verdict_page(usecase: str, partition: str, attempt: str) -> str:
    """Return the path of the page of an attempt's verdict, by the attempt's key."""
    return inside(f"/report/{quote(usecase)}/{quote(page_path(partition, attempt))}")


def description_links(
    usecase: str, partition: str, attempt: str, dag_id: str, run_id: str
) -> list[tuple[str, str]]:
    """Return label and URL of a verdict's page and of a run, for descriptions outside Airflow.

    None, if api.base_url isn't configured.
    """
    paths = [
        ("Verdict page", verdict_page(usecase, partition, attempt)),
        ("Airflow run", f"{_root()}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"),
    ]
    urls = [(label, absolute_url(path)) for label, path in paths]
    return [(label, url) for label, url in urls if url.startswith("http")]


def _usecase(usecase: str) -> str:
    return inside(f"/usecase/{quote(usecase)}")


def _report(usecase: str, partition: str) -> str:
    return inside(f"/report/{quote(usecase)}/{quote(drift_report_path(partition))}")


def _root() -> str:
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")


def _return_value(ti_key: TaskInstanceKey) -> dict[str, Any]:
    """Return the reference that the task returned; empty if it failed."""
    # the worker passes the task instance itself; reading the XCom of a failed one would end its log with a
    # second, misleading error
    if getattr(ti_key, "state", "success") != "success":
        return {}
    from airflow.sdk.execution_time.xcom import XCom  # importing it loads the XCom backend

    value = XCom.get_value(ti_key=ti_key, key="return_value")
    return value if isinstance(value, dict) else {}


class PageLink(BaseOperatorLink):
    """A button that leads to a page; Airflow shows it under *Details*, so the log has the URL too."""

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the path of the page, "" if there is none; ``returned`` is the task's reference."""
        raise NotImplementedError

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the path of the page of the task's result."""
        return self.path(operator, _return_value(ti_key))


class OverviewLink(PageLink):
    """To the use case's page: the champion, the last partitions, the last attempts."""

    name = "Overview"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the path of the page, which is the same whatever the task returned."""
        return self.path(operator, {})

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the page of the operator's use case."""
        return _usecase(operator.usecase)  # type: ignore[attr-defined]  # Evergreen's operators


class ReportLink(PageLink):
    """From a monitor task to Evidently's report of its partition."""

    name = "Drift report"

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the path of the report, "" if there is none."""
        partition = returned.get("partition")
        usecase = operator.usecase  # type: ignore[attr-defined]  # Evergreen's operators have it
        return _report(usecase, partition) if partition else ""


class VerdictLink(PageLink):
    """From a judge or promote task to the page on the verdict's evidence."""

    name = "Verdict report"

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the page of the task's verdict, an input or its result; "" if there is none."""
        verdict = getattr(operator, "verdict", None)
        if not isinstance(verdict, dict):
            verdict = returned
        if not verdict:
            return ""
        usecase = operator.usecase  # type: ignore[attr-defined]  # Evergreen's operators have it
        return verdict_page(usecase, verdict["partition"], verdict["id"])


class MlflowLink(PageLink):
    """From a train task to its run in MLflow, at the address of ``EVERGREEN_MLFLOW_UI``."""

    name = "MLflow run"

    def path(self, operator: BaseOperator, returned: Mapping[str, Any]) -> str:
        """Return the URL of the run, "" without a run or an address."""
        run, ui = returned.get("id"), setting("EVERGREEN_MLFLOW_UI", "").rstrip("/")
        return f"{ui}/#/runs/{quote(run)}" if run and ui else ""
