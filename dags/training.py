"""Train on schedule or on request; the recipe with the lowest recent loss serves if the gate accepts its fit.

## When

On the declared schedule, when monitoring requests a training, or by hand with the partition in the form.

## Changes

An MLflow run and model version, and a row in `attempts`; if blessed, one commit to `switches`. Not blessed
is an outcome, not an error: `promote` is skipped, its log has the verdict, and nothing is switched. With
`gate.approval` a blessed challenger waits in `approve` for an answer under *Required actions*. No answer by
the deadline means rejected. The next training doesn't wait; its verdict supersedes the waiting one. With
`training.ablation` the MLflow run also records what each group of features contributes; nothing waits for it.

## If it is red

The log of `train` states how many partitions with labels it needs and has; the logs of the other tasks name
the remedy.
"""

from airflow.sdk import DAG, TaskGroup

from evergreen.assets import product
from evergreen.defaults import NEEDS_MLFLOW, arguments, partition_field, scheduled, use_cases
from evergreen.operators.approve import ApproveOperator
from evergreen.operators.train import (
    AblateOperator,
    EvaluateOperator,
    JudgeOperator,
    PromoteOperator,
    TrainOperator,
)
from include.spec import UseCase

MAX_WAITING_RUNS = 16  # of a use case with human approval; a waiting run occupies no worker


def training(spec: UseCase) -> DAG:
    """Return the training DAG of a use case."""
    human = spec.gate.approval != "none"
    with DAG(
        **arguments(spec, "training", __doc__),
        **scheduled(spec, spec.schedule.training),
        max_active_runs=MAX_WAITING_RUNS if human else 1,
    ) as dag:
        with TaskGroup("train"):
            run = TrainOperator(
                task_id="fit",
                usecase=spec.name,
                max_active_tis_per_dag=1,
                inlets=[product(spec.name, name) for name in spec.sources],
                **NEEDS_MLFLOW,
            )
        with TaskGroup("evaluate"):
            evidence = EvaluateOperator(
                task_id="measure",
                usecase=spec.name,
                run=run.output,
                max_active_tis_per_dag=1,
                **NEEDS_MLFLOW,
            )
            if spec.training.ablation:  # in parallel with the verdict, which doesn't wait for it
                evidence >> AblateOperator(
                    task_id="ablate", usecase=spec.name, max_active_tis_per_dag=1, **NEEDS_MLFLOW
                )
        with TaskGroup("judge"):
            verdict = JudgeOperator(task_id="decide", usecase=spec.name, evidence=evidence.output)
        with TaskGroup("promote"):
            switch = PromoteOperator(
                task_id="switch",
                usecase=spec.name,
                verdict=verdict.output,
                trigger_rule="none_failed",  # the ledger decides; the task's log states why not
                outlets=[product(spec.name, "switches")],
            )
        if human:
            with TaskGroup("approve"):
                ask = ApproveOperator(
                    task_id="ask", usecase=spec.name, verdict=verdict.output, hours=spec.gate.approval_hours
                )
            ask >> switch
    # after the tasks, into each of which Airflow would copy and store them
    dag.params.update(partition_field(spec))
    return dag


for use_case in use_cases():
    globals()[f"{use_case.name}__training"] = training(use_case)
