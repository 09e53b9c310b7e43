"""The base of all operators: the run's partition, the lake, final errors, log fields and XCom references."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
    DagRunTriggerException,
)
from structlog.contextvars import bind_contextvars

from evergreen import lineage
from evergreen.assets import product
from evergreen.links import OverviewLink, PageLink, absolute_url
from evergreen.run_note import REFUSAL
from include import errors
from include.environment import Endpoint, use_connections
from include.references import Ref

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from include.spec import UseCase
    from include.storage.lake import Lake


def task_doc(operator: type) -> str:
    """Return an operator's documentation as Markdown, without its parameters."""
    return (inspect.getdoc(operator) or "").partition("\n\n:param")[0].replace("``", "`")


class BaseTaskOperator(BaseOperator):
    """A task that fails without retries on final errors, and logs its result or why it is skipped.

    Airflow shows the operator's docstring as the task's documentation. Mapped tasks get it by ``task_doc``.
    """

    ui_color = "#e3f4e1"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"doc_md": task_doc(type(self)), **kwargs})

    @contextmanager
    def fail_without_retry(self) -> Iterator[None]:
        """Fail the task without retries, with a one-sentence message, if a retry can't help."""
        try:
            yield
        except errors.EvergreenError as error:
            if error.retryable:
                raise
            raise AirflowFailException(str(error)) from error

    def to_xcom(self, ref: Any) -> dict[str, Any]:
        """Log a reference's note, and return the reference for XCom."""
        reference = dict(ref.xcom())
        self.log.info("%s", ref.note)
        self._log_addresses(reference)
        return reference

    def skip_task(self, reason: str) -> NoReturn:
        """Log the reason and skip the task; Airflow's UI doesn't show the text of the exception."""
        self.log.info("Skipped: %s", reason)
        self._log_addresses({})
        raise AirflowSkipException(reason)

    def _log_addresses(self, reference: dict[str, Any]) -> None:
        """Log the URL of each page that the task has a button for."""
        for link in self.operator_extra_links:
            if isinstance(link, PageLink) and (path := link.path(self, reference)):
                self.log.info("%s: %s", link.name, absolute_url(path))


