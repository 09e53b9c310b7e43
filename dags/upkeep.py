"""Once a week all is backed up, small files are laid together, what nothing refers to goes: no row changes.

When: Sundays at 05:00 UTC, or by hand.
Changes: `back_up` adds what is new to EVERGREEN_BACKUP, and is skipped where that isn't set; `prune_backups`
reads the newest of everything and removes those beyond EVERGREEN_BACKUPS_KEPT (8). `tidy`: the files of
each use case's tables. The purges: runs of more than a year ago in Airflow's database, and what was deleted a
month ago in that of MLflow; without a connection to it they are skipped.
If it is red: nothing was lost; the log says what could not be reached, or which backup is damaged. After a
backup that failed nothing is cleaned. The partitions go on, a little slower.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from evergreen.defaults import TASK
from evergreen.operators.upkeep import BackUpOperator, PruneOperator, PurgeOperator, TidyOperator
from include.spec import read_all

LONG = timedelta(hours=12)  # the first backup copies everything

with DAG(
    "evergreen__upkeep",
    schedule="0 5 * * 0",
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["scheduled", "manual"],  # type: ignore[list-item]  # by name; no past is made up for
    default_args={**TASK, "trigger_rule": "none_failed"},  # a backup that is skipped holds up nothing
    tags=["evergreen", "upkeep"],
    doc_md=__doc__,
) as dag:
    BackUpOperator(task_id="back_up", execution_timeout=LONG) >> [
        PruneOperator(task_id="prune_backups", execution_timeout=LONG),
        TidyOperator.partial(
            task_id="tidy", map_index_template="{{ task.usecase }}", max_active_tis_per_dag=1
        ).expand(usecase=[use_case.name for use_case in read_all()[0]]),
        PurgeOperator(task_id="purge_airflow", tool="airflow", days=365, connection="evergreen_airflow_db"),
        PurgeOperator(task_id="purge_mlflow", tool="mlflow", days=30, connection="evergreen_mlflow_db"),
    ]
