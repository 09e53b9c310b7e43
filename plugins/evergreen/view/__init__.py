"""The pages beside the DAGs, for a person who writes no code: read-only, and behind Airflow's own login."""
