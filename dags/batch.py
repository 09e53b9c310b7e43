"""Each partition is ingested, scored and monitored, and a model on trial takes its next step.

## When

On the declared schedule, one run per partition. A backfill from the UI takes any past range, in any order.

## Changes

The rows of this partition, replaced as a whole, so a run is idempotent and can be cleared. On the newest
partition a model in shadow or canary, or a newly promoted one, may also step forward or back.

## If it is red

The log of an `ingest` task names the file or rows, what was required and the remedy; the partition goes on
without that source. A red `monitor.check` means that nothing was predicted; a red `monitor.alert`, that a
recipient couldn't be reached. A red `check_partition` states what is wrong with the partition; nothing else
has run. The Overview link of any task leads to the use case's page.
"""

from functools import partial

from airflow.sdk import DAG, Param, TaskGroup

from evergreen.assets import product
from evergreen.deadline import due
from evergreen.defaults import arguments, partition_field, scheduled, use_cases
from evergreen.operators.base import CheckPartitionOperator, task_doc
from evergreen.operators.events import CheckWatcherOperator
from evergreen.operators.ingest import IngestOperator
from evergreen.operators.monitor import AlertOperator, MonitorOperator, RequestTrainingOperator
from evergreen.operators.rollout import AdvanceOperator
from evergreen.operators.score import PlanShardsOperator, ScoreOperator, ShardOperator
from include.spec import UseCase

REFETCH = Param(
    False, type="boolean", title="Refetch", description="Different content becomes a new revision"
)


def batch(spec: UseCase) -> DAG:
    """Return the batch DAG of a use case."""
    asset = partial(product, spec.name)
    sources, labels = [asset(name) for name in spec.sources], asset(spec.labels.source)
    with DAG(
        **arguments(spec, "batch", __doc__),
        **scheduled(spec, spec.schedule.batch),
        max_active_runs=4,
        deadline=due(spec),
    ) as dag:
        # a failed setup also stops the tasks with trigger_rule all_done
        check = CheckPartitionOperator(task_id="check_partition", usecase=spec.name).as_setup()
        with TaskGroup("ingest") as ingest:
            for name in spec.sources:
                IngestOperator(task_id=name, usecase=spec.name, source=name, outlets=[asset(name)])
        with TaskGroup("score") as score:
            predict = partial(
                ScoreOperator,
                task_id="predict",
                usecase=spec.name,
                inlets=sources,
                outlets=[asset("features"), asset("predictions")],
            )
            if spec.scoring.shards > 1:
                plan = PlanShardsOperator(task_id="plan", usecase=spec.name, trigger_rule="all_done")
                shard = ShardOperator.partial(
                    task_id="shard", usecase=spec.name, doc_md=task_doc(ShardOperator)
                ).expand(shard=plan.output)
                # without shards, which are skipped then, it scores the partition by itself
                shard >> predict(shards=plan.output, trigger_rule="none_failed")
            else:
                predict(trigger_rule="all_done")
        with TaskGroup("monitor") as monitor:
            monitored = MonitorOperator(
                task_id="check",
                usecase=spec.name,
                trigger_rule="all_done",
                inlets=[asset("features"), asset("predictions"), labels],
                outlets=[asset("findings"), asset("decisions")],
            )
            # also for a partition that could not be scored, whose `check` fails
            alert = AlertOperator(task_id="alert", usecase=spec.name, trigger_rule="all_done")
            monitored >> [RequestTrainingOperator(task_id="request_training", usecase=spec.name), alert]
            if spec.schedule.events and not spec.horizon:  # the declaration's own DAG watches for all
                CheckWatcherOperator(task_id="check_watcher", usecase=spec.name, trigger_rule="all_done")
        with TaskGroup("rollout") as rollout:
            AdvanceOperator(
                task_id="advance",
                usecase=spec.name,
                trigger_rule="all_done",  # labels also arrive on a partition that could not be scored
                inlets=[asset("predictions"), labels],
                outlets=[asset("switches")],
            )
        check >> ingest >> score >> [monitor, rollout]
    # after the tasks, into each of which Airflow would copy and store them
    dag.params.update(partition_field(spec, refetch=REFETCH))
    return dag


for use_case in use_cases():
    globals()[f"{use_case.name}__batch"] = batch(use_case)
