-- One database and user per service, so that each password opens only one database. Run once, on an empty volume.
\getenv airflow POSTGRES_AIRFLOW_PASSWORD
\getenv celery POSTGRES_CELERY_PASSWORD
\getenv mlflow POSTGRES_MLFLOW_PASSWORD
CREATE ROLE airflow LOGIN PASSWORD :'airflow';
CREATE ROLE celery LOGIN PASSWORD :'celery';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE airflow OWNER airflow;
CREATE DATABASE celery OWNER celery;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE airflow, celery, mlflow FROM PUBLIC;
