"""Partition: what a run is for, before anything of it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.operators.base import EvergreenOperator, partition_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class CheckPartitionOperator(EvergreenOperator):
    """Refuse a run without a partition, or whose partition the schedule doesn't have, in one red task.

    Reads the declaration and writes nothing.
    """

    def execute(self, context: Context) -> str:
        """Return the partition."""
        from include.spec import load

        with self.no_retry_on_final_errors():
            return partition_of(context, load(self.usecase))
