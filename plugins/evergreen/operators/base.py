"""What every operator shares: the partition of its run, the store, and the sentence that a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException
from structlog.contextvars import bind_contextvars

from evergreen.links import OverviewLink, PageLink, whole
from include import errors
from include.environment import Endpoint
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.spec import UseCase
    from include.storage.lake import Lake

# another try at the same bytes or decision gives the same answer: Airflow's retries are for the rest
FINAL = (
    errors.SpecError,
    errors.PartitionError,
    errors.PartitionRefused,
    errors.NotPublished,
    errors.MissingMetric,
    errors.ModelError,
    errors.BackupError,
    errors.SettingError,
)


class StoreOperator(BaseOperator):
    """A task that fails for good where another try can't help, and logs what it hands on or why it skips."""

    ui_color = "#e3f4e1"

    @contextmanager
    def one_try(self) -> Iterator[None]:
        """Fail for good, in one sentence, where another try can't help."""
        try:
            yield
        except FINAL as error:
            raise AirflowFailException(str(error)) from error

    def handed(self, ref: Any) -> dict[str, Any]:
        """Log a reference's sentence and return it for XCom."""
        reference = dict(ref.xcom())
        self.log.info("%s", ref.note)
        self._log_addresses(reference)
        return reference

    def skip_task(self, reason: str) -> NoReturn:
        """Log why, and skip: of the exception's own text Airflow's UI shows nothing."""
        self.log.info("Skipped: %s", reason)
        self._log_addresses({})
        raise AirflowSkipException(reason)

    def _log_addresses(self, reference: dict[str, Any]) -> None:
        """Log the whole address of each page that the task has a button for."""
        for link in self.operator_extra_links:
            if isinstance(link, PageLink) and (path := link.path(self, reference)):
                self.log.info("%s: %s", link.name, whole(path))


class EvergreenOperator(StoreOperator):
    """A stage of one use case.

    :param usecase: its name; the declaration is read when the task runs.
    """

    operator_extra_links: tuple[BaseOperatorLink, ...] = (OverviewLink(),)

    def __init__(self, *, usecase: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.usecase = usecase

    def open(self) -> tuple[Lake, UseCase]:
        """Return the use case's store and its declaration."""
        from include.spec import load
        from include.storage.lake import Lake

        carry(usecase=self.usecase)
        return Lake(self.usecase), load(self.usecase)


def partition_of(context: Context, spec: UseCase) -> str:
    """Return the run's partition: the one it was scheduled or backfilled for, else the form's field.

    Raises
    ------
    PartitionError
        for none, and for one that the schedule hasn't had by now. A scheduled run is never refused: the
        scheduler's clock may be ahead of this worker's.
    """
    from include.spec.partition import check_partition

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
        raise errors.PartitionError(
            "partition",
            required="the partition this run is for",
            found="none",
            remedy="trigger again and fill in Partition, as 2013-03-01",
        )
    partition = str(run_key or form_key)
    if context["dag_run"].run_type != "scheduled":
        check_partition(spec, partition, datetime.now(UTC))
    carry(partition=partition)
    return partition


def carry(**what: str) -> None:
    """Have every line that the task logs from now on carry this, as a key of its JSON."""
    bind_contextvars(**what)


def carry_champion(lake: Lake, partition: str) -> None:
    """Have every line of the log carry the version of the champion that serves a partition.

    If there is one.
    """
    from include.promote import ledger

    if champion := ledger.serving(lake, partition).champion:
        carry(model_version=str(champion["version"]))


def connect(name: str) -> Endpoint:
    """Return a source's endpoint from Airflow's connections, wherever Airflow keeps them.

    Raises
    ------
    SettingError
        when there is none of this name.
    """
    from airflow.sdk import Connection

    try:
        found = Connection.get(name)
    except AirflowNotFoundException:
        raise errors.SettingError(
            f"connection {name}",
            required="one in Airflow",
            found="none",
            remedy=f"declare it under Admin, Connections, or as AIRFLOW_CONN_{name.upper()}",
        ) from None
    return Endpoint(
        name=name,
        uri=str(found.host or "").rstrip("/"),
        login=found.login or "",
        password=found.password or "",
        extra=dict(found.extra_dejson),
        kind=str(found.conn_type or ""),
    )


def backed_up(lakes: Sequence[Lake]) -> Ref:
    """Back lakes up, and return the place's reference; its note names the backup, and what isn't in it."""
    from include.environment import setting
    from include.ops.backup import ARTIFACTS, backup
    from include.ops.backup_store import open_store

    kept, now = open_store(), datetime.now(UTC)
    done = backup(lakes, kept, now=now, connect=connect, artifacts=setting(ARTIFACTS, ""))
    if done.failed:
        raise AirflowFailException(done.note)
    return Ref(kept.uri, "all", rows=done.copied, note=done.note)
