"""The score task: every row of the partition gets a prediction from the fallback chain."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from evergreen.operators.base import EvergreenOperator, connect, log_champion, partition_of
from include.references import Ref, digest_json

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.storage.lake import Lake


class ScoreOperator(EvergreenOperator):
    """Predict the partition's rows and publish the predictions in one commit.

    Reads the validated partitions of the lookback, the ledger and the model in the lake; writes predictions
    and their profiles. First ingests the partitions of the lookback that weren't ingested yet, so that the
    order of a backfill doesn't matter, and retries those whose source was unavailable.

    If the features of a scheduled partition can't be computed, they are tried again until the scoring
    deadline; the task is deferred meanwhile. Then the prior serves each row, with the error as the reason. A
    run by hand, or one that begins after the deadline, fails instead.
    """

    def execute(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Return the reference of the partition's predictions."""
        from include.errors import SpecError
        from include.ingest.lookback import refresh_lookback
        from include.score.pipeline import score

        lake, spec = self.open()
        with self.fail_without_retry():
            partition = partition_of(context, spec)
            log_champion(lake, partition)
            for outcome in refresh_lookback(lake, spec, partition, connect):
                self.log.info("%s", outcome.note)
            try:
                ref = score(lake, spec, partition)
            except SpecError as error:
                deadline = spec.clock.local(partition, spec.scoring.deadline)
                is_late = event is None and datetime.now(UTC) >= deadline  # as in a backfill
                if is_late or context["dag_run"].run_type != "scheduled":
                    raise
                self.log.warning("%s", error)
                self.defer_until_deadline(spec, partition)
                ref = score(lake, spec, partition, requires_features=False)
        self.describe_event(context, "predictions", lake, "predictions", ref)
        features = replace(ref, digest=self._input_digest(lake, ref))
        self.describe_event(context, "features", lake, "profiles", features)
        return self.to_xcom(ref)

    @staticmethod
    def _input_digest(lake: Lake, ref: Ref) -> str:
        """Return the digest of what the features come from: the sources' rows and the declaration."""
        (row,) = lake.rows("partitions", {"product": "predictions", "partition": ref.partition})
        inputs = {name: digest for name, digest in json.loads(row["inputs"]).items() if name != "model"}
        return digest_json([inputs, row["spec"]])
