"""The upkeep operators: back up, prune backups, compact and vacuum tables, purge old runs; no row changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.base import BaseTaskOperator, EvergreenOperator, connect
from include.errors import NotPublished, SettingError
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.storage.lake import Lake

MLFLOW_GC = "from mlflow.cli import cli; cli(auto_envvar_prefix='MLFLOW')"
# Airflow keeps tasks out of its database by these; the command needs it
TASK_ONLY = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "_AIRFLOW_PROCESS_CONTEXT")


def back_up(lakes: Sequence[Lake]) -> Ref:
    """Back up lakes; the returned reference's note names the backup and what it lacks."""
    from include.environment import setting
    from include.ops.backup import ARTIFACTS, backup
    from include.ops.backup_store import open_store

    store, now = open_store(), datetime.now(UTC)
    result = backup(lakes, store, now=now, connect=connect, artifacts=setting(ARTIFACTS, ""))
    if result.failed:
        raise AirflowFailException(result.note)
    return Ref(store.uri, "all", rows=result.copied, note=result.note)


class BackUpOperator(BaseTaskOperator):
    """Back up every use case's lake, and the databases that have a connection, to ``EVERGREEN_BACKUP``.

    Without that setting the task is skipped, and the tasks after it still run. It is also skipped while
    nothing was published and nothing was backed up. A lake that is empty after a backup is an error.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Return a reference to the backup store; its note names the backup and what it lacks."""
        from include.ops.backup_store import backup_names, open_store
        from include.spec import names
        from include.storage.lake import Lake

        skip_without_backup_address(self)
        with self.fail_without_retry():
            try:
                return self.to_xcom(back_up([Lake(name) for name in names()]))
            except NotPublished as error:
                if backup_names(open_store()):
                    raise
                self.skip_task(f"nothing is backed up yet: {error}")


class PruneOperator(BaseTaskOperator):
    """Verify the newest backups, then remove those beyond the newest ``EVERGREEN_BACKUPS_KEPT``."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return a reference to the backup store; its note names the removed backups."""
        from include.ops.backup_store import COUNT_SETTING, backup_names, backups_to_keep, open_store
        from include.ops.prune import prune

        skip_without_backup_address(self)
        with self.fail_without_retry():
            store, keep = open_store(), backups_to_keep()
            if not keep:
                self.skip_task(f"{COUNT_SETTING} is 0: every backup stays")
            if not backup_names(store):
                self.skip_task(f"there is no backup yet ({store.uri})")
            result = prune(store, keep)
            return self.to_xcom(Ref(store.uri, "all", rows=result.objects, note=result.note))


def skip_without_backup_address(task: BaseTaskOperator) -> None:
    """Skip the task if the address of the backup store isn't set."""
    from include.ops.backup_store import address

    try:
        address()
    except SettingError as error:
        task.skip_task(f"nothing is backed up: {error}")


class TidyOperator(EvergreenOperator):
    """Compact a use case's small files, and remove those replaced long ago and models that nothing needs."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return a reference to the tables; its note has the numbers of files and models."""
        from include.models.registry import Registry
        from include.ops.upkeep import maintain_tables, remove_models

        with self.open_use_case() as (lake, spec):
            tables = maintain_tables(lake, Registry())
            note = f"{tables.note}; {remove_models(lake, spec)} models that nothing needs were removed"
            return self.to_xcom(replace(tables, note=note))


class PurgeOperator(BaseTaskOperator):
    """Delete old records of Airflow or MLflow, by the tool's own command.

    :param tool: ``airflow`` deletes old runs and their logs' rows, ``mlflow`` purges what was deleted there.
    :param days: records younger than this stay.
    :param connection: has the address of the tool's database as its host; without it the task is skipped.
    """

    def __init__(self, *, tool: str, days: int, connection: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tool, self.days, self.connection = tool, days, connection

    def execute(self, context: Context) -> None:
        """Run the command; its output is in the log."""
        from include.ops.backup import database_address

        try:
            endpoint = connect(self.connection)
        except SettingError:
            self.skip_task(
                f"no connection {self.connection}: add one with the database's address as its host, "
                f"or run `{' '.join(self.command()[2:])}` where that database can be reached"
            )
        address = database_address(endpoint).render_as_string(hide_password=False)
        process = subprocess.run(  # noqa: S603  # a fixed command and a date, no shell
            self.command(), env=self.environment(address), text=True, capture_output=True, check=False
        )
        for line in (process.stdout + process.stderr).splitlines():
            self.log.info("%s", line.replace(address, "…"))
        if process.returncode:
            raise AirflowFailException(f"{self.tool} ended with {process.returncode}; see the log")

    def command(self) -> Sequence[str]:
        """Return the command line."""
        if self.tool == "mlflow":
            # this wrapper reads the address from the environment: other users can read a command line
            return [sys.executable, "-c", MLFLOW_GC, "gc", "--older-than", f"{self.days}d"]
        before = (datetime.now(UTC) - timedelta(days=self.days)).isoformat(timespec="seconds")
        arguments = ["airflow", "db", "clean", "--clean-before-timestamp", before, "--skip-archive", "--yes"]
        return [sys.executable, "-m", *arguments, "--error-on-cleanup-failure"]

    def environment(self, address: str) -> dict[str, str]:
        """Return the command's environment, with the database's address."""
        inherited = {name: value for name, value in os.environ.items() if name not in TASK_ONLY}
        name = (
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" if self.tool == "airflow" else "MLFLOW_GC_BACKEND_STORE_URI"
        )
        return {**inherited, name: address}
