"""Upkeep: a backup, then what grows is laid together and what nothing refers to goes; no row changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.base import EvergreenOperator, StoreOperator, backed_up, connect
from include.errors import SettingError
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context

# a task is barred from Airflow's database; the tool isn't
GC = "from mlflow.cli import cli; cli(auto_envvar_prefix='MLFLOW')"
BARRED = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "_AIRFLOW_PROCESS_CONTEXT")


class BackUpOperator(StoreOperator):
    """Copy every use case's lake, and the databases that there are connections to, to ``EVERGREEN_BACKUP``.

    Without that setting the task is skipped, and what comes after it runs all the same.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the place; its note names the backup, and what isn't in it."""
        from include.spec import names
        from include.storage.lake import Lake

        skip_without_a_place(self)
        with self.one_try():
            lakes = [lake for name in names() if (lake := Lake(name)).tables()]
            return self.handed(backed_up(lakes))


class PruneOperator(StoreOperator):
    """Read the newest of everything, then remove those beyond the newest ``EVERGREEN_BACKUPS_KEPT``."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the place; its note names what is gone, and says how many stay."""
        from include.ops.backup_store import KEPT, backups_to_keep, open_store
        from include.ops.prune import prune

        skip_without_a_place(self)
        with self.one_try():
            kept, keep = open_store(), backups_to_keep()
            if not keep:
                self.skip_task(f"{KEPT} is 0: every backup stays")
            done = prune(kept, keep)
            return self.handed(Ref(kept.uri, "all", rows=done.objects, note=done.note))


def skip_without_a_place(task: StoreOperator) -> None:
    """Skip the task where nobody said where backups go."""
    from include.ops.backup_store import address

    try:
        address()
    except SettingError as error:
        task.skip_task(f"nothing is backed up: {error}")


class TidyOperator(EvergreenOperator):
    """Lay the small files of a use case's tables together, and remove those that were replaced long ago."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the tables; its note says how many files there were and are."""
        from include.models.registry import Registry
        from include.ops.upkeep import maintain_tables

        lake, _ = self.open()
        with self.one_try():
            return self.handed(maintain_tables(lake, Registry()))


class PurgeOperator(StoreOperator):
    """Let Airflow or MLflow delete what is older than some days, by its own command.

    :param tool: ``airflow`` deletes runs and their logs' rows, ``mlflow`` what was deleted there before.
    :param days: what is younger stays.
    :param connection: with the address of the tool's database as its host; without it the task is skipped.
    """

    def __init__(self, *, tool: str, days: int, connection: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tool, self.days, self.connection = tool, days, connection

    def execute(self, context: Context) -> None:
        """Run the command; what it says is in the log."""
        from include.ops.backup import database_address as address_of

        try:
            found = connect(self.connection)
        except SettingError:
            self.skip_task(
                f"no connection {self.connection}: declare one with the database's address as its host, "
                f"or run `{' '.join(self.command()[2:])}` where that database can be reached"
            )
        address = address_of(found).render_as_string(hide_password=False)
        done = subprocess.run(  # noqa: S603  # our own words and a date, no shell
            self.command(), env=self.environment(address), text=True, capture_output=True, check=False
        )
        for line in (done.stdout + done.stderr).splitlines():
            self.log.info("%s", line.replace(address, "…"))
        if done.returncode:
            raise AirflowFailException(f"{self.tool} ended with {done.returncode}: the log has why")

    def command(self) -> Sequence[str]:
        """Return the words of the command."""
        if self.tool == "mlflow":
            # which takes the address as an option alone, and others can read a process's words
            return [sys.executable, "-c", GC, "gc", "--older-than", f"{self.days}d"]
        before = (datetime.now(UTC) - timedelta(days=self.days)).isoformat(timespec="seconds")
        words = ["airflow", "db", "clean", "--clean-before-timestamp", before, "--skip-archive", "--yes"]
        return [sys.executable, "-m", *words, "--error-on-cleanup-failure"]

    def environment(self, address: str) -> dict[str, str]:
        """Return the command's environment; the address is in no command line, which others can read."""
        own = {name: value for name, value in os.environ.items() if name not in BARRED}
        name = (
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" if self.tool == "airflow" else "MLFLOW_GC_BACKEND_STORE_URI"
        )
        return {**own, name: address}
