"""Evergreen's side of Airflow: operators that call `include/`, links, and the pages next to the DAGs."""
