"""Once a week small files are laid together and what nothing refers to any more is removed: no row changes.

When: Sundays at 05:00 UTC, or by hand.
Changes: the files of each use case's tables; in Airflow's database, runs of more than a year ago; in that of
MLflow what was deleted a month ago. The last two need a connection to it, and are skipped without one.
If it is red: nothing was lost; the log says what could not be reached. The nights go on, a little slower.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG

from evergreen.defaults import TASK
from evergreen.operators.upkeep import PurgeOperator, TidyOperator
from include.spec import read_all

with DAG(
    "evergreen__upkeep",
    schedule="0 5 * * 0",
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=["scheduled", "manual"],  # type: ignore[list-item]  # by name; no past is made up for
    default_args=TASK,
    tags=["evergreen", "upkeep"],
    doc_md=__doc__,
):
    TidyOperator.partial(
        task_id="tidy", map_index_template="{{ task.usecase }}", max_active_tis_per_dag=1
    ).expand(usecase=[use_case.name for use_case in read_all()[0]])
    PurgeOperator(task_id="purge_airflow", tool="airflow", days=365, connection="evergreen_airflow_db")
    PurgeOperator(task_id="purge_mlflow", tool="mlflow", days=30, connection="evergreen_mlflow_db")
