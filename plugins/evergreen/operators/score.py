"""The score tasks: every row of the partition gets a prediction from the fallback chain."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from evergreen.operators.base import EvergreenOperator, connect, log_champion

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.references import Ref
    from include.spec import UseCase
    from include.storage.lake import Lake


class PlanShardsOperator(EvergreenOperator):
    """Fix what the partition's shards read: the tables' versions, and what was known at the decision.

    First ingests the partitions of the lookback that weren't ingested yet. Returns the key of each shard, or
    none where one task scores the partition, because it has predictions already or no rows.
    """

    def execute(self, context: Context) -> list[str]:
        """Return the keys of the shards."""
        from include.score.shards import plan_shards

        with self.open_partition(context) as (lake, spec, partition):
            _refresh_lookback(self, lake, spec, partition)
            keys = plan_shards(lake, spec, partition)
            self.log.info("%s", f"{len(keys)} shards" if keys else "One task scores the partition")
            return keys


class ShardOperator(EvergreenOperator):
    """Compute the features and predictions of one shard, which no other task reads or predicts.

    Reads the shard's share of the sources' rows, and all rows of sources that lack the entity. Stores the
    result beside the tables; nothing is published until all shards are stored.

    :param shard: its key, from the plan.
    """

    template_fields = ("shard",)

    def __init__(self, *, shard: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shard = shard

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the shard."""
        from include.score.shards import score_shard

        with self.open_partition(context) as (lake, spec, partition):
            log_champion(lake, partition)
            return self.to_xcom(score_shard(lake, spec, self.shard))


class ScoreOperator(EvergreenOperator):
    """Predict the partition's rows and publish the predictions in one commit.

    Reads the validated partitions of the lookback, the ledger and the model in the lake; writes predictions
    and their profiles. First ingests the partitions of the lookback that weren't ingested yet, so that the
    order of a backfill doesn't matter, and retries those whose source was unavailable. Where shards were
    planned, it publishes what they have computed.

    If the features of a scheduled partition can't be computed, they are tried again until the scoring
    deadline; the task is deferred meanwhile. Then a constant serves each row, with the error as the reason. A
    run by hand, or one that begins after the deadline, fails instead.

    :param shards: their keys, from the plan.
    """

    template_fields = ("shards",)

    def __init__(self, *, shards: Any = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shards = shards

    def execute(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Return the reference of the partition's predictions."""
        from include.score.predictions import features_reference
        from include.score.shards import publish_shards

        with self.open_partition(context) as (lake, spec, partition):
            log_champion(lake, partition)
            ref = publish_shards(lake, spec, partition, self.shards) if self.shards else None
            ref = ref or self._score(context, lake, spec, partition, event)
            self.add_event_metadata(context, "predictions", lake, "predictions", ref)
            self.add_event_metadata(context, "features", lake, "profiles", features_reference(lake, ref))
            return self.to_xcom(ref)

    def _score(self, context: Context, lake: Lake, spec: UseCase, partition: str, event: Any) -> Ref:
        """Score the partition in this task."""
        from include.errors import SpecError
        from include.score.pipeline import score

        _refresh_lookback(self, lake, spec, partition)
        try:
            return score(lake, spec, partition)
        except SpecError as error:
            deadline = spec.clock.local(partition, spec.scoring.deadline)
            # the first attempt after the deadline, as in a backfill: fail rather than serve a constant
            is_late = event is None and datetime.now(UTC) >= deadline
            if is_late or context["dag_run"].run_type != "scheduled":
                raise
            self.log.warning("%s", error)
            self.retry_before_deadline(spec, partition)
            return score(lake, spec, partition, requires_features=False)


def _refresh_lookback(task: EvergreenOperator, lake: Lake, spec: UseCase, partition: str) -> None:
    """Ingest the partitions of the lookback that weren't ingested yet, and log what became of them."""
    from include.ingest.late_sources import refresh_lookback

    for outcome in refresh_lookback(lake, spec, partition, connect):
        task.log.log(logging.WARNING if outcome.error else logging.INFO, "%s", outcome.note)
