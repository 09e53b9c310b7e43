"""Every week, or when a partition asks for it, a challenger is trained.

Only a blessed one replaces the champion.

When: on the declared schedule, started once for a cause by a partition, or by hand with the partition as a
field. Changes: an MLflow run and model version, a row in `attempts`; when blessed, one commit to
`deployments`. Not blessed is an outcome: `promote` is skipped, its log has the verdict's sentence, nothing is
switched. With `gate.approval: human` a blessed one waits in `approve` for an answer under *Required actions*,
until the deadline, which means no. The next training doesn't wait for it; its verdict supersedes what waits.
With `training.ablation` the run in MLflow also gets what each group of features brings; nothing waits for it.
If it is red: `train` says how many matured partitions it needs and found; the rest name what to put right.
"""

from airflow.sdk import DAG, TaskGroup

from evergreen.assets import product
from evergreen.defaults import arguments, partition_field, scheduled
from evergreen.operators.approve import ApproveOperator
from evergreen.operators.train import (
    AblateOperator,
    EvaluateOperator,
    JudgeOperator,
    PromoteOperator,
    TrainOperator,
)
from include.spec import UseCase, read_all

RUNS = 16  # of a use case whose verdicts wait for a person; the waiting ones hold no worker


def training(spec: UseCase) -> DAG:
    """Return the training DAG of a use case."""
    human = spec.gate.approval == "human"
    with DAG(
        **arguments(spec, "training"),
        **scheduled(spec, spec.schedule.training),
        max_active_runs=RUNS if human else 1,
        params=partition_field(),
        doc_md=__doc__,
    ) as dag:
        with TaskGroup("train"):
            run = TrainOperator(task_id="fit", usecase=spec.name, max_active_tis_per_dag=1)
        with TaskGroup("evaluate"):
            evidence = EvaluateOperator(
                task_id="measure", usecase=spec.name, run=run.output, max_active_tis_per_dag=1
            )
            if spec.training.ablation:  # beside the verdict, which doesn't wait for it
                evidence >> AblateOperator(task_id="ablate", usecase=spec.name, max_active_tis_per_dag=1)
        with TaskGroup("judge"):
            verdict = JudgeOperator(task_id="decide", usecase=spec.name, evidence=evidence.output)
        with TaskGroup("promote"):
            switch = PromoteOperator(
                task_id="switch",
                usecase=spec.name,
                verdict=verdict.output,
                trigger_rule="none_failed",  # the ledger says whether it may, and its log why not
                outlets=[product(spec.name, "switches")],
            )
        if human:
            with TaskGroup("approve"):
                ask = ApproveOperator(
                    task_id="ask", usecase=spec.name, verdict=verdict.output, hours=spec.gate.approval_hours
                )
            ask >> switch
    return dag


for use_case in read_all()[0]:
    globals()[f"{use_case.name}__training"] = training(use_case)
