"""The pages in Airflow's UI, for people who don't write code: read-only, behind Airflow's login."""
