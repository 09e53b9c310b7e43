"""The schedule of the batch and training DAGs, which also answers for the partitions that a person names.

Airflow asks a timetable for the moment of the partition key that a run is started with.
`CronPartitionTimetable` answers with midnight, also where the schedule has another hour, so that a backfill
would run the partition once more; and it accepts days that the use case has not had.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.trigger import CronPartitionTimetable

from include.errors import EvergreenError
from include.spec import load
from include.spec.clock import day_of
from include.spec.partition import check_partition


class UseCaseTimetable(CronPartitionTimetable):
    """A use case's schedule; each run has one partition, also a run that a person starts.

    :param cron: when it runs by itself.
    :param timezone: the zone in which cron and partitions are read.
    :param usecase: its name; the declaration is read when somebody names a partition.
    """

    def __init__(self, cron: str, *, timezone: str, usecase: str) -> None:
        super().__init__(cron, timezone=timezone, key_format="%Y-%m-%d")
        self.cron, self.zone, self.usecase = cron, timezone, usecase

    def serialize(self) -> dict[str, Any]:
        """Return what the scheduler and the API server need to know."""
        return {"cron": self.cron, "timezone": self.zone, "usecase": self.usecase}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> UseCaseTimetable:
        """Return the timetable that was serialized."""
        return cls(data["cron"], timezone=data["timezone"], usecase=data["usecase"])

    def _decode_partition_date(self, partition_key: str) -> datetime:
        """Return the moment of a partition that somebody names, or refuse it in a sentence."""
        try:
            check_partition(load(self.usecase), partition_key, datetime.now(UTC))
        except EvergreenError as error:
            raise InvalidPartitionKeyError(str(error)) from None
        midnight = self.localize_partition_datetime(datetime.combine(day_of(partition_key), time()))
        scheduled = self._align_to_next(midnight)
        # a training may be started for a partition on which none is scheduled
        return scheduled if self._format_key(scheduled) == partition_key else midnight
