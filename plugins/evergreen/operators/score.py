"""The score task: every row of the partition gets a prediction from the fallback chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evergreen.operators.base import EvergreenOperator, connect, log_champion, partition_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class ScoreOperator(EvergreenOperator):
    """Predict the partition's rows and publish the predictions in one commit.

    Reads the validated partitions of the lookback, the ledger and the model in the lake; writes predictions
    and their profiles. First ingests the partitions of the lookback that weren't ingested yet, so that the
    order of a backfill doesn't matter, and retries those whose source was unavailable.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the partition's predictions."""
        from include.ingest.lookback import refresh_lookback
        from include.score.pipeline import score

        lake, spec = self.open()
        with self.no_retry_on_final_errors():
            partition = partition_of(context, spec)
            log_champion(lake, partition)
            for outcome in refresh_lookback(lake, spec, partition, connect):
                self.log.info("%s", outcome.note)
            return self.to_xcom(score(lake, spec, partition))
