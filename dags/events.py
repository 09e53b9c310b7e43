"""A message starts a partition's batch run before the schedule would, and that of each horizon.

## When

Whenever messages arrived at the queue that `schedule.events` names, or by hand, for the newest
partition that is due. Messages that arrive while a run works are read together by the next one.

## Changes

Nothing itself: it starts runs of the batch DAG, which read their sources as any other run does. A partition
whose sources and predictions are published isn't run again, so duplicates cost nothing. The schedule goes on,
which makes up for lost messages.

## If it is red

The log names the partition that messages keep starting and that keeps failing. If the queue can't be reached,
nothing here is red: an alert goes to `alerts.to`.
"""

from airflow.sdk import DAG, Asset, AssetWatcher

from evergreen.assets import SCHEME
from evergreen.defaults import arguments, use_cases
from evergreen.operators.base import task_doc
from evergreen.operators.events import ReadMessagesOperator, StartPartitionOperator
from evergreen.queue_trigger import QueueTrigger
from include.spec import UseCase, read_all


def events(spec: UseCase) -> DAG:
    """Return the events DAG of a use case that declares a queue."""
    queue = spec.schedule.events
    assert queue is not None
    trigger = QueueTrigger(spec.name, **queue.model_dump())
    messages = Asset(
        name=f"{spec.name}__events",
        uri=f"{SCHEME}://{spec.name}/__events",
        group="evergreen",
        watchers=[AssetWatcher(name=f"{spec.name}__events", trigger=trigger)],
    )
    dag = DAG(**arguments(spec, "events", __doc__), schedule=[messages], max_active_runs=1)
    with dag:
        partitions = ReadMessagesOperator(
            task_id="read_messages", usecase=spec.name, inlets=[messages]
        ).output
        StartPartitionOperator.partial(
            task_id="start_partition",
            map_index_template="{{ task.usecase }} {{ task.partition }}",
            doc_md=task_doc(StartPartitionOperator),
        ).expand(partition=partitions, usecase=[spec.name, *_horizons(spec)])
    return dag


def _horizons(spec: UseCase) -> list[str]:
    """Return the names of a declaration's valid horizons."""
    names = (f"{spec.name}_{horizon}" for horizon in spec.horizons)
    return [use_case.name for name in names for use_case in read_all(name)[0]]


for use_case in use_cases():
    # horizons share the queue; Kafka and SQS give each message to one listener only
    if use_case.schedule.events and not use_case.horizon:
        globals()[f"{use_case.name}__events"] = events(use_case)
