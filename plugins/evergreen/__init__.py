"""What Airflow sees of Evergreen: operators that call `include/`, links, and the pages beside the DAGs."""
