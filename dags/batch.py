"""Every partition: what became known is ingested, tomorrow's rows are scored, and what came true is compared.

When: on the declared schedule, one run a partition; a backfill from the UI takes any past range, in any
order. Changes: the partition's own partitions, each replaced whole, so a run may be cleared and run again.
The newest partition also takes the step that live labels ask for, of a model in shadow or canary or just
promoted. If it is red: an `ingest` task says which file or rows, what was expected and the remedy; the
partition goes on without that source. A red `monitor` means that nothing was predicted. A red
`check_partition` names what is wrong with the partition, and nothing else has run. See the Overview link of
any task.
"""

from functools import partial

from airflow.sdk import DAG, Param, TaskGroup

from evergreen.assets import product
from evergreen.deadline import due
from evergreen.defaults import arguments, partition_field, scheduled
from evergreen.operators.ingest import IngestOperator
from evergreen.operators.monitor import AlertOperator, MonitorOperator, RequestTrainingOperator
from evergreen.operators.partition import CheckPartitionOperator
from evergreen.operators.rollout import AdvanceOperator
from evergreen.operators.score import ScoreOperator
from include.spec import UseCase, read_all

ANEW = Param(False, type="boolean", title="Fetch anew", description="Other content enters as a revision")


def batch(spec: UseCase) -> DAG:
    """Return the batch DAG of a use case."""
    made = partial(product, spec.name)
    with DAG(
        **arguments(spec, "batch"),
        **scheduled(spec, spec.schedule.batch),
        max_active_runs=4,
        params=partition_field(fetch_anew=ANEW),
        deadline=due(spec),
        doc_md=__doc__,
    ) as dag:
        # as a setup, it also stops the tasks that run whatever becomes of those before them
        check = CheckPartitionOperator(task_id="check_partition", usecase=spec.name).as_setup()
        with TaskGroup("ingest") as ingest:
            for name in spec.sources:
                IngestOperator(task_id=name, usecase=spec.name, source=name, outlets=[made(name)])
        with TaskGroup("score") as score:
            ScoreOperator(
                task_id="predict", usecase=spec.name, trigger_rule="all_done", outlets=[made("predictions")]
            )
        with TaskGroup("monitor") as monitor:
            watch = MonitorOperator(
                task_id="watch",
                usecase=spec.name,
                trigger_rule="all_done",
                outlets=[made("findings"), made("decisions")],
            )
            # also of a partition that nobody could score, whose watch is red
            alert = AlertOperator(task_id="alert", usecase=spec.name, trigger_rule="all_done")
            watch >> [RequestTrainingOperator(task_id="ask_training", usecase=spec.name), alert]
        with TaskGroup("rollout") as rollout:
            AdvanceOperator(
                task_id="advance",
                usecase=spec.name,
                trigger_rule="all_done",  # labels come also on a partition that nobody could score
                outlets=[made("switches")],
            )
        check >> ingest >> score >> [monitor, rollout]
    return dag


for use_case in read_all()[0]:
    globals()[f"{use_case.name}__batch"] = batch(use_case)
