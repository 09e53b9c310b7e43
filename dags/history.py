"""Load a past range of partitions in a few large tasks, at the start or when a source is added later.

## When

By hand, with the range in the form; it is clipped at the newest partition. Each mapped task loads one month
of one source, with the functions of the batch DAG, so the resulting rows are the same.

## Changes

The sources' rows of these partitions, each partition replaced as a whole. The run's note says which.

## If it is red

No partition of that month and source could be published; the log and the run's note have the first reason.
"""

from airflow.sdk import DAG, Param, TaskGroup

from evergreen.defaults import arguments, use_cases
from evergreen.operators.base import task_doc
from evergreen.operators.ingest import IngestRangeOperator, PlanRangeOperator
from evergreen.timetable import RangeTimetable
from include.spec import UseCase


def history(spec: UseCase) -> DAG:
    """Return the history DAG of a use case."""
    form = {
        "first": Param(spec.schedule.start, type="string", format="date", title="First partition"),
        "last": Param(type="string", format="date", title="Last partition"),
    }
    dag = DAG(**arguments(spec, "history", __doc__), schedule=RangeTimetable(spec.name), params=form)
    with dag, TaskGroup("ingest"):
        plan = PlanRangeOperator(task_id="plan", usecase=spec.name)
        IngestRangeOperator.partial(
            task_id="months",
            usecase=spec.name,
            map_index_template="{{ task.source }} {{ task.first }}..{{ task.last }}",
            doc_md=task_doc(IngestRangeOperator),
        ).expand_kwargs(plan.output)
    return dag


for use_case in use_cases():
    globals()[f"{use_case.name}__history"] = history(use_case)
