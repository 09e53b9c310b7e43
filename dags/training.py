"""Every week, or when a night asks for it, a challenger is trained; only a blessed one replaces the champion.

When: on the declared schedule, started once for a cause by a night, or by hand with the night as a field.
Changes: an MLflow run and model version, a row in `attempts`; when blessed, one commit to `deployments`.
Not blessed is an outcome: `promote` is skipped, its log has the verdict's sentence, nothing is switched.
If it is red: `train` says how many matured nights it needs and found; the rest name what to put right.
"""

from airflow.sdk import DAG, CronPartitionTimetable, TaskGroup

from evergreen.assets import product
from evergreen.defaults import arguments, night_field
from evergreen.operators.train import EvaluateOperator, JudgeOperator, PromoteOperator, TrainOperator
from include.spec import UseCase, read_all


def training(spec: UseCase) -> DAG:
    """Return the training DAG of a use case."""
    clock = CronPartitionTimetable(
        spec.schedule.training, timezone=spec.schedule.timezone, key_format="%Y-%m-%d"
    )
    with DAG(
        **arguments(spec, "training"), schedule=clock, max_active_runs=1, params=night_field(), doc_md=__doc__
    ) as dag:
        with TaskGroup("train"):
            run = TrainOperator(task_id="fit", usecase=spec.name)
        with TaskGroup("evaluate"):
            evidence = EvaluateOperator(task_id="measure", usecase=spec.name, run=run.output)
        with TaskGroup("judge"):
            verdict = JudgeOperator(task_id="decide", usecase=spec.name, evidence=evidence.output)
        with TaskGroup("promote"):
            PromoteOperator(
                task_id="switch",
                usecase=spec.name,
                verdict=verdict.output,
                outlets=[product(spec.name, "champion")],
            )
    return dag


for use_case in read_all()[0]:
    globals()[f"{use_case.name}__training"] = training(use_case)
