"""Which partitions messages mean, the batch run of each, and whether the queue is watched at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from evergreen.operators.base import EvergreenOperator, add_log_fields, start_run
from include.errors import PartitionError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.spec import UseCase

MAX_PARTITIONS = 100  # of one run; a backfill is the way to more
MAX_RUNS = 100  # of one partition that messages start
MAX_SILENCE = timedelta(minutes=15)  # the watcher reports every five
MAX_UNFINISHED = 3  # of these at a time, so that one of the batch DAG's four is left to the schedule


class ReadMessagesOperator(EvergreenOperator):
    """Read which partitions the messages mean that arrived since the last run; by hand, the newest.

    A malformed message, and one about a partition that is still to come or that the schedule doesn't have, is
    logged and ignored. Writes nothing.
    """

    def execute(self, context: Context) -> list[str]:
        """Return the partitions, each once."""
        with self.open_use_case() as (_, spec):
            return self._partitions(context, spec)

    def _partitions(self, context: Context, spec: UseCase) -> list[str]:
        from include.ops.events import meant_partition

        events = [event for events in context["triggering_asset_events"].values() for event in events]
        if events:
            # those that came while Airflow created this run would wait for the next message
            (queue,), since = self.inlets, context["dag_run"].run_after
            events += context["inlet_events"][queue].after(since.isoformat())
        partitions: dict[str, None] = {}
        hints = {
            json.dumps(hint, sort_keys=True): hint for hint in (e.extra.get("payload") or {} for e in events)
        }
        for hint in hints.values() if events else [{}]:
            if "malformed" in hint:
                self.log.warning("Ignored: a message that names no partition: %s", hint["malformed"])
                continue
            try:
                partitions[meant_partition(spec, hint, datetime.now(UTC))] = None
            except PartitionError as error:
                self.log.warning("Ignored: %s", error)
        self.log.info("Messages name these partitions: %s", ", ".join(partitions) or "none")
        if left := sorted(partitions)[:-MAX_PARTITIONS]:
            self.log.warning("Left to a backfill: %d partitions, %s to %s", len(left), left[0], left[-1])
        return sorted(partitions)[-MAX_PARTITIONS:]


class StartPartitionOperator(EvergreenOperator):
    """Start the batch run of a partition, unless its sources and predictions are published.

    It is also skipped while three runs that messages started for the partition haven't ended.

    :param partition: its key.
    """

    template_fields = ("partition",)

    def __init__(self, *, partition: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partition = partition

    def execute(self, context: Context) -> None:
        """Trigger the run, or skip with the reason."""
        from include.ops.events import is_complete

        add_log_fields(partition=self.partition)
        with self.open_use_case() as (lake, spec):
            complete = is_complete(lake, spec, self.partition)
        if complete:
            self.skip_task(f"{self.partition} is complete: its sources and predictions are published")
        dag, count_runs = f"{self.usecase}__batch", context["ti"].get_dr_count
        names = [f"event__{self.partition}__{number}" for number in range(MAX_RUNS)]
        if count_runs(dag_id=dag, run_ids=names, states=["queued", "running"]) >= MAX_UNFINISHED:
            self.skip_task(f"{MAX_UNFINISHED} runs of {self.partition} that messages started haven't ended")
        number = count_runs(dag_id=dag, run_ids=names)
        if number == MAX_RUNS:
            raise AirflowFailException(
                f"{self.usecase} {self.partition}: expected its sources and predictions to be "
                f"published after {MAX_RUNS} runs that messages started, but they aren't; "
                f"read the log of the last run of {dag}"
            )
        start_run(dag, names[number], {"partition": self.partition})


class CheckWatcherOperator(EvergreenOperator):
    """Alert if the watcher of `schedule.events` hasn't tried the queue for a quarter of an hour.

    Airflow says nothing while the triggerer is down or the events DAG is paused. Of a queue that can't be
    reached the watcher itself alerts. Only scheduled runs check.
    """

    def execute(self, context: Context) -> None:
        """Return if it has; alert after the last retry, since Airflow may have started with this run."""
        from evergreen.queue_trigger import notify_outage
        from include.ops.events import HEARTBEAT

        if context["dag_run"].run_type != "scheduled":
            self.skip_task("only scheduled runs check the watcher")
        with self.open_use_case() as (lake, _):
            heartbeat = json.loads(lake.get(HEARTBEAT) or "{}")
        since = datetime.fromisoformat(heartbeat["at"]) if heartbeat else None
        if since and datetime.now(UTC) - since <= MAX_SILENCE:
            return
        problem = f"nothing watches it; unpause {self.usecase}__events and check Airflow's triggerer"
        if context["ti"].try_number <= context["ti"].max_tries:
            raise AirflowException(problem)
        if not notify_outage(self.usecase, problem, since):
            raise AirflowFailException(
                "could not notify everybody: see the log, then clear this task to retry"
            )
