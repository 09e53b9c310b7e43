"""Back up everything weekly, compact small files, and remove what nothing refers to; no row changes.

## When

Sundays at 05:00 UTC, or by hand.

## Changes

`back_up` adds new objects to EVERGREEN_BACKUP, and is skipped if that isn't set, or before anything was
published. `prune_backups` verifies the newest backups and removes those beyond EVERGREEN_BACKUPS_KEPT (8).
`tidy` compacts and vacuums each use case's tables. The purges delete runs older than a year from Airflow's
database, and what was deleted a month ago from MLflow's; they are skipped without a connection to the
database.

## If it is red

Nothing was lost. The log states what could not be reached, or which backup is damaged. After a failed backup
nothing is removed. Partitions still run, a little slower.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from evergreen.defaults import TASK, summary
from evergreen.operators.base import task_doc
from evergreen.operators.upkeep import BackUpOperator, PruneOperator, PurgeOperator, TidyOperator
from include.spec import read_all

BACKUP_TIMEOUT = timedelta(hours=12)  # the first backup copies everything

with DAG(
    "evergreen__upkeep",
    schedule="0 5 * * 0",
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["scheduled", "manual"],  # type: ignore[list-item]  # names of run types; no backfill of upkeep
    default_args={**TASK, "trigger_rule": "none_failed"},  # a skipped backup blocks nothing
    tags=["evergreen", "upkeep"],
    description=summary(__doc__),
    doc_md=__doc__,
) as dag:
    BackUpOperator(task_id="back_up", execution_timeout=BACKUP_TIMEOUT) >> [
        PruneOperator(task_id="prune_backups", execution_timeout=BACKUP_TIMEOUT),
        TidyOperator.partial(
            task_id="tidy",
            map_index_template="{{ task.usecase }}",
            max_active_tis_per_dag=1,
            doc_md=task_doc(TidyOperator),
        ).expand(usecase=[use_case.name for use_case in read_all()[0]]),
        PurgeOperator(task_id="purge_airflow", tool="airflow", days=365, connection="evergreen_airflow_db"),
        PurgeOperator(task_id="purge_mlflow", tool="mlflow", days=30, connection="evergreen_mlflow_db"),
    ]
