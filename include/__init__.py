"""What Evergreen does, free of Airflow: the same functions serve a task, a shell, a notebook and a test."""
