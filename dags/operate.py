"""Manual actions: verify, back up, roll back, force, withdraw, silence an alert.

## When

By hand, from the form. The actions from `roll back` on need a logged-in person and *Why*; a ledger records
both.

## Changes

`verify` changes nothing. `back up` adds new objects to EVERGREEN_BACKUP. `roll back` and `force` switch the
serving model from the next partition on, in one commit to `switches`; a forced model stays marked as
forced. `withdraw` removes a partition that is off the schedule, in the future, or was run too far ahead of
the others, and stores a copy of its rows. `acknowledge` and `mute` add a row to `silences`: an acknowledged
alert isn't sent again while it persists, a muted one isn't sent up to the partition that the form names.

## If it is red

The run's note, and the first line of the task's own log, state what was required, what was found and the
remedy. Nothing was switched.
"""

from airflow.sdk import DAG, Param

from evergreen.defaults import arguments, example, use_cases
from evergreen.operators.operate import ACTIONS, OperateOperator
from include.spec import UseCase


def _optional(title: str, description: str) -> Param:
    """Return an optional field; the task checks which fields its action needs."""
    return Param(None, type=["null", "string"], title=title, description=description)


def operate(spec: UseCase) -> DAG:
    """Return the DAG of a use case's manual actions."""
    form = {
        "action": Param("verify", type="string", enum=ACTIONS, title="What to do"),
        "reason": _optional("Why", "Required to roll back, force, withdraw, acknowledge and mute; recorded"),
        "version": _optional("Version", "The version to roll back to; empty: the previous champion"),
        "attempt": _optional(
            "Attempt", "Required to force: the attempt's partition, or the beginning of its key"
        ),
        "partition": _optional(
            "Partition",
            f"Required to withdraw; and to mute, the last muted one. {example(spec)}",
        ),
        "alert": _optional("Alert", "Required to acknowledge or mute: as the alerts page names it"),
    }
    with DAG(
        **arguments(spec, "operate", __doc__),
        schedule=None,
        is_paused_upon_creation=False,  # nothing starts it but a person
        max_active_runs=1,
        params=form,
    ) as dag:
        OperateOperator(task_id="operate", usecase=spec.name, retries=0)
    return dag


for use_case in use_cases():
    globals()[f"{use_case.name}__operate"] = operate(use_case)