class EvergreenOperator(BaseTaskOperator):
    """A stage of one use case.

    :param usecase: the use case's name; its declaration is read when the task runs.
    """

    operator_extra_links: tuple[BaseOperatorLink, ...] = (OverviewLink(),)

    def __init__(self, *, usecase: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.usecase = usecase
        self.published: list[lineage.Published] = []

    @contextmanager
    def open_use_case(self) -> Iterator[tuple[Lake, UseCase]]:
        """Open the use case's lake and declaration; a final error in the block fails without retries."""
        from include.spec import load
        from include.storage.lake import Lake

        use_connections(connect)
        add_log_fields(usecase=self.usecase)
        with self.fail_without_retry():
            yield Lake(self.usecase), load(self.usecase)

    @contextmanager
    def open_partition(self, context: Context) -> Iterator[tuple[Lake, UseCase, str]]:
        """Do as `open_use_case` does, and yield the run's partition too."""
        from include.storage.schedule import require_schedule

        with self.open_use_case() as (lake, spec):
            partition = partition_of(context, spec)
            require_schedule(lake, spec)
            yield lake, spec, partition

    @contextmanager
    def refusals_noted(self, context: Context) -> Iterator[None]:
        """Log an error of the block and leave it for the run's note; see `evergreen.run_note`."""
        try:
            yield
        except (AirflowFailException, errors.EvergreenError) as error:
            self.log.error("%s", error)
            cause = error.__cause__ or error  # Airflow's pages show the first line of a note
            text = cause.problem_first() if isinstance(cause, errors.EvergreenError) else str(error)
            context["ti"].xcom_push(REFUSAL, text)
            raise

    def retry_before_deadline(self, spec: UseCase, partition: str) -> None:
        """Defer the task by `RETRY_INTERVAL`; return if the scoring deadline comes first."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        from include.ingest.late_sources import next_attempt

        if moment := next_attempt(spec, partition, datetime.now(UTC)):
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute")

    def add_event_metadata(self, context: Context, name: str, lake: Lake, table: str, ref: Ref) -> None:
        """Add partition, rows, digest and the table's version to the event of a product's asset.

        Nothing is added in a DAG where the asset isn't an outlet of this task. OpenLineage gets it too.
        """
        if lineage.is_enabled():
            self.published.append(lineage.describe(lake, name, table, ref))
        asset = product(self.usecase, name)
        if asset in self.outlets:
            context["outlet_events"][asset].extra.update(
                partition=ref.partition, rows=ref.rows, digest=ref.digest, version=lake.version(table)
            )

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage:
        """Return what the task read and wrote; OpenLineage's provider calls this after the task."""
        return lineage.to_openlineage(self.published)


class CheckPartitionOperator(EvergreenOperator):
    """Fail a run that has no partition, or one that the schedule doesn't have, before any other task starts.

    Reads the declaration and the schedule that the lake was built for, and writes nothing.
    """

    def execute(self, context: Context) -> str:
        """Return the partition."""
        with self.open_partition(context) as (_, _, partition):
            return partition


def start_run(dag_id: str, run_id: str, conf: dict[str, Any]) -> NoReturn:
    """Start a run of another DAG and end the task, without waiting; skip the task if there is such a run."""
    raise DagRunTriggerException(
        trigger_dag_id=dag_id,
        dag_run_id=run_id,
        conf=conf,
        logical_date=None,
        reset_dag_run=False,
        skip_when_already_exists=True,
        wait_for_completion=False,
        allowed_states=["success"],
        failed_states=["failed"],
        poke_interval=60,
        deferrable=False,
    )


def partition_of(context: Context, spec: UseCase) -> str:
    """Return the run's partition: the run's own partition key, else the form's field.

    Raises
    ------
    PartitionError
        if there is none, or one that isn't on the schedule or is in the future. A scheduled run is never
        refused, because the scheduler's clock may be ahead of this worker's.
    """
    from include.spec.partition import check_partition, missing_partition

    run_key = context["dag_run"].partition_key
    form_key = context["params"].get("partition") or None
    if run_key and form_key and run_key != form_key:
        raise errors.PartitionError(
            "partition",
            required=f"the run's own, {run_key}",
            found=form_key,
            remedy="leave the form's field empty",
        )
    if not (run_key or form_key):
        raise missing_partition(spec)
    partition = str(run_key or form_key)
    if context["dag_run"].run_type != "scheduled":
        check_partition(spec, partition, datetime.now(UTC))
    spec.clock.decision_time(partition)  # raises for a key that isn't one of the schedule's
    add_log_fields(partition=partition)
    return partition


def add_log_fields(**fields: str) -> None:
    """Add fields to every line that the task logs from now on, as keys of its JSON."""
    bind_contextvars(**fields)


def log_champion(lake: Lake, partition: str) -> None:
    """Add the version of the champion that serves a partition, if any, to every line of the task's log."""
    from include.promote import ledger

    if champion := ledger.serving(lake, partition).champion:
        add_log_fields(model_version=str(champion["version"]))


def connect(name: str) -> Endpoint:
    """Return an endpoint from Airflow's connections, from any of its secrets backends.

    Raises
    ------
    SettingError
        when there is none of this name.
    """
    from airflow.sdk import Connection

    try:
        connection = Connection.get(name)
    except AirflowNotFoundException:
        raise errors.SettingError(
            f"connection {name}",
            required="a connection in Airflow",
            found="none",
            remedy=f"add it under Admin, Connections, or as AIRFLOW_CONN_{name.upper()}",
        ) from None
    return Endpoint(
        name=name,
        uri=str(connection.host or "").rstrip("/"),
        login=connection.login or "",
        password=connection.password or "",
        extra=dict(connection.extra_dejson),
        kind=str(connection.conn_type or ""),
    )
