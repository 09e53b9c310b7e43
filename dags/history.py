"""A past range is loaded once, in a few large tasks: a first load, or a source that joins later.

When: by hand, with the range in the form. Each mapped task takes one source and one month, through the
functions that a partition uses, so loading a range and running its partitions leave the same rows.
Changes: the partitions of the range's partitions, each replaced whole.
If it is red: not one partition of that source's month could be published; the log names the first reason.
"""

from airflow.sdk import DAG, Param, TaskGroup

from evergreen.defaults import arguments
from evergreen.operators.ingest import IngestRangeOperator, PlanRangeOperator
from include.spec import UseCase, read_all


def history(spec: UseCase) -> DAG:
    """Return the history DAG of a use case."""
    form = {
        "first": Param(spec.schedule.start, type="string", format="date", title="First partition"),
        "last": Param(type="string", format="date", title="Last partition"),
    }
    dag = DAG(**arguments(spec, "history"), schedule=None, params=form, doc_md=__doc__)
    with dag, TaskGroup("ingest"):
        plan = PlanRangeOperator(task_id="plan", usecase=spec.name)
        IngestRangeOperator.partial(
            task_id="months",
            usecase=spec.name,
            map_index_template="{{ task.source }} {{ task.first }}..{{ task.last }}",
        ).expand_kwargs(plan.output)
    return dag


for use_case in read_all()[0]:
    globals()[f"{use_case.name}__history"] = history(use_case)
