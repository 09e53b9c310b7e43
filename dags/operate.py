"""What a person starts: check the lake, back it up, draw its year, roll back, force, or withdraw a partition.

When: by hand, from the form. The last three need a logged-in person and *Why*; the ledger keeps both.
Changes: `verify` nothing; `back up` adds what is new to EVERGREEN_BACKUP; `redraw the year` replaces that;
`roll back` and `force` one row of each role in `deployments`, from the next partition on. What was forced
shows as forced for good. `withdraw` removes a partition that the schedule never had, or that is still to
come, and sets its rows aside. If it is red: the log says what was required, what was found and the remedy;
nothing was switched.
"""

from airflow.sdk import DAG, Param

from evergreen.defaults import arguments
from evergreen.operators.operate import ACTIONS, OperateOperator
from include.spec import UseCase, read_all


def _optional(title: str, description: str) -> Param:
    """Return a field that may stay empty: each action needs other fields, and the task checks them."""
    return Param(None, type=["null", "string"], title=title, description=description)


def operate(spec: UseCase) -> DAG:
    """Return the DAG of a use case's manual actions."""
    form = {
        "action": Param("verify", type="string", enum=ACTIONS, title="What to do"),
        "reason": _optional("Why", "Required to roll back, to force or to withdraw; the ledger keeps it"),
        "version": _optional("Version", "To roll back to; empty: the previous one"),
        "attempt": _optional("Attempt", "Required to force: its partition, or the beginning of its key"),
        "partition": _optional("Partition", "Required to withdraw, as 2013-03-01"),
    }
    with DAG(
        **arguments(spec, "operate"), schedule=None, max_active_runs=1, params=form, doc_md=__doc__
    ) as dag:
        OperateOperator(task_id="operate", usecase=spec.name, retries=0)
    return dag


for use_case in read_all()[0]:
    globals()[f"{use_case.name}__operate"] = operate(use_case)
