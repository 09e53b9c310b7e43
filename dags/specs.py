"""Show invalid declarations as import errors in Airflow's UI; this file has no DAG.

Only the DAGs of an invalid use case are missing. Airflow parses only files that contain the words "airflow"
and "DAG", as this docstring does.
"""

from include.spec import SpecError, read_all

unreadable = read_all()[1]
if unreadable:
    raise SpecError("; ".join(map(str, unreadable)))
