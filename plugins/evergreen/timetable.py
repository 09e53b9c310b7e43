"""The timetables of the DAGs with partitions, which also validate what a person chose.

Airflow asks the timetable for the point in time of a run's partition key. `CronPartitionTimetable` returns
midnight even if the schedule has another hour, so a backfill would run the partition a second time. It also
accepts days that aren't on the use case's schedule. And where the clocks change, it and `include.spec.clock`
would differ in the runs of a schedule that fires more than once a day, so the latter decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.simple import NullTimetable
from airflow.timetables.trigger import CronPartitionTimetable
from pendulum import instance

from include.errors import EvergreenError
from include.spec import load
from include.spec.clock import Clock, day_of
from include.spec.partition import check_partition, last_of_range, missing_partition

if TYPE_CHECKING:
    from airflow.timetables.base import DagRunInfo
    from pendulum import DateTime

NO_PARTITION = "none"  # the key of a manual run whose form has an empty Partition; Airflow takes no empty key
RANGE = "--"  # as in ISO 8601, between the ends of a range in the key of its run; a run id takes no ".."


class UseCaseTimetable(CronPartitionTimetable):
    """A use case's schedule, in which each run has one partition, also a manual run.

    :param cron: the schedule of the runs.
    :param timezone: the time zone of the crons, and of partition keys that are dates.
    :param usecase: the use case's name; its declaration is read to validate a partition.
    :param batch: the schedule of the partitions, if it isn't that of the runs.
    """

    def __init__(self, cron: str, *, timezone: str, usecase: str, batch: str = "") -> None:
        super().__init__(cron, timezone=timezone, key_format="%Y-%m-%d")
        self.cron, self.zone, self.usecase, self.batch = cron, timezone, usecase, batch or cron
        self.runs, self.partitions = Clock(cron, timezone), Clock(self.batch, timezone)

    def serialize(self) -> dict[str, Any]:
        """Return the arguments, for the scheduler and the API server."""
        return {"cron": self.cron, "timezone": self.zone, "usecase": self.usecase, "batch": self.batch}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> UseCaseTimetable:
        """Return the timetable from its serialized arguments."""
        batch = data.get("batch", "")  # none in a DAG that an earlier version serialized
        return cls(data["cron"], timezone=data["timezone"], usecase=data["usecase"], batch=batch)

    def _get_next(self, current: DateTime) -> DateTime:
        if not self.runs.sub_daily:
            return super()._get_next(current)
        return instance(self.runs.decision_time(self.runs.after(self.runs.newest(current))))

    def _get_prev(self, current: DateTime) -> DateTime:
        if not self.runs.sub_daily:
            return super()._get_prev(current)
        return instance(self.runs.decision_time(self.runs.newest(current - timedelta(microseconds=1))))

    def _format_key(self, partition_date: DateTime) -> str:
        """Return the partition of a run: the newest one, if there are several a day."""
        if not self.partitions.sub_daily:
            return super()._format_key(partition_date)
        return self.partitions.newest(partition_date)

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterable[DagRunInfo]:
        """Return a backfill's runs; raise InvalidBackfillDateRange if any partition is invalid."""
        from airflow.models.backfill import InvalidBackfillDateRange  # it imports Airflow's database

        runs = list(super().iter_partition_dagrun_infos(earliest=earliest, latest=latest))
        spec, now = load(self.usecase), datetime.now(UTC)
        try:
            for run in runs:
                check_partition(spec, str(run.partition_key), now)
        except EvergreenError as error:
            raise InvalidBackfillDateRange(str(error)) from None
        return runs

    def _decode_partition_date(self, partition_key: str) -> datetime:
        """Return the point in time of a partition; raise InvalidPartitionKeyError if it isn't valid."""
        try:
            spec = load(self.usecase)
            if partition_key == NO_PARTITION:
                raise missing_partition(spec)
            check_partition(spec, partition_key, datetime.now(UTC))
        except EvergreenError as error:
            raise InvalidPartitionKeyError(str(error)) from None
        if self.partitions.sub_daily:
            earliest = instance(self.partitions.decision_time(partition_key))
        else:
            earliest = self.localize_partition_datetime(datetime.combine(day_of(partition_key), time()))
        scheduled = self._align_to_next(earliest)
        # a training can be triggered for a partition without a scheduled one
        return scheduled if self._format_key(scheduled) == partition_key else earliest


class RangeTimetable(NullTimetable):
    """No schedule: each run is started by a person, and its key is a range of partitions.

    :param usecase: the use case's name; its declaration is read to validate a range.
    """

    partitioned_at_runtime = True  # Airflow takes a run's key without having a partition for it

    def __init__(self, usecase: str) -> None:
        super().__init__()
        self.usecase = usecase

    def serialize(self) -> dict[str, Any]:
        """Return the argument, for the scheduler and the API server."""
        return {"usecase": self.usecase}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> RangeTimetable:
        """Return the timetable from its serialized argument."""
        return cls(data["usecase"])

    def resolve_partition_date(self, partition_key: str | None) -> None:
        """Raise InvalidPartitionKeyError if the range isn't valid; a range has no date."""
        if partition_key is not None:
            first, _, last = partition_key.partition(RANGE)
            try:
                last_of_range(load(self.usecase), first, last, datetime.now(UTC))
            except EvergreenError as error:
                raise InvalidPartitionKeyError(str(error)) from None
