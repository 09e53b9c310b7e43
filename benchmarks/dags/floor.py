"""A partition's shape with nothing in it.

What Airflow itself takes, beside which a real partition is measured.
"""

from datetime import datetime

from airflow.sdk import DAG, BaseOperator

SOURCES = 4  # as many as flight_delay has


class Nothing(BaseOperator):
    """A task that a worker runs and that does nothing; Airflow's EmptyOperator never reaches a worker."""

    def execute(self, context: object) -> None:
        """Do nothing."""


with DAG("floor", schedule=None, start_date=datetime(2013, 1, 1), max_active_runs=4) as dag:
    ingest = [Nothing(task_id=f"ingest_{number}") for number in range(SOURCES)]
    (
        ingest
        >> Nothing(task_id="score")
        >> Nothing(task_id="monitor")
        >> [Nothing(task_id="request_training"), Nothing(task_id="alert")]
    )
