"""The first task of a run: check that its partition is one of the schedule's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.operators.base import EvergreenOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class CheckPartitionOperator(EvergreenOperator):
    """Fail a run that has no partition, or one that the schedule doesn't have, before any other task starts.

    Reads the declaration and writes nothing.
    """

    def execute(self, context: Context) -> str:
        """Return the partition."""
        with self.running(context) as (_, _, partition):
            return partition
