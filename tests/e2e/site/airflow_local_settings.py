"""The shipped local settings, and a hook by which a test kills a task before a chosen write, once.

It also prints whether a task's process had the heavy libraries before it imported any.
A file named like a run and its task in the folder EVERGREEN_KILL holds the write's number; the kill uses it
up.
"""

import os
import runpy
import sys
from pathlib import Path

__all__ = ["task_policy"]

HEAVY = ("pandas", "sklearn", "mlflow", "great_expectations", "evidently", "deltalake", "duckdb")
SHIPPED = Path(__file__).parents[3] / "deploy" / "airflow" / "airflow_local_settings.py"
runpy.run_path(str(SHIPPED))  # its imports stay in sys.modules: the parent is as warm as ever


def task_policy(task):
    """Arm the tasks of the use cases in which a test kills one."""
    killed = ("weekly_killed__", "weekly_asking__", "weekly_sharded__", "weekly_workers__")
    if task.dag_id.startswith(killed):
        if task.is_mapped:  # whose tasks are made later
            task.operator_class.pre_execute = lambda self, context: arm(context)
        else:
            task._pre_execute_hook = arm


def arm(context):
    """Count the writes of this task's process from now on, and die before the one that was asked for."""
    print("warm:", all(name in sys.modules for name in HEAVY))
    order = Path(os.environ["EVERGREEN_KILL"], f"{context['ti'].run_id} {context['ti'].task_id}")
    if order.exists():
        number = int(order.read_text())
        order.unlink()
        from tests.faults.killer import count_writes, die

        count_writes(lambda write: write == number and die())
