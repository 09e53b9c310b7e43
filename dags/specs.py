"""No DAG: Airflow shows a declaration that can't be read as this page's error; only its own DAGs are missing.

Airflow passes over a page in which its own name and the word DAG don't both stand.
"""

from include.spec import SpecError, read_all

unreadable = read_all()[1]
if unreadable:
    raise SpecError("; ".join(map(str, unreadable)))
